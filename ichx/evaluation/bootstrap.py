"""Confidence intervals by bootstrap over patients, as slices of one patient are not independent observations.

The scores themselves are in `ichx.evaluation.scores`. A draw takes as many patients as there are, with replacement,
each with all their slices. Draws differ only in how often each patient counts, so sums per patient (log loss, Brier,
calibration) and per patient and block of equal rank (AUC and others) suffice. Nothing is approximated: the score of a
draw is the score of its slices.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from typing import Final

import numpy as np
import numpy.typing as npt

from ichx.evaluation.metric import (
    FloatArray,
    known_shares,
    label_losses,
    row_losses,
    weighted_row_losses,
    weighted_score,
)
from ichx.evaluation.patient_sums import DRAWS, MIN_FOR_ERROR, MIN_IN_CLASS, PatientSums, patient_shortage
from ichx.evaluation.ranking import Ranking, rank, rank_scores
from ichx.evaluation.scores import (
    CALIBRATION_BINS,
    LABEL_METRICS,
    SENSITIVITY_METRICS,
    SPECIFICITY_METRICS,
    UNKNOWN_LABEL,
    Scores,
    absent_class,
    calibration_bin,
    checked,
    positive,
    slice_scores,
)
from ichx.labels import LABELS
from ichx.text import format_count

LEVEL: Final = 0.95
"""Confidence level of every interval."""


_SUMS = ("log_loss", "brier", "calibration_error")
"""Metrics that are defined whatever classes occur."""


@dataclass(frozen=True)
class Interval:
    """A score with its percentile interval and standard error."""

    value: float | None
    """None if the score is undefined."""
    low: float | None
    high: float | None
    standard_error: float | None
    """Standard deviation of the draws."""
    undefined: str | None = None
    """Why there is no interval or no score."""


@dataclass(frozen=True)
class Bootstrap:
    """All scores of a prediction with their intervals."""

    patients: int
    draws: int
    level: float
    scores: Scores
    log_loss: Interval
    labels: dict[str, dict[str, Interval]]
    """Intervals by label and metric of `LABEL_METRICS`; without a ranking, only of metrics that are sums."""


@dataclass(frozen=True, kw_only=True)
class ScoreDifference(Interval):
    """How much higher (worse) the first prediction's weighted log loss is than the second's, on the same slices."""

    patients: int
    draws: int
    labels: dict[str, Interval]
    """The difference of each label's log loss."""
    auc: dict[str, Interval]
    """The difference of each label's AUC; empty without a ranking."""


def patient_bootstrap(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    patients: npt.ArrayLike,
    *,
    scores: Scores | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    ranked: bool = True,
) -> Bootstrap:
    """Return all scores with their intervals over patients. Rows are slices or studies.

    Args:
        labels: `(N, 6)` in 0..1.
        probabilities: `(N, 6)`.
        patients: Patient of each row, `(N,)`.
        scores: The scores of these rows, if they are known.
        draws: Number of draws.
        seed: The same seed gives the same draws.
        ranked: Whether to include AUC, average precision and the rates, which take most of the time.

    Raises:
        InvalidInputError: There are no rows, or a value is not within 0..1.
    """
    y, p = checked(labels, probabilities)
    point = scores or slice_scores(y, p)
    sample = PatientSums(patients, draws, seed)
    drawn = _drawn_scores(y, p, sample, ranked=ranked)
    by_label = {}
    for k, name in enumerate(LABELS):
        values, truth, known = point.labels[k], positive(y[:, k]), ~np.isnan(y[:, k])
        shortage = patient_shortage(sample.count if known.all() else len(np.unique(sample.codes[known])))
        rare = values.undefined if not known.any() else shortage or sample.class_shortage(truth, "with")
        unranked = values.undefined or rare or sample.class_shortage(~truth & known, "without")
        by_label[name] = {
            metric: percentile_interval(
                getattr(values, metric),
                drawn[metric][k],
                rare if metric in _SUMS else unranked,
            )
            for metric in LABEL_METRICS
            if metric in drawn
        }
    overall = percentile_interval(
        None if np.isnan(point.log_loss) else point.log_loss,
        _weighted(drawn["log_loss"]),
        UNKNOWN_LABEL if np.isnan(point.log_loss) else patient_shortage(sample.count_with(_any_known(y))),
    )
    return Bootstrap(sample.count, draws, LEVEL, point, overall, by_label)


def _any_known(labels: FloatArray) -> npt.NDArray[np.bool_]:
    """Return which rows of `labels` (N, 6) have a known label, `(N,)`."""
    return np.asarray((~np.isnan(labels)).any(axis=1))


def _weighted(drawn: FloatArray) -> FloatArray:
    """Return the weighted mean of the labels' losses `(6, draws)`, of the labels that have any."""
    known = np.asarray(~np.isnan(drawn).all(axis=1))
    return known_shares(known) @ np.where(known[:, None], drawn, 0.0)


def loss_interval(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, patients: npt.ArrayLike, *, draws: int = DRAWS
) -> Interval:
    """Return the interval of the weighted log loss only, equal to that of `patient_bootstrap`."""
    y, p = checked(labels, probabilities)
    if not np.isnan(y).any():
        return mean_interval(weighted_row_losses(y, p), patients, draws=draws)
    sample, losses = PatientSums(patients, draws), row_losses(y, p)
    value = weighted_score(label_losses(y, p))
    known = _any_known(y)
    reason = patient_shortage(sample.count_with(known)) if known.any() else UNKNOWN_LABEL
    return percentile_interval(value if known.any() else None, _weighted(sample.drawn_means(losses)), reason)


def label_intervals(
    truth: npt.NDArray[np.bool_], probabilities: FloatArray, patients: npt.ArrayLike, *, draws: int = DRAWS
) -> dict[str, Interval]:
    """Return `auc` and `average_precision` of one label with their intervals, equal to those of `patient_bootstrap`.

    Args:
        truth: `(N,)`
        probabilities: `(N,)`
        patients: Patient of each row, `(N,)`.
        draws: Number of draws.
    """
    sample = PatientSums(patients, draws)
    absent = absent_class(int(truth.sum()), len(truth))
    undefined = absent or sample.shortage(truth)
    ranking = rank(truth, probabilities, sample.codes, sample.count)
    point = rank_scores(ranking, np.ones((sample.count, 1)))
    drawn = [] if undefined else [rank_scores(ranking, weights) for weights in sample.weights()]
    return {
        metric: percentile_interval(
            None if absent else float(getattr(point, metric)[0]),
            np.concatenate([getattr(chunk, metric) for chunk in drawn]) if drawn else np.empty(0),
            undefined,
        )
        for metric in ("auc", "average_precision")
    }


def rate_intervals(
    counted: npt.NDArray[np.bool_], among: npt.NDArray[np.bool_], patients: npt.ArrayLike, *, draws: int = DRAWS
) -> "list[DrawnRate]":
    """Return the share of the rows `counted` among the rows `among`, for each column, with its draws of patients.

    Args:
        counted: `(N, C)`; only rows that are in `among`, too, count.
        among: `(N, C)`
        patients: Patient of each row, `(N,)`.
        draws: Number of draws.
    """
    sample = PatientSums(patients, draws)
    columns = counted.shape[1]
    both = np.column_stack([counted & among, among]).astype(np.float64)
    sums = sample.sums(both)
    with np.errstate(invalid="ignore", divide="ignore"):
        point = sums[:columns].sum(axis=1) / sums[columns:].sum(axis=1)
        chunks = [sums @ weights for weights in sample.weights()]
        drawn = np.concatenate([chunk[:columns] / chunk[columns:] for chunk in chunks], axis=1)
    owners = [int((of > 0).sum()) for of in sums[columns:]]
    rates = []
    for value, of_draws, count in zip(point, drawn, owners, strict=True):
        few = None if count >= MIN_IN_CLASS else f"no interval from {format_count(count, 'patient')} with such rows"
        rates.append(DrawnRate(float(value), of_draws, patient_shortage(sample.count) or few))
    return rates


@dataclass(frozen=True)
class DrawnRate:
    """A share of rows and its values in draws of patients; NaN where there is no row to count among."""

    value: float
    drawn: FloatArray
    """`(D,)`"""
    shortage: str | None
    """Why there is no interval."""

    @property
    def interval(self) -> Interval:
        """The percentile interval."""
        absent = np.isnan(self.value)
        return percentile_interval(
            None if absent else self.value, self.drawn, "no such rows" if absent else self.shortage
        )


def mean_interval(values: FloatArray, patients: npt.ArrayLike, *, draws: int = DRAWS) -> Interval:
    """Return the mean of `values` (N,) with its interval over `patients` (N,)."""
    sample = PatientSums(patients, draws)
    (drawn,) = sample.drawn_means(values[:, None])
    return percentile_interval(float(values.mean()), drawn, patient_shortage(sample.count))


def mean_error(values: FloatArray, patients: npt.ArrayLike, *, draws: int = DRAWS) -> tuple[float, float | None]:
    """Return the mean of `values` (N,) with its standard error over patients, None below `MIN_FOR_ERROR` patients."""
    sample = PatientSums(patients, draws)
    (drawn,) = sample.drawn_means(values[:, None])
    return float(values.mean()), float(drawn.std(ddof=1)) if sample.count >= MIN_FOR_ERROR else None


def paired_difference(
    labels: npt.ArrayLike,
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    patients: npt.ArrayLike,
    *,
    draws: int = DRAWS,
    ranked: bool = False,
) -> ScoreDifference:
    """Return the weighted log loss of one prediction less that of another, with its interval over patients.

    It is paired: each draw of patients scores both, so what makes a draw hard for both cancels.

    Args:
        labels: `(N, 6)` in 0..1.
        first: Probabilities, `(N, 6)`.
        second: Probabilities of the same rows, `(N, 6)`.
        patients: Patient of each row, `(N,)`.
        draws: Number of draws.
        ranked: Whether to include the differences of AUC.

    Raises:
        InvalidInputError: There are no rows, or a value is not within 0..1.
    """
    y, p = checked(labels, first)
    q = checked(labels, second)[1]
    sample = PatientSums(patients, draws)
    difference = row_losses(y, p) - row_losses(y, q)
    weighted = weighted_row_losses(y, p) - weighted_row_losses(y, q)
    known = ~np.isnan(y)
    drawn, shortage = sample.drawn_means(difference), patient_shortage(sample.count_with(_any_known(y)))
    means = np.where(known.any(axis=0), np.nansum(difference, axis=0) / np.maximum(known.sum(axis=0), 1), np.nan)
    overall = UNKNOWN_LABEL if not known.any() else shortage
    return ScoreDifference(
        **vars(percentile_interval(float(weighted.mean()) if known.any() else None, _weighted(drawn), overall)),
        patients=sample.count,
        draws=draws,
        labels={
            name: percentile_interval(
                None if np.isnan(means[k]) else float(means[k]),
                drawn[k],
                UNKNOWN_LABEL
                if np.isnan(means[k])
                else patient_shortage(sample.count_with(known[:, k]))
                or sample.class_shortage(positive(y[:, k]), "with"),
            )
            for k, name in enumerate(LABELS)
        },
        auc=_auc_differences(y, p, q, sample) if ranked else {},
    )


def _drawn_scores(y: FloatArray, p: FloatArray, sample: PatientSums, *, ranked: bool) -> dict[str, FloatArray]:
    """Return each metric's values, `(6, draws)`."""
    labels = len(LABELS)
    known = ~np.isnan(y)
    complete = bool(known.all())
    rows = sample.rows().astype(np.float64)[None] if complete else sample.sums(known.astype(np.float64))
    sums = sample.sums(np.nan_to_num(np.column_stack([row_losses(y, p), (p - y) ** 2])))
    gaps = np.zeros((labels * CALIBRATION_BINS, sample.count))
    for k in range(labels):
        at = known[:, k]
        place = (k * CALIBRATION_BINS + calibration_bin(p[at, k])) * sample.count + sample.codes[at]
        gaps += np.bincount(place, weights=p[at, k] - y[at, k], minlength=gaps.size).reshape(gaps.shape)
    rankings = [_known_rank(y[:, k], p[:, k], sample) for k in range(labels)] if ranked else []
    parts: dict[str, list[FloatArray]] = {}
    with ThreadPoolExecutor(labels) as threads:
        for weights in sample.weights():
            total = rows @ weights
            with np.errstate(invalid="ignore"):
                means = sums @ weights / (total if complete else np.concatenate([total, total]))
                distance = np.abs(gaps @ weights).reshape(labels, CALIBRATION_BINS, -1).sum(axis=1) / total
            chunk = {"log_loss": means[:labels], "brier": means[labels:], "calibration_error": distance}
            if ranked:
                ranks = list(threads.map(rank_scores, rankings, repeat(weights)))
                chunk["auc"] = np.stack([r.auc for r in ranks])
                chunk["average_precision"] = np.stack([r.average_precision for r in ranks])
                for i, name in enumerate(SENSITIVITY_METRICS):
                    chunk[name] = np.stack([r.sensitivity[i] for r in ranks])
                for i, name in enumerate(SPECIFICITY_METRICS):
                    chunk[name] = np.stack([r.specificity[i] for r in ranks])
            for metric, values in chunk.items():
                parts.setdefault(metric, []).append(values)
    return {metric: np.concatenate(values, axis=1) for metric, values in parts.items()}


def _known_rank(y: FloatArray, p: FloatArray, sample: PatientSums) -> Ranking:
    """Return the ranking of the rows where the label is known; y and p are `(N,)`."""
    known = ~np.isnan(y)
    if known.all():
        return rank(positive(y), p, sample.codes, sample.count)
    return rank(positive(y[known]), p[known], sample.codes[known], sample.count)


def _auc_differences(y: FloatArray, p: FloatArray, q: FloatArray, sample: PatientSums) -> dict[str, Interval]:
    labels = len(LABELS)
    rankings = [_known_rank(y[:, k], x[:, k], sample) for x in (p, q) for k in range(labels)]
    with ThreadPoolExecutor(labels) as threads:

        def differences(weights: FloatArray) -> FloatArray:
            auc = np.stack([r.auc for r in threads.map(rank_scores, rankings, repeat(weights))])
            return auc[:labels] - auc[labels:]

        value = differences(np.ones((sample.count, 1)))[:, 0]
        drawn = np.concatenate([differences(weights) for weights in sample.weights()], axis=1)
    intervals = {}
    for k, name in enumerate(LABELS):
        known = ~np.isnan(y[:, k])
        truth = positive(y[:, k])
        absent = absent_class(int(truth.sum()), int(known.sum()))
        undefined = absent or patient_shortage(sample.count_with(known)) or sample.class_shortage(truth, "with")
        undefined = undefined or sample.class_shortage(~truth & known, "without")
        intervals[name] = percentile_interval(None if absent else float(value[k]), drawn[k], undefined)
    return intervals


def percentile_interval(value: float | None, drawn: FloatArray, undefined: str | None) -> Interval:
    """Return the interval of `drawn` (D,), without bounds if `undefined` says why.

    Draws that lack one of the classes have no score (NaN) and do not count.
    """
    known = drawn[np.isfinite(drawn)]
    if undefined is not None or len(known) < 2:
        return Interval(value, None, None, None, undefined or "fewer than 2 draws")
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high), float(known.std(ddof=1)))
