"""`ichx data folds`: the folds of a dataset version, and their import and export as a CSV file."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ichx.cli.data_views import print_prevalences
from ichx.cli.output import console, info, print_json, warn
from ichx.cli.parameters import AsJson, DatasetName, Version
from ichx.cli.session import session
from ichx.cli.tables import print_table
from ichx.text import format_count

if TYPE_CHECKING:
    from ichx.datasets.fold_import import ImportReport
    from ichx.datasets.folds import Leak

MAX_ROWS = 50
"""Leaking patients in a table; `--json` prints all."""


def folds(
    dataset: DatasetName,
    file: Annotated[
        Path | None,
        typer.Option("--import", help="CSV with `fold` and a slice id, file name or `patient_id`; .gz too."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--export", help="Write the folds to a CSV that --import reads; .gz too.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the folds; imported: default the file's.")] = None,
    allow_leaks: Annotated[
        bool, typer.Option("--allow-leaks", help="Import folds that split patients; marks all scores on them.")
    ] = False,
    number: Version = None,
    as_json: AsJson = False,
) -> None:
    """Show the folds of a dataset, or import or export folds.

    Shows sizes, prevalences and leaking patients. An import creates a new version of the dataset. Experiments use the
    folds named `default` unless `ichx exp new --folds NAME` selects others.

    Example: `ichx data folds rsna`

    Example: `ichx data folds rsna --import folds.csv --name theirs`

    Example: `ichx data folds rsna --export folds.csv`
    """
    if out is not None and (file is not None or allow_leaks):
        raise typer.BadParameter("--export cannot be combined with --import or --allow-leaks.")
    if out is not None:
        _export(dataset, out, number, name, as_json)
    elif file is None:
        if allow_leaks:
            raise typer.BadParameter("--allow-leaks requires --import FILE.")
        _show(dataset, number, name, as_json)
    elif number is not None:
        raise typer.BadParameter("Folds are imported into the newest version. Leave out --version.")
    else:
        _import(dataset, file, name, allow_leaks, as_json)


def _import(dataset: str, file: Path, name: str | None, allow_leaks: bool, as_json: bool) -> None:
    from ichx.datasets.fold_import import LeakyFoldsError, import_folds

    try:
        with session() as project:
            report = import_folds(project, dataset, file, name=name, allow_leaks=allow_leaks)
    except LeakyFoldsError as error:
        if not as_json:  # JSON has the leaks in the error
            _print_leaks(error.leaks)
        raise
    if as_json:
        print_json(report)
    else:
        _print_report(report)


def _export(dataset: str, out: Path, number: int | None, name: str | None, as_json: bool) -> None:
    from ichx.datasets.fold_import import export_folds

    with session() as project:
        exported = export_folds(project, dataset, out, number, name)
    if as_json:
        print_json({"file": out, "fold_set": exported})
    else:
        info(f"Wrote the folds {exported.name}, {exported.k} folds, digest {exported.digest}: {out}")


def _print_report(report: "ImportReport") -> None:
    for message in report.messages:
        info(message)
    for warning in report.warnings:
        warn(warning)
    if report.leaks:
        _print_leaks(report.leaks)
    version, fold_set = report.version, report.fold_set
    result = "imported" if report.created else "unchanged:"
    console.print(f"{result} folds {fold_set.name} of {version.dataset} version {version.number}", markup=False)
    info(f"Next: `ichx exp new --dataset {version.dataset} --folds {fold_set.name} --plugin NAME`")
    info(f"Without --folds, an experiment uses the folds {version.fold_set().name}.")


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
    for entry in facts["fold_sets"]:
        _print_fold_set(entry, facts["group_by"], {"slices": version.slices, "patients": version.patients} | entry)


def _print_fold_set(entry: dict[str, Any], group_by: str, total: dict[str, Any]) -> None:
    fold_set = entry["fold_set"]
    origin = f"imported from {fold_set.source}" if fold_set.source else f"{group_by}-grouped, seed {fold_set.seed}"
    title = f"folds {fold_set.name}: {fold_set.k} folds, {origin}, digest {fold_set.digest}"
    leaks, grouped = fold_set.leaking_patients, ("study", "studies") if group_by == "study" else ("patient",)
    caption = f"{format_count(leaks, *grouped) if leaks else f'no {group_by}'} in more than one fold"
    if entry["deviation"] is not None:
        caption = f"prevalences of folds deviate by at most {entry['deviation']:.2%}; {caption}"
    print_prevalences(title, total, entry["folds"], caption)
    if entry["leaks"]:
        warn("Leaky folds: all scores on them are marked, and `ichx ensemble --top` skips their experiments.")
        _print_leaks(entry["leaks"])


def _print_leaks(leaks: "Sequence[Leak]") -> None:
    rows = [
        (
            leak.patient,
            leak.slices,
            ", ".join(f"{fold}: {count}" for fold, count in leak.folds.items()),
            ", ".join(f"{slice_id} in {fold}" for fold, slice_id in list(leak.examples.items())[:2]),
        )
        for leak in leaks[:MAX_ROWS]
    ]
    shown = f"{len(rows)} of {len(leaks):,}" if len(rows) < len(leaks) else f"{len(leaks):,}"
    heads = ("patient", "slices", "fold: slices", "examples")
    print_table("patients in more than one fold", heads, rows, caption=f"{shown} patients")
