"""`ichx predict`: predictions for DICOM files that belong to no dataset."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ichx.cli.output import console, err, info, print_json, warn
from ichx.cli.parameters import (
    AsCsv,
    AsJson,
    Average,
    Device,
    EnsembleNumber,
    FoldTexts,
    KeepIds,
    Labels,
    OwnTta,
    Page,
    Precision,
    Recalibrated,
    Save,
    Workers,
    complete_number,
    fold_numbers,
    parse_number,
    parse_subject,
)
from ichx.cli.placement import PlacementOptions, placed
from ichx.cli.session import session
from ichx.cli.tables import print_table
from ichx.formatting import format_marks, format_value
from ichx.labels import ANY, LABELS

if TYPE_CHECKING:
    from ichx.inference.predict import FilePredictions

MAX_ROWS = 50
"""Studies or series in the table."""

ID_WIDTH = 11
"""Least width of an id in the table, shortened in the middle."""


@placed
def predict(
    context: typer.Context,
    number: Annotated[
        str,
        typer.Argument(
            metavar="[NUMBER]",
            autocompletion=complete_number,
            help="Experiment number, or `last`; leave it out with --ensemble.",
        ),
    ],
    path: Annotated[
        Path | None, typer.Argument(metavar="PATH", help="DICOM or NIfTI file, folder, zip, or ZIP/FOLDER.")
    ] = None,
    ensemble: EnsembleNumber = None,
    tta: OwnTta = None,
    average: Average = None,
    folds: FoldTexts = None,
    labels: Labels = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Output .csv, .json or .parquet; default: CSV on standard output.")
    ] = None,
    page: Page = None,
    keep_ids: KeepIds = False,
    id_map: Annotated[
        Path | None, typer.Option("--id-map", help="CSV of the ids behind the hashes, readable by its owner only.")
    ] = None,
    recalibrated: Recalibrated = None,
    sr: Annotated[
        Path | None,
        typer.Option(
            "--sr", help="Folder for a DICOM structured report per study, or a .dcm for one; has patient ids."
        ),
    ] = None,
    save: Save = None,
    device: Device = "auto",
    precision: Precision = "auto",
    workers: Workers = None,
    csv: AsCsv = False,
    *,
    where: PlacementOptions,
    as_json: AsJson = False,
) -> None:
    """Predict DICOM or NIfTI files, per slice and per study.

    Averages the logits of views and finished folds. An ensemble predicts as it was stored, with all networks of its
    members. Files without a usable slice are listed in the output with the defect and without probabilities.

    Example: `ichx predict 6 /data/new --tta hflip --out new.csv --report new.html`

    Example: `ichx predict --ensemble 3 /data/new --out new.csv`

    Example: `ichx predict 6 /data/new --out new.csv --sr reports`

    Example: `ichx predict 6 /data/new --out new.csv --on slurm --gpus 1`
    """
    selected = fold_numbers(folds)
    if ensemble is not None:
        if path is not None:
            raise typer.BadParameter("Use either an experiment number or --ensemble.")
        path = Path(number)
    elif path is None:
        raise typer.BadParameter("Name the experiment and the files: `ichx predict NUMBER PATH`.")
    if save and out is None:
        raise typer.BadParameter("--save features requires --out: the features are saved next to that file.")
    if keep_ids and id_map is not None:
        raise typer.BadParameter("Use either --keep-ids or --id-map: with --keep-ids there are no hashes.")
    experiment = parse_number(number) if ensemble is None else None
    subject = parse_subject(experiment, ensemble, tta=tta, average=average, fold=folds, save=save)
    with session() as project:
        # report an unknown number before torch is imported
        subject.require(project)
        placement = where.place(project.workspace)
        if not placement.is_local:
            from ichx.cli.command_jobs import command_arguments, submit_command
            from ichx.jobs.command_jobs import CommandRequest

            words = command_arguments(context, number=path if experiment is None else experiment)
            request = CommandRequest("predict", (words,), experiment=experiment)
            submit_command(project, placement, request, as_json=as_json)
            return
        from ichx.cli.live import LiveView
        from ichx.evaluation.threshold_file import applicable, stale_warnings, stored_thresholds
        from ichx.inference.predict import FileOutputs, predict_files
        from ichx.inference.prediction_calls import with_calls
        from ichx.inference.prediction_files import as_csv, as_document, check_out, write_files, write_id_map
        from ichx.inference.ready_model import ready_model
        from ichx.inference.recalibrate import recalibrated_model
        from ichx.inference.trained import InferenceOptions

        for file, suffixes in ((out, None), (page, (".html",)), (id_map, (".csv",))):
            if file is not None:
                check_out(file, suffixes)
        check = None
        if sr is not None:
            from ichx.publish.structured_report import describe_left_out, prepare_reports, write_reports_of

            check = prepare_reports(sr)
        with LiveView() as view:
            options = InferenceOptions(tta or "none", selected, device, workers, precision, average or "logit")
            model = ready_model(project, subject, options, view.note)
            if recalibrated is not None:
                model = recalibrated_model(project, model, recalibrated)
            found = predict_files(
                project,
                model,
                path,
                callbacks=view,
                outputs=FileOutputs(out if save else None, keep_ids, id_map is not None, check),
            )
            stored = stored_thresholds(project, subject)
            found = with_calls(found, stored, model.recalibration)
            if found.thresholds:
                fitting = applicable(stored, tta=found.tta, average=found.average)
                for line in stale_warnings(project, subject, fitting):
                    warn(line)
            written = [] if out is None else write_files(out, found)
            if id_map is not None and found.id_map is not None:
                write_id_map(id_map, found.id_map)
                written.append(id_map)
            if sr is not None:
                written += write_reports_of(sr, found, model)
                if (left_out := describe_left_out(found)) is not None:
                    warn(left_out)
            if page is not None:
                from ichx.report import write_prediction_report

                written.append(write_prediction_report(project, found, page))
    _print_summary(found)
    if as_json:
        print_json(as_document(found))
    elif csv or out is None:
        hidden = [label for label in LABELS if labels and label not in labels]
        sys.stdout.write(as_csv(found.slices.drop(columns=hidden)))
    else:
        _print_studies(found, labels or [ANY])
    in_table = not (as_json or csv or out is None)
    for file in written:
        (console if in_table else err).print(str(file), markup=False)


def _print_summary(found: "FilePredictions") -> None:
    """Print the number of predictions and defects on standard error."""
    from ichx.text import format_count

    slices, studies = format_count(found.predicted, "slice"), format_count(len(found.studies), "study", "studies")
    which = f"experiment {found.experiment}" if found.ensemble is None else f"ensemble {found.ensemble}"
    model = f"{which}{format_marks(found.marks)}"
    folds = f"{format_count(len(found.folds), 'fold')} ({', '.join(map(str, found.folds))})"
    by = "" if found.recalibrated is None else f", recalibrated: {found.recalibrated}"
    info(f"Predicted {slices} of {studies} with {model}, {folds}, tta {found.tta}{by}.")
    if found.defects:
        total = format_count(sum(found.defects.values()), "file or frame", "files or frames")
        counts = ", ".join(f"{name} {count:,}" for name, count in found.defects.items())
        warn(f"No probabilities for {total}: {counts}.")
    for one in found.thresholds:
        table = found.slices if one["unit"] == "slice" else found.studies
        called = int((table[f"called_{one['label']}"] == 1).sum())
        units = format_count(called, "slice") if one["unit"] == "slice" else format_count(called, "study", "studies")
        share = f"{100 * called / max(int(table[one['label']].notna().sum()), 1):.1f} per 100"
        info(f"Called {one['label']} (probability >= {format_value(one['threshold'])}): {units}, {share}.")
    for warning in found.warnings:
        warn(warning)


def _print_studies(found: "FilePredictions", labels: Sequence[str]) -> None:
    """Print the studies with the highest probabilities of the first label, or the series if a study has several."""
    from ichx.inference.prediction_files import as_records
    from ichx.inference.prediction_tables import series_table, study_table

    first = labels[0]
    several = bool((found.studies["series"] > 1).any())
    table = (series_table if several else study_table)(found.slices, first)
    top = table.sort_values(first, ascending=False, kind="stable").head(MAX_ROWS)
    columns = {
        "study": "study",
        **({"series": "series"} if several else {}),
        "slices": "slices",
        "left_out": "excluded",
        **{label: label for label in labels},
        "suspicious_slice_id": "top slice",
        "flags": "flags",
    }
    if top["flags"].isna().all():
        del columns["flags"]
    unit = "series" if several else "studies"
    caption = f"{len(top)} of {len(table):,} {unit}, by the probability of `{first}` of their top slice"
    rows = [[row[name] for name in columns] for row in as_records(top)]
    cut = dict.fromkeys(("study", "series", "top slice"), ID_WIDTH)
    print_table("", list(columns.values()), rows, caption=caption, drop=("flags",), cut=cut)
