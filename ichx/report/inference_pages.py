"""Pages about results of `ichx.inference`: an evaluation on another dataset, and predictions of files."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ichx import __version__
from ichx.datasets.study_labels import has_study_labels
from ichx.evaluation.choices import Pooling
from ichx.evaluation.decision_curve import decision_curves
from ichx.evaluation.metric import constant_score
from ichx.evaluation.oof import OofTable
from ichx.evaluation.operating_points import AppliedThreshold, apply_thresholds
from ichx.evaluation.reliability import reliability_curves
from ichx.evaluation.scores import calibration, pool_studies
from ichx.evaluation.subgroup_scores import reported_subgroups
from ichx.evaluation.subject import Subject
from ichx.evaluation.threshold_file import applicable, stored_thresholds
from ichx.files import absolute_path, write_text
from ichx.inference.evaluate import EvaluatedSlices, Evaluation
from ichx.inference.predict import FilePredictions
from ichx.inference.prediction_files import as_records
from ichx.labels import ANY, LABELS
from ichx.report import plots
from ichx.report.build import WRITE_REMEDY, page_environment, strip_values
from ichx.report.curves import curves_by_label
from ichx.report.decision_plot import decision_chart
from ichx.report.gallery import make_gallery, prediction_cards

if TYPE_CHECKING:
    from ichx.project import Project

MAX_ROWS = 200
"""Series in the table of a page."""


def write_evaluation_report(project: "Project", evaluation: Evaluation, slices: EvaluatedSlices, out: Path) -> Path:
    """Write the page of an evaluation to `out` and return its path. Raises `StorageError` if it cannot be written."""
    path = absolute_path(out)
    write_text(path, render_evaluation(project, evaluation, slices), "the report", remedy=WRITE_REMEDY)
    return path


def render_evaluation(project: "Project", evaluation: Evaluation, slices: EvaluatedSlices) -> str:
    """Return the HTML of an evaluation: scores, curves, operating thresholds, and slices with the highest loss."""
    data, rows, trained = slices.data, slices.slices, slices.trained
    fold = next(iter(evaluation.folds))
    study = rows["study"].to_numpy(object)
    table = OofTable(
        slice_ids=rows["slice_id"].to_numpy(object),
        folds=np.full(len(rows), fold, np.int16),
        labels=slices.labels,
        probabilities=slices.probabilities,
        left_out=evaluation.left_out,
        patients=rows["patient"].to_numpy(object),
        studies=study,
        study_labels=slices.labels_to_pool if has_study_labels(rows) else None,
    )
    gallery = make_gallery(project, trained.experiment, trained.recipe, data, table)
    worst, sample = (tuple(replace(card, fold=None) for card in cards) for cards in (gallery.worst, gallery.sample))
    pooling = evaluation.studies.scores.pooling or "max"
    pooled = pool_studies(slices.labels_to_pool, slices.probabilities, study, pooling, slices.study_probabilities)
    curves = curves_by_label(slices.labels, slices.probabilities)
    columns = {name: (slices.labels[:, k], slices.probabilities[:, k]) for k, name in enumerate(LABELS)}
    return (
        page_environment()
        .get_template("evaluation.html.j2")
        .render(
            evaluation=evaluation,
            experiment=trained.experiment,
            version=data.version,
            code_version=__version__,
            marks=evaluation.marks,
            results={
                "bootstrap": evaluation.slices,
                "studies": evaluation.studies,
                "subgroups": reported_subgroups(slices.predicted, pooling),
            },
            scores=(evaluation.slices if table.truth.unit == "slice" else evaluation.studies).scores,
            prevalence_score=constant_score(table.scored().labels, table.scored().labels),
            gallery=replace(gallery, worst=worst, sample=sample),
            heat_fold=fold,
            roc=plots.roc_curves(curves),
            precision_recall=plots.precision_recall_curves(curves),
            reliability=plots.reliability_diagram(
                {name: calibration(*column) for name, column in columns.items()},
                reliability_curves(slices.predicted, LABELS, binning="width"),
            ),
            stored=_stored_calls(project, evaluation, slices, pooling),
            decision=decision_chart(decision_curves(slices.predicted, LABELS, "study", pooling=pooling)),
            study_roc=plots.roc_curves(curves_by_label(pooled.labels, pooled.probabilities), "study-roc", "study"),
            **strip_values(gallery.strip),
        )
    )


def _stored_calls(
    project: "Project", evaluation: Evaluation, slices: EvaluatedSlices, pooling: Pooling
) -> list[AppliedThreshold]:
    """Return what the stored thresholds of the evaluated model do, unchanged."""
    number = evaluation.experiment if evaluation.ensemble is None else evaluation.ensemble
    stored = stored_thresholds(project, Subject(number, evaluation.ensemble is not None))
    tta, average = evaluation.tta, evaluation.average
    return apply_thresholds(applicable(stored, tta=tta, average=average, pooling=pooling), slices.called)


def write_prediction_report(project: "Project", found: FilePredictions, out: Path) -> Path:
    """Write the page of predicted files to `out` and return its path. Raises `StorageError` if it cannot be written."""
    path = absolute_path(out)
    write_text(path, render_predictions(project, found), "the report", remedy=WRITE_REMEDY)
    return path


def render_predictions(project: "Project", found: FilePredictions) -> str:
    """Return the HTML of predicted files: a table of series, the most suspicious slices, probabilities along series."""
    gallery, shown = prediction_cards(project, found)
    top = found.series.sort_values(ANY, ascending=False, kind="stable").head(MAX_ROWS)
    return (
        page_environment()
        .get_template("predictions.html.j2")
        .render(
            found=found,
            marks=found.marks,
            rows=as_records(top),
            gallery=gallery,
            strips=[_strip(found, index, row["study"], row["series"]) for index, row in enumerate(as_records(shown))],
        )
    )


def _strip(found: FilePredictions, index: int, study: str, series: str) -> tuple[str, object]:
    """Return the name of a series and the drawing of its probabilities."""
    table = found.slices
    rows = table[(table["study"] == study) & (table["series"] == series) & table["defect"].isna()]
    probabilities = rows[list(LABELS)].to_numpy(np.float64)
    return f"study {study}, series {series}", plots.probabilities_along_series(
        f"head-{index}", probabilities, rows["slice_id"].tolist()
    )
