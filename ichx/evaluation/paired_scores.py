"""Two predictions of the same slices of any dataset: paired differences per slice and study, and at stored thresholds.

Each draw of patients scores both predictions, so what makes a draw hard for both cancels. DeLong's test of studies is
next to it: it takes them as independent.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ichx.evaluation.bootstrap import Interval, ScoreDifference, paired_difference, percentile_interval
from ichx.evaluation.choices import Pooling
from ichx.evaluation.delong import DeLong, compare_areas
from ichx.evaluation.label_rows import label_rows
from ichx.evaluation.metric import FloatArray
from ichx.evaluation.patient_sums import DRAWS, MIN_IN_CLASS, PatientSums
from ichx.evaluation.scores import pool_studies
from ichx.evaluation.subgroup_scores import Predicted, Unit
from ichx.evaluation.threshold_file import ChosenThreshold
from ichx.labels import LABELS
from ichx.text import format_count


@dataclass(frozen=True)
class RateDifference:
    """A share of rows by two predictions, and the second less the first."""

    first: Interval
    second: Interval
    difference: Interval
    """Paired."""


@dataclass(frozen=True)
class CallDifference:
    """What the calls of two models, each at its stored threshold, do on the same rows."""

    label: str
    unit: Unit
    first_threshold: float
    second_threshold: float
    sensitivity: RateDifference
    specificity: RateDifference


@dataclass(frozen=True)
class PairedScores:
    """Differences of two predictions: first less second."""

    rows: int
    """Slices that both predict."""
    slices: ScoreDifference
    studies: ScoreDifference
    study_auc: dict[str, DeLong | None]
    """By label; None with too few studies of a class."""
    calls: tuple[CallDifference, ...] = ()
    marks: tuple[str, ...] = ()
    """Marks of the score of the second prediction, e.g. `overlap`."""


def paired_scores(first: Predicted, second: Predicted, pooling: Pooling = "max") -> PairedScores:
    """Return the differences of two predictions of the same slices, in the same order."""
    patients, studies = (first.slices[name].to_numpy(object) for name in ("patient", "study"))
    one, two = (
        pool_studies(of.labels_to_pool, of.probabilities, studies, pooling, of.study_probabilities)
        for of in (first, second)
    )
    return PairedScores(
        rows=len(patients),
        slices=paired_difference(first.labels, first.probabilities, second.probabilities, patients, ranked=True),
        studies=paired_difference(one.labels, one.probabilities, two.probabilities, patients[one.row], ranked=True),
        study_auc={name: _areas(first, second, name, pooling) for name in LABELS},
    )


def _areas(first: Predicted, second: Predicted, label: str, pooling: Pooling) -> DeLong | None:
    one, two = (label_rows(of, label, "study", pooling) for of in (first, second))
    return compare_areas(one.truth, one.probabilities, two.probabilities)


def call_differences(
    first: tuple[Predicted, Sequence[ChosenThreshold]], second: tuple[Predicted, Sequence[ChosenThreshold]]
) -> tuple[CallDifference, ...]:
    """Return the differences for each label and unit of which both models have a stored threshold.

    Args:
        first: Predictions and the thresholds that fit them; see `ichx.evaluation.operating_points.applicable`.
        second: Those of the other model, of the same slices in the same order.
    """
    others = {(one.request.label, one.request.unit): one for one in second[1]}
    found = []
    for one in first[1]:
        label, unit = one.request.label, one.request.unit
        other = others.get((label, unit))
        if other is None:
            continue
        rows, theirs = (
            label_rows(of, label, unit, chosen.request.pooling) for of, chosen in ((first[0], one), (second[0], other))
        )
        calls = [rows.probabilities >= one.threshold, theirs.probabilities >= other.threshold]
        hits = rate_difference(rows.truth, calls, rows.patients)
        passes = rate_difference(~rows.truth, [~called for called in calls], rows.patients)
        found.append(CallDifference(label, unit, one.threshold, other.threshold, hits, passes))
    return tuple(found)


def rate_difference(
    among: npt.NDArray[np.bool_],
    hits: Sequence[npt.NDArray[np.bool_]],
    patients: npt.NDArray[np.object_],
    draws: int = DRAWS,
) -> RateDifference:
    """Return the share of the rows `among` (N,) that are hits, for both of `hits` (N,), with the paired difference."""
    return RateDifference(*rates(among, hits, patients, draws))


def rates(
    among: npt.NDArray[np.bool_],
    hits: Sequence[npt.NDArray[np.bool_]],
    patients: npt.NDArray[np.object_],
    draws: int = DRAWS,
) -> list[Interval]:
    """Return the share of the rows `among` that are `hits`, for each; of two, also the second less the first."""
    sample = PatientSums(patients, draws)
    sums = sample.sums(np.stack([among, *(among & one for one in hits)], axis=1).astype(np.float64))

    def shares(totals: FloatArray) -> FloatArray:
        with np.errstate(invalid="ignore", divide="ignore"):
            found: FloatArray = totals[1:] / totals[0]
        return np.concatenate([found, found[1:] - found[:1]]) if len(found) == 2 else found

    values = shares(sums.sum(axis=1, keepdims=True))[:, 0]
    if not among.any():
        return [Interval(None, None, None, None, "no such rows")] * len(values)
    count = int((sums[0] > 0).sum())
    few = None if count >= MIN_IN_CLASS else f"no interval from {format_count(count, 'patient')} with such rows"
    drawn = sample.drawn(sums, shares)
    return [
        percentile_interval(float(value), of, sample.shortage() or few) for value, of in zip(values, drawn, strict=True)
    ]
