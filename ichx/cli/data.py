"""`ichx data`: datasets."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ichx.cli.confirmation import confirmed
from ichx.cli.data_add import add
from ichx.cli.data_cache import cache
from ichx.cli.data_duplicates import duplicates
from ichx.cli.data_formats import list_formats, write_layout
from ichx.cli.data_pseudo import pseudo
from ichx.cli.data_reviews import list_reviews
from ichx.cli.data_views import print_dataset, print_decode_check
from ichx.cli.folds import folds as show_or_import_folds
from ichx.cli.mix import mix
from ichx.cli.output import info, print_json, progress, warn
from ichx.cli.parameters import (
    AsJson,
    DatasetName,
    Version,
)
from ichx.cli.session import session
from ichx.cli.tables import print_table

if TYPE_CHECKING:
    pass


app = typer.Typer(help="Datasets: add, inspect, check and cache CT slices.", no_args_is_help=True)


app.command("add")(add)


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
            version.kind,
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


app.command("cache")(cache)


@app.command("series-rules")
def series_rules() -> None:
    """Print the default rules of series selection as TOML.

    Save them, change them, and give the file to `ichx data add --series auto` as `--series-rules`.

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
