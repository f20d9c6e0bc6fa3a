"""`ichx data`: datasets."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ichx.cli.data_views import show_added, show_checked, show_facts
from ichx.cli.folds import folds as show_or_import_folds
from ichx.cli.output import console, info, print_json, progress, warn
from ichx.cli.session import session
from ichx.cli.tables import print_table

if TYPE_CHECKING:
    from ichx.cache.verify import FoundCache

app = typer.Typer(help="Datasets: CT slices in a folder or zip, with labels, and test sets.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="JSON on standard output.")]


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="The dataset's name; a known one gets a new version.")],
    path: Annotated[Path, typer.Argument(help="Folder tree or zip with DICOM files; ZIP/FOLDER for a part of a zip.")],
    labels: Annotated[
        Path | None, typer.Option(help="CSV: `ID,Label`, or `image` and six columns; .gz, ZIP/CSV.")
    ] = None,
    test_of: Annotated[str | None, typer.Option(help="The labelled dataset whose test set this is.")] = None,
    sample: Annotated[Path | None, typer.Option(help="Sample submission that says which ids are asked for.")] = None,
    masks: Annotated[
        Path | None, typer.Option(help="Folder or zip of masks: an 8-bit PNG by a slice's id, 0 or 1 to 5 a subtype.")
    ] = None,
    folds: Annotated[int, typer.Option(help="Number of patient-grouped folds.")] = 5,
    fold_seed: Annotated[int, typer.Option(help="Seed of the folds.")] = 0,
    keep_ids: Annotated[
        bool, typer.Option("--keep-ids", help="Keep ids of patients, studies, series unhashed.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Add the CT slices in a folder or a zip as a dataset; added again, a new version is made of what has changed.

    A zip is read in place. Every file is a slice or a named defect.

    Example: `ichx data add rsna stage_2_train --labels stage_2_train.csv`

    Example: `ichx data add rsna rsna.zip/stage_2_train --labels rsna.zip/stage_2_train.csv`

    Example: `ichx data add bhsd slices --labels labels.csv --masks masks`

    Example: `ichx data add rsna-test stage_2_test --test-of rsna --sample stage_2_sample_submission.csv`
    """
    from ichx.datasets.add import AddRequest, add_dataset

    with session() as project, progress("reading headers") as report:
        added = add_dataset(
            project,
            AddRequest(
                name,
                path,
                labels=labels,
                test_of=test_of,
                sample=sample,
                masks=masks,
                folds=folds,
                fold_seed=fold_seed,
                keep_ids=keep_ids,
            ),
            progress=report,
        )
    if as_json:
        print_json(added)
    else:
        show_added(added)


@app.command("list")
def list_datasets(as_json: AsJson = False) -> None:
    """List all datasets.

    Example: `ichx data list`
    """
    with session() as project:
        datasets = project.store.datasets()
        newest = [project.store.version(dataset.name) for dataset in datasets]
    if as_json:
        print_json([{"dataset": d, "version": v} for d, v in zip(datasets, newest, strict=True)])
        return
    rows = [
        (
            dataset.name,
            f"test set of {dataset.test_of}" if dataset.test_of else "labelled" if dataset.trainable else "unlabelled",
            version.number,
            version.slices,
            version.patients,
            version.defects,
            version.folds[0].k if version.folds else None,
            version.created,
        )
        for dataset, version in zip(datasets, newest, strict=True)
    ]
    heads = ("name", "what", "version", "slices", "patients", "left out", "folds", "added")
    print_table("datasets", heads, rows, drop=("added", "version"), cut={"name": 16, "what": 14})


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="The dataset's name.")],
    number: Annotated[int | None, typer.Option("--version", help="A version; the newest when left out.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a dataset holds: counts, prevalences, folds, headers, series, what is left out and why.

    Example: `ichx data show rsna`
    """
    from ichx.datasets.dataset import describe

    with session() as project:
        facts = describe(project, name, number)
    if as_json:
        print_json(facts)
    else:
        show_facts(facts)


@app.command("check")
def check(
    name: Annotated[str, typer.Argument(help="The dataset's name.")],
    number: Annotated[int | None, typer.Option("--version", help="A version; the newest when left out.")] = None,
    as_json: AsJson = False,
) -> None:
    """Decode every slice, and name what only decoding shows. Interrupted, it goes on when it is called again.

    Defects are facts: the exit code is 1 only where files are gone or have changed since the dataset was added.

    Example: `ichx data check rsna`
    """
    from ichx.cache.decode_check import check_dataset
    from ichx.text import format_examples

    with session() as project, progress("decoding") as report:
        checked = check_dataset(project, name, number, progress=report)
    if as_json:
        print_json(checked)
    else:
        show_checked(checked)
    if checked["new"]:
        new, are = checked["new"], "file is" if len(checked["new"]) == 1 else "files are"
        warn(f"{len(new):,} {are} new there{format_examples(new)}: `ichx data add` takes them in")


@app.command("sheet")
def sheet(
    name: Annotated[str, typer.Argument(help="The dataset's name.")],
    out: Annotated[Path, typer.Option(help="The PNG to write.")],
    label: Annotated[str | None, typer.Option(help="Only slices that are positive for this label.")] = None,
    windows: Annotated[
        str, typer.Option(help="file, brain, subdural, stroke, bone or CENTRE:WIDTH, divided by commas.")
    ] = "file,subdural,bone",
    sigmoid: Annotated[bool, typer.Option("--sigmoid", help="Sigmoid windows; linear when left out.")] = False,
    count: Annotated[int, typer.Option(help="Number of slices, spread evenly over the dataset.")] = 12,
    number: Annotated[int | None, typer.Option("--version", help="A version; the newest when left out.")] = None,
    as_json: AsJson = False,
) -> None:
    """Draw a contact sheet of slices in their windows, as a model sees them, with their labels.

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
        info(f"{len(drawn.rows)} of {drawn.candidates:,} slices, {drawn.width} x {drawn.height} pixels: {drawn.path}")


@app.command("phantom")
def phantom(
    folder: Annotated[Path, typer.Argument(help="Folder to write to; new or empty.")],
    patients: Annotated[int, typer.Option(help="Number of labelled patients.")] = 40,
    seed: Annotated[int, typer.Option(help="The same seed gives the same files.")] = 0,
    size: Annotated[int, typer.Option(help="Rows and columns of a slice.")] = 512,
    test_patients: Annotated[int, typer.Option(help="Further patients as a test set.")] = 0,
    prevalence: Annotated[
        list[str] | None, typer.Option(help="LABEL=SHARE of positive slices, as often as needed.")
    ] = None,
) -> None:
    """Write synthetic head CT studies with hemorrhages, as DICOM in the RSNA layout with the label CSV and masks.

    Example: `ichx data phantom phantom --patients 40 --seed 7 --prevalence any=0.4`
    """
    from ichx.phantom.dicom_files import write_phantom

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
    info(f"{written.train_slices:,} training and {written.test_slices:,} test slices in {written.folder}")
    masks = f" --masks {written.train_masks}" if written.train_masks else ""
    info(f"next: `ichx data add phantom {written.train} --labels {written.train_labels}{masks}`")
    if written.test:
        info(
            f"then: `ichx data add phantom-test {written.test} --test-of phantom --sample {written.sample_submission}`"
        )


@app.command("cache")
def cache(
    name: Annotated[str, typer.Argument(help="The dataset's name.")],
    size: Annotated[
        list[int] | None, typer.Option(min=16, max=4096, help="Pixels; several times for several sizes from one pass.")
    ] = None,
    for_: Annotated[list[int] | None, typer.Option("--for", help="Number of an experiment: as it reads them.")] = None,
    centre: Annotated[
        Literal["none", "slice", "series"], typer.Option(help="How `--size` centres the head.")
    ] = "slice",
    resize: Annotated[Literal["bilinear", "area"], typer.Option(help="How `--size` resizes.")] = "bilinear",
    verify: Annotated[
        bool, typer.Option("--verify", help="Check every byte of the caches that are there; take out what is damaged.")
    ] = False,
    processes: Annotated[int | None, typer.Option(min=1, help="Processes; one per core when left out.")] = None,
    as_json: AsJson = False,
) -> None:
    """Decode a dataset's slices once and keep them as Hounsfield units; with neither size nor `--for`, list the caches.

    A build that was stopped goes on when it is asked for again. `ichx run` builds what it needs by itself.

    Example: `ichx data cache rsna --size 378 --size 256`

    Example: `ichx data cache rsna --for 6`

    Example: `ichx data cache rsna --verify`
    """
    from ichx.cache.build import build_caches
    from ichx.cache.hu_cache import CacheSpec
    from ichx.cache.requests import caches_of, request_caches
    from ichx.cache.verify import foreign_caches, raise_damaged, verify_caches
    from ichx.errors import IchxError
    from ichx.text import format_examples

    specs = [CacheSpec(pixels, centre, resize) for pixels in size or ()]
    if verify and (specs or for_):
        raise IchxError("--verify looks at the caches that are there, all of them", "leave out --size and --for")
    with session() as project:
        for request in request_caches(project, name, specs, for_ or ()):
            for plan in request.plans:
                info(plan.told)
            with progress(f"caching {name}") as report:
                build_caches(
                    request.data.source, request.data.slices, request.plans, processes=processes, progress=report
                )
        verified = []
        if verify:
            with progress("checking shards") as report:
                verified = verify_caches(caches_of(project, name), processes=processes, progress=report)
        found = caches_of(project, name)
        foreign = foreign_caches(project.workspace.cache_dir, name)
    if foreign:
        warn(f"made by another version of ichx, never read, to be removed{format_examples(map(str, foreign))}")
    if as_json:
        print_json({"caches": found, "verified": verified})
    else:
        _render_caches(name, found)
    raise_damaged(name, verified)


app.command("folds")(show_or_import_folds)


@app.command("rm")
def rm(
    name: Annotated[str, typer.Argument(help="The dataset's name.")],
    yes: Annotated[bool, typer.Option("--yes", help="Delete without asking.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output; only names it.")] = False,
) -> None:
    """Remove a dataset on which no experiment and no test set stands, with its caches and the predictions of it.

    Everything is named with its size first, and nothing is deleted before you say yes. The DICOM files stay.

    Example: `ichx data rm rsna-test`
    """
    from ichx.cache.dataset_removal import belongings, remove_dataset
    from ichx.text import format_bytes, format_count

    with session() as project:
        found = belongings(project, name)
        if as_json:
            print_json(found)
            return
        root = project.workspace.root
        rows = [
            (b.what, b.path.relative_to(root) if b.path.is_relative_to(root) else b.path, format_bytes(b.nbytes))
            for b in found
        ]
        total = f"{format_count(len(found), 'thing')}, {format_bytes(sum(b.nbytes for b in found))}"
        print_table(
            "",
            ("what", "where", "size"),
            rows,
            caption=f"{total}; the files in {project.store.version(name).source} stay",
        )
        if not yes and not sys.stdin.isatty():
            info(f"nothing is deleted; `ichx data rm {name} --yes` deletes it")
            return
        if not yes and not typer.confirm(f"delete all of this, and {name}, for good?", err=True):
            info("nothing is deleted")
            return
        remove_dataset(project, name)
    info(f"removed {name}: {total}")


def _shares(settings: list[str]) -> dict[str, float]:
    from ichx.errors import raise_problems

    shares: dict[str, float] = {}
    problems = []
    for setting in settings:
        label, _, text = setting.partition("=")
        try:
            shares[label.strip()] = float(text)
        except ValueError:
            problems.append(f"--prevalence {setting}: not of the form LABEL=SHARE")
    raise_problems(problems, "for example --prevalence any=0.4 --prevalence epidural=0.05")
    return shares


def _render_caches(name: str, found: "list[FoundCache]") -> None:
    from ichx.text import format_bytes

    def state(cache: "FoundCache") -> str:
        if not cache.complete:
            return f"unfinished: {cache.shards:,} of {cache.of_shards:,} shards"
        return "whole" if cache.current else "whole, of an older version"

    rows = [
        (c.spec.size, c.spec.centre, c.spec.resize, c.n, c.defects, format_bytes(c.nbytes), state(c), c.folder.name)
        for c in found
    ]
    heads = ("pixels", "centre", "resize", "slices", "left out", "disk", "state", "folder")
    print_table(f"caches of {name}", heads, rows, drop=("folder",))
    if found:
        console.print(f"{format_bytes(sum(c.nbytes for c in found))} in {found[0].folder.parent}", markup=False)
