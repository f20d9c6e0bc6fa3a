"""Operating points: thresholds that are chosen on OOF predictions, stored, and applied unchanged to other data.

A threshold looks better than it is on the rows that it was chosen on. A stored one was fixed in advance: what it does
on another dataset is in `ichx.evaluation.call_scores`. Rules: `threshold_choice`; storage: `threshold_file`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ichx.errors import NotReadyError
from ichx.evaluation.bootstrap import percentile_interval
from ichx.evaluation.call_scores import CallScores, call_scores
from ichx.evaluation.label_rows import label_rows
from ichx.evaluation.patient_sums import DRAWS
from ichx.evaluation.subgroup_scores import Predicted
from ichx.evaluation.subject import Subject
from ichx.evaluation.subject_oof import subject_oof, table_digest
from ichx.evaluation.subject_predictions import rows_of_table, subject_predictions
from ichx.evaluation.threshold_choice import ThresholdRequest, check_request, chosen_threshold, drawn_thresholds
from ichx.evaluation.threshold_file import ChosenThreshold, store_threshold
from ichx.text import format_count

if TYPE_CHECKING:
    from ichx.project import Project


def choose_threshold(
    project: "Project", subject: Subject, request: ThresholdRequest, *, draws: int = DRAWS
) -> tuple[ChosenThreshold, ChosenThreshold | None]:
    """Choose a threshold on the OOF predictions of `subject`, and store it.

    Returns:
        The threshold, and the one that it replaces.

    Raises:
        InvalidInputError: A value of the request is invalid.
        NotReadyError: There are no OOF predictions, none with and without the label, or calling none fits best.
        StorageError: The file cannot be written.
        IchxError: The predictions cannot be read; see `subject_oof`.
    """
    check_request(request)
    table = subject_oof(project, subject, request.tta, request.average)
    rows = label_rows(rows_of_table(project, subject, table), request.label, request.unit, request.pooling)
    count = len(rows.truth)
    units = format_count(count, "slice") if request.unit == "slice" else format_count(count, "study", "studies")
    if not count:
        raise NotReadyError(
            f"No {request.unit} of {subject} has a known label {request.label}: no threshold can be chosen.",
            "Choose another label, or a threshold of studies, `--per study`, if only studies are labelled.",
        )
    if not rows.both_classes:
        raise NotReadyError(
            f"All {units} of {subject} are {'with' if rows.truth.all() else 'without'} {request.label}: no threshold "
            "can be chosen.",
            "Choose another label, or finish more folds.",
        )
    threshold = chosen_threshold(rows, request)
    if threshold is None:
        raise NotReadyError(_calls_none(subject, request), "Choose another value, or another label.")
    calls = call_scores(rows.truth, rows.probabilities, rows.patients, threshold, draws=draws)
    shortage = calls.sensitivity.undefined or calls.specificity.undefined
    interval = percentile_interval(threshold, drawn_thresholds(rows, request, draws), shortage)
    created = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    chosen = ChosenThreshold(request, threshold, interval.low, interval.high, calls, table_digest(table), created)
    return chosen, store_threshold(project, subject, chosen)


def _calls_none(subject: Subject, request: ThresholdRequest) -> str:
    """Return why no threshold fits."""
    if request.rule == "cost":
        return (
            f"At a cost of {request.value:g}, calling no {request.unit} of {subject} {request.label} costs least: "
            "every threshold costs more false alarms."
        )
    return (
        f"No threshold of {request.label} per {request.unit} has a specificity of {request.value:g} on {subject}: the "
        f"{request.unit} with the highest probability is a false alarm."
    )


@dataclass(frozen=True)
class AppliedThreshold:
    """A stored threshold and what it does on other data."""

    chosen: ChosenThreshold
    calls: CallScores


def apply_thresholds(
    stored: Iterable[ChosenThreshold], predicted: Predicted, prevalence: float | None = None
) -> list[AppliedThreshold]:
    """Return what thresholds do on `predicted`.

    Args:
        stored: Thresholds that fit the predictions; see `ichx.evaluation.threshold_file.applicable`.
        predicted: Slices with labels and probabilities.
        prevalence: See `call_scores`.
    """
    found = []
    for one in stored:
        rows = label_rows(predicted, one.request.label, one.request.unit, one.request.pooling)
        if len(rows.truth):  # otherwise the label is unknown
            calls = call_scores(rows.truth, rows.probabilities, rows.patients, one.threshold, prevalence=prevalence)
            found.append(AppliedThreshold(one, calls))
    return found


def thresholds_at(
    project: "Project", subject: Subject, stored: Sequence[ChosenThreshold], prevalence: float
) -> list[AppliedThreshold]:
    """Return what stored thresholds do on the OOF predictions of `subject` at another prevalence."""
    kinds = dict.fromkeys((one.request.tta, one.request.average) for one in stored)
    predicted = {kind: subject_predictions(project, subject, *kind) for kind in kinds}
    return [
        applied
        for one in stored
        for applied in apply_thresholds([one], predicted[one.request.tta, one.request.average], prevalence)
    ]
