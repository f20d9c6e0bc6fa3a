"""`ichx predict`: an experiment's weights on DICOM files that belong to no dataset."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ichx.cli.output import console, info, print_json, warn
from ichx.cli.parameters import AsJson, Device, FoldTexts, Number, Save, Tta, Workers, fold_numbers
from ichx.cli.session import session
from ichx.cli.tables import print_table
from ichx.labels import ANY

if TYPE_CHECKING:
    from ichx.inference.predict import FilePredictions

SHOWN = 50
"""Studies that a table shows."""


def predict(
    number: Number,
    path: Annotated[Path, typer.Argument(help="DICOM: a file, a folder, a zip, or a folder in a zip (ZIP/FOLDER).")],
    tta: Tta = "none",
    folds: FoldTexts = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The file to write, .csv, .json or .parquet; default: CSV on standard output."),
    ] = None,
    save: Save = None,
    device: Device = "auto",
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Predict DICOM files with the finished folds of an experiment: slices, and their studies.

    A probability is the mean over the views, then over the folds. What is no usable slice stands in the output with the
    reason and without probabilities.

    Example: `ichx predict 6 /data/new --tta hflip --out new.csv`
    """
    wanted = fold_numbers(folds)
    if save and out is None:
        raise typer.BadParameter("--save features needs --out: the features go beside that file")
    with session() as project:
        project.store.experiment(number)  # report an unknown number before torch is imported
        from ichx.cli.live import LiveView
        from ichx.inference.predict import predict_files
        from ichx.inference.prediction_files import as_document, check_out, write_files

        if out is not None:
            check_out(out)
        with LiveView() as view:
            found = predict_files(
                project,
                number,
                path,
                events=view,
                tta=tta,
                folds=wanted,
                device=device,
                workers=workers,
                features=out if save else None,
            )
    written = [] if out is None else write_files(out, found)
    _tell(found)
    if as_json:
        print_json(as_document(found))
    elif out is None:
        found.slices.to_csv(sys.stdout, index=False)
    else:
        _show(found)
        for file in written:
            console.print(str(file), markup=False)


def _tell(found: "FilePredictions") -> None:
    """Say on standard error what was predicted and what was not."""
    from ichx.text import format_count

    by = f"{format_count(len(found.folds), 'fold')} ({', '.join(map(str, found.folds))}), tta {found.tta}"
    studies = format_count(len(found.studies), "study", "studies")
    marked = f" [{', '.join(found.marks)}]" if found.marks else ""
    info(
        f"{format_count(found.predicted, 'slice')} of {studies} predicted by experiment {found.experiment}{marked}, "
        f"{by}"
    )
    if found.defects:
        told = ", ".join(f"{reason} {count:,}" for reason, count in found.defects.items())
        warn(
            f"{format_count(sum(found.defects.values()), 'file or frame', 'files or frames')} without probabilities: "
            f"{told}"
        )


def _show(found: "FilePredictions") -> None:
    """Print the studies, the most suspicious first."""
    from ichx.inference.prediction_files import as_records

    most = found.studies.sort_values(ANY, ascending=False, kind="stable").head(SHOWN)
    names = ["study", "slices", "left_out", ANY, "suspicious_slice_id"]
    caption = f"{len(most)} of {len(found.studies):,} studies, by the largest probability of `any` over their slices"
    rows = [[row[name] for name in names] for row in as_records(most)]
    print_table("", ("study", "slices", "left out", ANY, "most suspicious slice"), rows, caption=caption)
