"""`ichx data folds`: the fold sets of a dataset version, and importing someone else's."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ichx.cli.output import console, info, print_json, warn
from ichx.cli.session import session
from ichx.cli.tables import print_table
from ichx.text import format_count

if TYPE_CHECKING:
    from ichx.datasets.fold_import import ImportReport
    from ichx.datasets.folds import Leak

SHOWN = 50
"""How many leaking patients a table lists; `--json` has all."""


def folds(
    dataset: Annotated[str, typer.Argument(help="The dataset's name.")],
    file: Annotated[
        Path | None,
        typer.Option("--import", help="CSV with `fold` and a slice id, a file name or a `patient_id`; .gz too."),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the folds; an imported file's own when left out.")
    ] = None,
    allow_leaks: Annotated[
        bool, typer.Option("--allow-leaks", help="Import folds that split patients, and mark every score on them.")
    ] = False,
    number: Annotated[int | None, typer.Option("--version", help="A version; the newest when left out.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Show a dataset's folds: sizes, prevalences, leaks; or import folds, which makes a new version.

    Experiments take the folds called `default` unless `ichx exp new --folds NAME` says otherwise.

    Example: `ichx data folds rsna`

    Example: `ichx data folds rsna --import folds.csv --name theirs`
    """
    if file is None:
        if allow_leaks:
            raise typer.BadParameter("--allow-leaks belongs to --import FILE")
        _show(dataset, number, name, as_json)
    elif number is not None:
        raise typer.BadParameter("folds are imported into the newest version: leave out --version")
    else:
        _import(dataset, file, name, allow_leaks, as_json)


def _import(dataset: str, file: Path, name: str | None, allow_leaks: bool, as_json: bool) -> None:
    from ichx.datasets.fold_import import LeakyFoldsError, import_folds

    try:
        with session() as project:
            report = import_folds(project, dataset, file, name=name, allow_leaks=allow_leaks)
    except LeakyFoldsError as error:
        if as_json:
            print_json({"created": False, "leaks": error.leaks})
        else:
            _leak_table(error.leaks)
        raise
    if as_json:
        print_json(report)
    else:
        _render_import(report)


def _render_import(report: "ImportReport") -> None:
    for message in report.messages:
        info(message)
    for warning in report.warnings:
        warn(warning)
    if report.leaks:
        _leak_table(report.leaks)
    version, fold_set = report.version, report.fold_set
    done = "imported as" if report.created else "nothing has changed:"
    console.print(f"{done} folds {fold_set.name} of {version.dataset} version {version.number}", markup=False)
    info(
        f"next: `ichx exp new --dataset {version.dataset} --folds {fold_set.name} --plugin NAME`; "
        f"without --folds an experiment takes the folds {version.fold_set().name}"
    )


def _show(dataset: str, number: int | None, name: str | None, as_json: bool) -> None:
    from ichx.datasets.fold_import import describe_folds

    with session() as project:
        facts = describe_folds(project, dataset, number, name)
    if as_json:
        print_json(facts)
        return
    version = facts["version"]
    size = f"{format_count(version.slices, 'slice')}, {format_count(version.patients, 'patient')}"
    console.print(f"{version.dataset} version {version.number}: {size}", markup=False)
    for told in facts["fold_sets"]:
        _render_fold_set(told, {"slices": version.slices, "patients": version.patients} | told)


def _render_fold_set(told: dict[str, Any], whole: dict[str, Any]) -> None:
    fold_set = told["fold_set"]
    origin = f"imported from {fold_set.source}" if fold_set.source else f"patient-grouped, seed {fold_set.seed}"
    title = f"folds {fold_set.name}: {fold_set.k} folds, {origin}, digest {fold_set.digest}"
    labels = list(whole["prevalences"])
    parts = [whole, *told["folds"]]
    rows: list[tuple[object, ...]] = [(name, *(part[name] for part in parts)) for name in ("slices", "patients")]
    rows += [(label, *(f"{part['prevalences'][label]:.2%}" for part in parts)) for label in labels]
    columns = ("", "all", *(f"fold {part['fold']}" for part in told["folds"]))
    off = "" if told["deviation"] is None else f"prevalences within {told['deviation']:.2%} of the whole; "
    leaks = fold_set.leaking_patients
    split = format_count(leaks, "patient") if leaks else "no patient"
    print_table(title, columns, rows, caption=f"{off}{split} in more than one fold", split=True)
    if told["leaks"]:
        warn("leaky folds: every score on them is marked, and `ichx ensemble --top` leaves it out")
        _leak_table(told["leaks"])


def _leak_table(leaks: "Sequence[Leak]") -> None:
    rows = [
        (leak.patient, leak.slices, ", ".join(f"{fold}: {count}" for fold, count in leak.folds.items()), _such(leak))
        for leak in leaks[:SHOWN]
    ]
    shown = f"{len(rows)} of {len(leaks):,}" if len(rows) < len(leaks) else f"{len(leaks):,}"
    title = "patients in more than one fold"
    print_table(title, ("patient", "slices", "fold: slices", "such as"), rows, caption=f"{shown} patients")


def _such(leak: "Leak") -> str:
    return ", ".join(f"{slice_id} in {fold}" for fold, slice_id in list(leak.examples.items())[:2])
