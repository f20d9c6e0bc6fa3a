"""`ichx predict`: predictions for DICOM files that belong to no dataset."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ichx.cli.formatting import format_marks
from ichx.cli.output import console, info, print_json, warn
from ichx.cli.parameters import AsJson, Device, FoldTexts, Number, Precision, Save, Tta, Workers, fold_numbers
from ichx.cli.session import session
from ichx.cli.tables import print_table
from ichx.labels import ANY

if TYPE_CHECKING:
    from ichx.inference.predict import FilePredictions

MAX_ROWS = 50
"""Studies or series in the table."""

ID_WIDTH = 11
"""Least width of an id in the table, shortened in the middle."""


def predict(
    number: Number,
    path: Annotated[Path, typer.Argument(help="DICOM file, folder, zip, or folder in a zip (ZIP/FOLDER).")],
    tta: Tta = "none",
    folds: FoldTexts = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Output .csv, .json or .parquet; default: CSV on standard output.")
    ] = None,
    save: Save = None,
    device: Device = "auto",
    precision: Precision = "auto",
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Predict DICOM files, per slice and per study.

    Averages probabilities over views, then over the finished folds. Files without a usable slice are listed in the
    output with the defect and without probabilities.

    Example: `ichx predict 6 /data/new --tta hflip --out new.csv`
    """
    selected = fold_numbers(folds)
    if save and out is None:
        raise typer.BadParameter("--save features requires --out: the features are saved next to that file.")
    with session() as project:
        project.store.experiment(number)  # report an unknown number before torch is imported
        from ichx.cli.live import LiveView
        from ichx.inference.predict import predict_files
        from ichx.inference.prediction_files import as_document, check_out, write_csv, write_files
        from ichx.inference.trained import InferenceOptions

        if out is not None:
            check_out(out)
        with LiveView() as view:
            found = predict_files(
                project,
                number,
                path,
                InferenceOptions(tta, selected, device, workers, precision),
                callbacks=view,
                features=out if save else None,
            )
    written = [] if out is None else write_files(out, found)
    _print_summary(found)
    if as_json:
        print_json(as_document(found))
    elif out is None:
        write_csv(found.slices, sys.stdout)
    else:
        _print_studies(found)
        for file in written:
            console.print(str(file), markup=False)


def _print_summary(found: "FilePredictions") -> None:
    """Print the number of predictions and defects on standard error."""
    from ichx.text import format_count

    slices, studies = format_count(found.predicted, "slice"), format_count(len(found.studies), "study", "studies")
    model = f"experiment {found.experiment}{format_marks(found.marks)}"
    folds = f"{format_count(len(found.folds), 'fold')} ({', '.join(map(str, found.folds))})"
    info(f"Predicted {slices} of {studies} with {model}, {folds}, tta {found.tta}.")
    if found.defects:
        total = format_count(sum(found.defects.values()), "file or frame", "files or frames")
        warn(f"No probabilities for {total}: {', '.join(f'{name} {count:,}' for name, count in found.defects.items())}")
    for warning in found.warnings:
        warn(warning)


def _print_studies(found: "FilePredictions") -> None:
    """Print the studies with the highest probabilities, or the series if a study has several."""
    from ichx.inference.prediction_files import as_records

    several = bool((found.studies["series"] > 1).any())
    table, unit = (found.series, "series") if several else (found.studies, "studies")
    top = table.sort_values(ANY, ascending=False, kind="stable").head(MAX_ROWS)
    columns = {
        "study": "study",
        **({"series": "series"} if several else {}),
        "slices": "slices",
        "left_out": "excluded",
        ANY: ANY,
        "suspicious_slice_id": "top slice",
        "flags": "flags",
    }
    if top["flags"].isna().all():
        del columns["flags"]
    caption = f"{len(top)} of {len(table):,} {unit}, by the probability of `any` of their top slice"
    rows = [[row[name] for name in columns] for row in as_records(top)]
    cut = dict.fromkeys(("study", "series", "top slice"), ID_WIDTH)
    print_table("", list(columns.values()), rows, caption=caption, drop=("flags",), cut=cut)
