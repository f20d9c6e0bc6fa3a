"""`ichx data`: datasets."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ichx.cli.confirmation import confirmed
from ichx.cli.data_duplicates import duplicates
from ichx.cli.data_formats import list_formats, write_layout
from ichx.cli.data_pseudo import pseudo
from ichx.cli.data_reviews import list_reviews
from ichx.cli.data_views import print_added, print_checked, print_dataset, print_decode_check
from ichx.cli.folds import folds as show_or_import_folds
from ichx.cli.mix import mix
from ichx.cli.output import console, info, print_json, progress, warn
from ichx.cli.parameters import (
    AsJson,
    Cpus,
    DatasetName,
    Detach,
    EngineOptions,
    Gpus,
    Memory,
    On,
    TimeLimit,
    Version,
)
from ichx.cli.placement import PlacementOptions
from ichx.cli.session import session
from ichx.cli.tables import print_table

if TYPE_CHECKING:
    from ichx.cache.hu_cache import CacheSpec
    from ichx.cache.verify import FoundCache
    from ichx.store import Dataset, DatasetVersion

IdKindChoice = Literal[
    "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "AccessionNumber", "PatientID", "folder", "file"
]

app = typer.Typer(help="Datasets: add, inspect, check and cache CT slices.", no_args_is_help=True)


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="Name of the dataset; a known name gets a new version.")],
    path: Annotated[
        Path, typer.Argument(help="Folder or zip with DICOM or NIfTI files; ZIP/FOLDER for a part of a zip.")
    ],
    format_: Annotated[
        str | None, typer.Option("--format", help="Format of a public dataset; `ichx data formats` lists them.")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="Label CSV: `ID,Label`, or `image` and six columns; .gz, ZIP/CSV; or CSV, XLSX by columns."),
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", help="LABEL=COLUMN of the spreadsheet, e.g. any=ICH; repeatable.")
    ] = None,
    id_column: Annotated[str | None, typer.Option(help="Column of the spreadsheet with the ids.")] = None,
    id_kind: Annotated[
        IdKindChoice | None, typer.Option(help="What the ids are; default: as the column's name says, or what matches.")
    ] = None,
    level: Annotated[
        Literal["slice", "series", "study", "patient"] | None,
        typer.Option(help="What a row of the spreadsheet describes; default: as the ids say."),
    ] = None,
    sheet_name: Annotated[str | None, typer.Option("--sheet", help="Sheet of an XLSX with several.")] = None,
    test_of: Annotated[str | None, typer.Option(help="Labelled dataset to which this test set belongs.")] = None,
    sample: Annotated[Path | None, typer.Option(help="Sample submission, which lists the ids to predict.")] = None,
    masks: Annotated[
        Path | None,
        typer.Option(
            help="Folder or zip of masks, 0 or subtype 1 to 5: PNGs named by slice id, or NIfTIs named by volume."
        ),
    ] = None,
    folds: Annotated[int, typer.Option(help="Number of patient-grouped folds; 0 for a dataset to evaluate only.")] = 5,
    fold_seed: Annotated[int, typer.Option(help="Seed of the folds.")] = 0,
    keep_ids: Annotated[bool, typer.Option("--keep-ids", help="Store patient, study and series ids unhashed.")] = False,
    group_by: Annotated[
        Literal["patient", "study"],
        typer.Option(help="What a fold keeps together; study if PatientIDs are placeholders."),
    ] = "patient",
    series: Annotated[
        Literal["auto", "all"] | None,
        typer.Option(help="Series of a study; auto: one axial one, plain, soft kernel. Default: all, or the format's."),
    ] = None,
    format_options: Annotated[
        list[str] | None, typer.Option("--format-option", help="NAME=VALUE of an option of the format; repeatable.")
    ] = None,
    series_rules: Annotated[Path | None, typer.Option(help="TOML file with the rules of `--series auto`.")] = None,
    check_only: Annotated[
        bool, typer.Option("--check", help="Report what would be added and matched; add nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Add CT slices from a folder or zip as a dataset.

    A zip is read in place. Each file becomes a slice or a named defect. Adding a known dataset creates a new version if
    files, labels or folds have changed.

    Example: `ichx data add rsna stage_2_train --labels stage_2_train.csv`

    Example: `ichx data add rsna rsna.zip/stage_2_train --labels rsna.zip/stage_2_train.csv`

    Example: `ichx data add bhsd slices --labels labels.csv --masks masks`

    Example: `ichx data add rsna-test stage_2_test --test-of rsna --sample stage_2_sample_submission.csv`

    Example: `ichx data add ours export --series auto`

    Example: `ichx data add ours export --labels list.xlsx --id-column StudyInstanceUID --label any=ICH --check`
    """
    from ichx.datasets.add import AddRequest, add_dataset, check_dataset

    columns = None
    if label or id_column or id_kind or level or sheet_name:
        from ichx.datasets.label_sheet import SheetColumns

        columns = SheetColumns(id_column, _label_columns(label or []), sheet_name, id_kind, level)

    request = AddRequest(
        name,
        path,
        labels=labels,
        columns=columns,
        test_of=test_of,
        sample=sample,
        masks=masks,
        folds=folds,
        fold_seed=fold_seed,
        keep_ids=keep_ids,
        format=format_,
        group_by=group_by,
        format_options=_settings(format_options or [], "--format-option"),
        series=series,
        series_rules=series_rules,
    )
    with session(writes=True) as project, progress("reading headers") as report:
        if check_only:
            checked = check_dataset(project, request, progress=report)
        else:
            added = add_dataset(project, request, progress=report)
    if check_only:
        if as_json:
            print_json(checked)
        else:
            print_checked(name, checked)
        return
    if as_json:
        print_json(added)
    else:
        print_added(added)


@app.command("list")
def list_datasets(as_json: AsJson = False) -> None:
    """List the datasets.

    Example: `ichx data list`
    """
    with session() as project:
        datasets = project.store.datasets()
        newest = [project.store.version(dataset.name) for dataset in datasets]
    if as_json:
        print_json([{"dataset": d, "version": v} for d, v in zip(datasets, newest, strict=True)])
        return
    if not datasets:
        info("No dataset yet. Add one: `ichx data add NAME PATH --labels CSV`")
        return
    rows = [
        (
            dataset.name,
            _kind(dataset, version),
            version.number,
            version.slices,
            version.patients,
            version.defects,
            version.folds[0].k if version.folds else None,
            version.created,
        )
        for dataset, version in zip(datasets, newest, strict=True)
    ]
    heads = ("name", "type", "version", "slices", "patients", "excluded", "folds", "added")
    print_table("datasets", heads, rows, drop=("added", "version"), cut={"name": 16, "type": 14})


def _kind(dataset: "Dataset", version: "DatasetVersion") -> str:
    """Return what a dataset is, in a word or two."""
    if dataset.test_of:
        return f"test set of {dataset.test_of}"
    if version.part_names:
        return "mixture"
    if "pseudo" in version.summary:
        return "pseudo-labels"
    return "labelled" if dataset.trainable else "unlabelled"


@app.command("show")
def show(name: DatasetName, number: Version = None, as_json: AsJson = False) -> None:
    """Show counts, prevalences, folds, headers and defects.

    Example: `ichx data show rsna`
    """
    from ichx.datasets.dataset import describe_dataset
    from ichx.store import EvaluationCount

    with session() as project:
        facts = describe_dataset(project, name, number)
        facts["evaluations"] = EvaluationCount.of(project.store.evaluations(name))
    if as_json:
        print_json(facts)
    else:
        print_dataset(facts)


@app.command("check")
def check(name: DatasetName, number: Version = None, as_json: AsJson = False) -> None:
    """Decode every slice and report defects.

    An interrupted check resumes when rerun. Defects are no error: the exit code is 1 only if files are missing or have
    changed since the dataset was added.

    Example: `ichx data check rsna`
    """
    from ichx.cache.decode_check import check_dataset
    from ichx.text import format_count, format_examples

    with session() as project, progress("decoding") as report:
        checked = check_dataset(project, name, number, progress=report)
    if as_json:
        print_json(checked)
    else:
        print_decode_check(checked)
    if checked["new"]:
        new = checked["new"]
        count = format_count(len(new), "new file")
        warn(f"{count} not in the dataset{format_examples(new)}. Add with `ichx data add`.")


@app.command("sheet")
def sheet(
    name: DatasetName,
    out: Annotated[Path, typer.Option(help="PNG file to write.")],
    label: Annotated[str | None, typer.Option(help="Draw only slices that are positive for this label.")] = None,
    windows: Annotated[
        str, typer.Option(help="Comma-separated: file, brain, subdural, stroke, bone or CENTRE:WIDTH.")
    ] = "file,subdural,bone",
    sigmoid: Annotated[bool, typer.Option("--sigmoid", help="Use sigmoid windows instead of linear ones.")] = False,
    count: Annotated[int, typer.Option(help="Number of slices, spread evenly over the dataset.")] = 12,
    number: Version = None,
    as_json: AsJson = False,
) -> None:
    """Draw a contact sheet of slices with their labels.

    Shows the windows that a model receives as channels.

    Example: `ichx data sheet rsna --label subdural --windows brain,subdural --count 12 --out subdural.png`
    """
    from ichx.datasets.dataset import load_dataset
    from ichx.loading.contact_sheet import draw_sheet, parse_windows

    with session() as project:
        data = load_dataset(project, name, number)
        kind = "sigmoid" if sigmoid else "linear"
        drawn = draw_sheet(out, data, parse_windows(windows), kind=kind, count=count, label=label)
    if as_json:
        print_json({"sheet": drawn, "slices": data.slices["slice_id"].iloc[list(drawn.rows)].tolist()})
    else:
        size = f"{drawn.width} x {drawn.height} px"
        info(f"Drew {len(drawn.rows)} of {drawn.candidates:,} slices, {size}: {drawn.path}")


@app.command("phantom")
def phantom(
    folder: Annotated[Path, typer.Argument(help="Output folder; new or empty.")],
    patients: Annotated[int, typer.Option(help="Number of labelled patients; 0 writes a test set only.")] = 40,
    seed: Annotated[int, typer.Option(help="Seed; the same seed writes the same files.")] = 0,
    size: Annotated[int, typer.Option(help="Rows and columns of a slice.")] = 512,
    test_patients: Annotated[int, typer.Option(help="Number of further patients, for a test set.")] = 0,
    prevalence: Annotated[list[str] | None, typer.Option(help="LABEL=SHARE of positive slices; repeatable.")] = None,
    layout: Annotated[
        str | None, typer.Option(help="Format of a public dataset to imitate; `ichx data formats` lists them.")
    ] = None,
) -> None:
    """Write synthetic head CT studies with hemorrhages.

    Writes DICOM files in the RSNA layout, the label CSV and masks; with `--layout` the folders, names and tables of
    another public dataset.

    Example: `ichx data phantom phantom --patients 40 --seed 7 --prevalence any=0.4`

    Example: `ichx data phantom ct-ich --layout ct-ich --patients 8 --size 64`
    """
    if layout is not None:
        if test_patients or prevalence:
            raise typer.BadParameter("--layout excludes --test-patients and --prevalence.")
        write_layout(folder, layout, patients, seed, size)
        return
    from ichx.phantom.dicom_files import write_phantom
    from ichx.text import format_command

    with progress("writing studies") as report:
        written = write_phantom(
            folder,
            patients=patients,
            seed=seed,
            size=size,
            test_patients=test_patients,
            prevalence=_shares(prevalence) if prevalence else None,
            progress=report,
        )
    info(f"Wrote {written.train_slices:,} training and {written.test_slices:,} test slices to {written.folder}.")
    if written.train:
        masks = ["--masks", written.train_masks] if written.train_masks else []
        command = format_command("ichx data add phantom", written.train, "--labels", written.train_labels, *masks)
        info(f"Next: {command}")
    if written.test and written.train:
        sample = ("--test-of", "phantom", "--sample", written.sample_submission)
        info(f"Then: {format_command('ichx data add phantom-test', written.test, *sample)}")
    elif written.test:
        options = ("--labels", written.test_labels, "--folds", 0)
        info(f"Next: {format_command('ichx data add unseen', written.test, *options)}")


@app.command("cache")
def cache(
    context: typer.Context,
    name: DatasetName,
    size: Annotated[
        list[int] | None, typer.Option(min=16, max=4096, help="Size in pixels; repeat to build several in one pass.")
    ] = None,
    for_: Annotated[
        list[int] | None, typer.Option("--for", help="Build what this experiment reads; repeatable.")
    ] = None,
    centre: Annotated[Literal["none", "slice", "series"], typer.Option(help="Head centring for `--size`.")] = "slice",
    resize: Annotated[Literal["bilinear", "area"], typer.Option(help="Resize method for `--size`.")] = "bilinear",
    field: Annotated[
        float, typer.Option(min=0, max=1000, help="Edge in mm of the square around the head for `--size`; 0: all.")
    ] = 0.0,
    verify: Annotated[bool, typer.Option("--verify", help="Verify all checksums and remove damaged files.")] = False,
    part: Annotated[
        str | None, typer.Option(metavar="K/N", help="Build part K of N of the missing shards, for N machines.")
    ] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="Number of processes; default: one per core.")] = None,
    jobs: Annotated[int | None, typer.Option("--jobs", min=1, help="Number of jobs on a cluster; default: 1.")] = None,
    on: On = None,
    detach: Detach = False,
    cpus: Cpus = None,
    gpus: Gpus = None,
    memory: Memory = None,
    time_limit: TimeLimit = None,
    engine_options: EngineOptions = None,
    as_json: AsJson = False,
) -> None:
    """Decode slices once into HU caches, or list the caches.

    Without `--size` and `--for`, lists the caches. An interrupted build resumes when rerun. Builds of the same cache on
    one or several machines share the work. `ichx run` builds missing caches itself.

    Example: `ichx data cache rsna --size 378 --size 256`

    Example: `ichx data cache rsna --size 378 --part 2/8`

    Example: `ichx data cache rsna --for 6`

    Example: `ichx data cache rsna --verify`

    Example: `ichx data cache rsna --size 378 --on slurm --jobs 8 --cpus 16`
    """
    from ichx.cache.hu_cache import CacheSpec
    from ichx.cache.mixture_cache import build_dataset_caches, build_dataset_part
    from ichx.cache.parts import Part
    from ichx.cache.requests import list_caches, request_caches
    from ichx.cache.verify import foreign_caches, raise_if_damaged, verify_caches
    from ichx.text import format_examples

    specs = [CacheSpec(pixels, centre, resize, field) for pixels in size or ()]
    if verify and (specs or for_):
        raise typer.BadParameter("--verify checks all caches of the dataset. Leave out --size and --for.")
    if part is not None and not (specs or for_):
        raise typer.BadParameter("--part builds a part of a cache. Add --size or --for.")
    of_part = None if part is None else Part.parse(part)
    with session() as project:
        placement = PlacementOptions(on, detach, cpus, gpus, memory, time_limit, engine_options).place(
            project.workspace
        )
        build_here = placement.is_local or not (specs or for_) or part is not None
        if build_here and (jobs is not None or (placement.chosen and not placement.is_local)):
            raise typer.BadParameter("--on slurm and --jobs need --size or --for, without --part.")
        if not build_here:
            from ichx.cli.cache_jobs import build_on_cluster

            build_on_cluster(project, context, placement, specs, jobs or 1)
        for request in request_caches(project, name, specs, for_ or ()) if build_here else ():
            for plan in request.plans:
                info(str(plan))
            with progress(f"caching {name}") as report:
                data, plans = request.data, request.plans
                if of_part is None:
                    build_dataset_caches(data, plans, processes=processes, progress=report)
                else:
                    build_dataset_part(data, plans, of_part, processes=processes, progress=report)
        verified = []
        if verify:
            parts = project.store.version(name).part_names
            listed = [one for owner in (name, *parts) for one in list_caches(project, owner)]
            with progress("verifying shards") as report:
                verified = verify_caches(listed, processes=processes, progress=report)
        found = list_caches(project, name)
        foreign = foreign_caches(project.workspace.cache_dir, name)
    if foreign:
        warn(f"Caches of another version of ichx are never read and can be deleted{format_examples(map(str, foreign))}")
    if as_json:
        print_json({"caches": found, "verified": verified})
        if any(cache.damaged for cache in verified):
            raise typer.Exit(1)
        return
    _print_caches(name, found)
    raise_if_damaged(name, verified)


@app.command("series-rules")
def series_rules() -> None:
    """Print the default rules of `ichx data add --series auto` as TOML.

    Save them, change them, and give the file as `--series-rules`.

    Example: `ichx data series-rules > rules.toml`
    """
    from ichx.datasets.series_rules import default_rules_text

    typer.echo(default_rules_text(), nl=False)


app.command("mix")(mix)
app.command("formats")(list_formats)
app.command("duplicates")(duplicates)
app.command("folds")(show_or_import_folds)
app.command("pseudo")(pseudo)
app.command("reviews")(list_reviews)


@app.command("rm")
def rm(
    name: DatasetName,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without confirmation.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what would be deleted as JSON; delete nothing.")
    ] = False,
) -> None:
    """Delete an unused dataset with its caches and predictions.

    Refuses if an experiment or a test set uses the dataset. Lists everything with its size and asks for confirmation
    first. The DICOM files remain.

    Example: `ichx data rm rsna-test`
    """
    from ichx.cache.dataset_removal import dataset_artifacts, remove_dataset
    from ichx.text import format_bytes, format_count

    with session() as project:
        found = dataset_artifacts(project, name)
        if as_json:
            print_json(found)
            return
        root = project.workspace.root
        rows = [
            (b.what, b.path.relative_to(root) if b.path.is_relative_to(root) else b.path, format_bytes(b.nbytes))
            for b in found
        ]
        total = f"{format_count(len(found), 'item')}, {format_bytes(sum(b.nbytes for b in found))}"
        source = project.store.version(name).source
        print_table("", ("type", "path", "size"), rows, caption=f"{total}; the files in {source} remain")
        if not confirmed(f"Delete the dataset {name} and all of these items?", f"ichx data rm {name}", yes=yes):
            return
        remove_dataset(project, name)
    info(f"Deleted {name}: {total}.")


def _settings(texts: list[str], option: str) -> dict[str, str]:
    """Return the values of `NAME=VALUE` texts by name."""
    if invalid := [text for text in texts if "=" not in text]:
        problem = f"Invalid values: {', '.join(map(repr, invalid))}. Use NAME=VALUE."
        raise typer.BadParameter(problem, param_hint=option)
    return {name.strip(): value.strip() for name, _, value in (text.partition("=") for text in texts)}


def _label_columns(settings: list[str]) -> dict[str, str]:
    """Return the columns by label of settings like `any=ICH`."""
    pairs = [setting.partition("=") for setting in settings]
    if invalid := [text for text, (label, _, column) in zip(settings, pairs, strict=True) if not label or not column]:
        raise typer.BadParameter(f"Invalid values: {', '.join(map(repr, invalid))}. Use LABEL=COLUMN, e.g. any=ICH.")
    named = [label.strip() for label, _, _ in pairs]
    if twice := sorted({label for label in named if named.count(label) > 1}):
        raise typer.BadParameter(f"Several columns of {', '.join(twice)}. Name one column per label.")
    return {label.strip(): column.strip() for label, _, column in pairs}


def _shares(settings: list[str]) -> dict[str, float]:
    shares: dict[str, float] = {}
    invalid = []
    for setting in settings:
        label, _, text = setting.partition("=")
        try:
            shares[label.strip()] = float(text)
        except ValueError:
            invalid.append(setting)
    if invalid:
        problem = f"Invalid values: {', '.join(map(repr, invalid))}. Use LABEL=SHARE, e.g. any=0.4."
        raise typer.BadParameter(problem, param_hint="--prevalence")
    return shares


def _print_caches(name: str, found: "list[FoundCache]") -> None:
    from ichx.text import format_bytes

    def state(cache: "FoundCache") -> str:
        if cache.reads:
            return "reads its parts" if cache.complete else "lacks caches of its parts"
        if not cache.complete:
            return f"incomplete: {cache.shards:,} of {cache.of_shards:,} shards"
        return "complete" if cache.current else "complete, older version"

    def pixels(spec: "CacheSpec") -> int | str:
        return f"{spec.size}, {spec.field:g} mm" if spec.field else spec.size

    rows = [
        (pixels(c.spec), c.spec.centre, c.spec.resize, c.n, c.defects, format_bytes(c.nbytes), state(c), c.folder.name)
        for c in found
    ]
    heads = ("pixels", "centring", "resize", "slices", "excluded", "disk", "state", "folder")
    print_table(f"caches of {name}", heads, rows, drop=("folder",))
    if found:
        console.print(f"{format_bytes(sum(c.nbytes for c in found))} in {found[0].folder.parent}", markup=False)
