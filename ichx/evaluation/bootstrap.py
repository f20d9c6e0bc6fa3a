"""Confidence intervals by bootstrap over patients: slices of one patient are no independent observations.

A draw takes as many patients as there are, with replacement; all slices of a patient come along each time. Scores of
one draw differ from those of another only by how often each patient counts, so that sums per patient (log loss, Brier,
calibration) and per patient and block of equal rank (AUC and its like) are all that a draw needs. Nothing is
approximated: a draw's score is the score of the slices that it drew.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.evaluation.metric import FloatArray, row_losses
from ichx.evaluation.ranking import Ranking, rank, rank_scores
from ichx.evaluation.scores import (
    CALIBRATION_BINS,
    LABEL_METRICS,
    SENSITIVITIES,
    Scores,
    absent_class,
    calibration_bin,
    checked,
    positive,
    slice_scores,
)
from ichx.labels import LABEL_WEIGHTS, LABELS
from ichx.text import format_count

LEVEL: Final = 0.95
"""The confidence of every interval."""

DRAWS: Final = 1000
"""Draws of patients that an interval comes from, unless said otherwise."""

MIN_PATIENTS: Final = 5
"""Patients without which there is no interval: in all, and with and without a label for what ranks it."""

_SHARE = np.asarray(LABEL_WEIGHTS) / sum(LABEL_WEIGHTS)
_CHUNK = 32
"""Draws that are computed at once: they bound the memory."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its percentile interval and the standard deviation of its draws.

    `value` is None where the score is undefined, the others also where an interval is; `undefined` says why.
    """

    value: float | None
    low: float | None
    high: float | None
    standard_error: float | None
    undefined: str | None = None


@dataclass(frozen=True)
class Bootstrap:
    """Intervals of all scores over `patients`, from `draws`: `log_loss`, and by label and metric name.

    The metrics are those of `LABEL_METRICS`, or without a ranking those of them that are sums over patients.
    """

    patients: int
    draws: int
    level: float
    scores: Scores
    log_loss: Interval
    labels: dict[str, dict[str, Interval]]


@dataclass(frozen=True)
class Difference:
    """How much higher (worse) the first prediction's weighted log loss is than the second's, on the same slices.

    `standard_error` is that of the paired difference; `labels` has each label's own interval, `auc` those of the
    differences of AUC, where they were asked for.
    """

    value: float
    low: float | None
    high: float | None
    standard_error: float | None
    undefined: str | None
    patients: int
    draws: int
    labels: dict[str, Interval]
    auc: dict[str, Interval]


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
    """Return the scores of `(N, 6)` probabilities on `(N, 6)` labels with their intervals over `patients` (N,).

    Rows are slices or studies; `scores` are theirs where these are known. `ranked=False` leaves out what takes longer:
    AUC, average precision and sensitivities. Raises `IchxError` as `slice_scores`.
    """
    y, p = checked(labels, probabilities)
    point = scores or slice_scores(y, p)
    code, count = patient_codes(patients)
    drawn = _draw(y, p, code, count, draws, seed, ranked=ranked)
    of_label = {}
    for k, name in enumerate(LABELS):
        values, of_class = point.labels[k], _class_shortage(positive(y[:, k]), code)
        of_label[name] = {
            metric: _interval(
                getattr(values, metric),
                drawn[metric][k],
                _shortage(count) if metric in _SUMS else values.undefined or of_class or _shortage(count),
            )
            for metric in LABEL_METRICS
            if metric in drawn
        }
    overall = _interval(point.log_loss, _SHARE @ drawn["log_loss"], _shortage(count))
    return Bootstrap(count, draws, LEVEL, point, overall, of_label)


def loss_interval(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, patients: npt.ArrayLike, *, draws: int = DRAWS, seed: int = 0
) -> Interval:
    """Return the weighted log loss alone with its interval: that of `patient_bootstrap`, without the rest."""
    return mean_interval(row_losses(*checked(labels, probabilities)) @ _SHARE, patients, draws=draws, seed=seed)


def mean_interval(values: FloatArray, patients: npt.ArrayLike, *, draws: int = DRAWS, seed: int = 0) -> Interval:
    """Return the mean of `values` (N,) with its interval over the `patients` (N,) that they belong to."""
    code, count = patient_codes(patients)
    sums = _patient_sums(values[:, None], code, count)
    (drawn,) = _means(sums, np.bincount(code, minlength=count), draws, seed)
    return _interval(float(values.mean()), drawn, _shortage(count))


def paired_difference(
    labels: npt.ArrayLike,
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    patients: npt.ArrayLike,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    ranked: bool = False,
) -> Difference:
    """Return the weighted log loss of `first` less that of `second`, both `(N, 6)`, with its interval.

    Paired: each draw of patients scores both, so that what makes a draw hard for both does not count. `ranked` adds
    the labels' differences of AUC. Raises `IchxError` as `slice_scores`.
    """
    y, p = checked(labels, first)
    q = checked(labels, second)[1]
    code, count = patient_codes(patients)
    gap = row_losses(y, p) - row_losses(y, q)
    sums = _patient_sums(np.column_stack([gap @ _SHARE, gap]), code, count)
    drawn = _means(sums, np.bincount(code, minlength=count), draws, seed)
    overall = _interval(float((gap @ _SHARE).mean()), drawn[0], _shortage(count))
    assert overall.value is not None
    of_label = {
        name: _interval(float(gap[:, k].mean()), drawn[1 + k], _shortage(count)) for k, name in enumerate(LABELS)
    }
    of_auc = _auc_differences(y, p, q, code, count, draws, seed) if ranked else {}
    return Difference(
        value=overall.value,
        low=overall.low,
        high=overall.high,
        standard_error=overall.standard_error,
        undefined=overall.undefined,
        patients=count,
        draws=draws,
        labels=of_label,
        auc=of_auc,
    )


def patient_codes(patients: npt.ArrayLike) -> tuple[npt.NDArray[np.int64], int]:
    """Return each row's patient as a number from 0, (N,), and how many there are."""
    code, names = pd.factorize(np.asarray(patients))
    return code.astype(np.int64, copy=False), len(names)


_SUMS = ("log_loss", "brier", "calibration_error")
"""Metrics that are defined whatever classes occur."""


def draw_weights(patients: int, draws: int, seed: int) -> Iterator[FloatArray]:
    """Yield how often each patient counts, (patients, chunk) whole numbers, for all `draws` in chunks.

    Multinomial: as many patients as there are, drawn with replacement. The same numbers give the same draws.
    """
    random = np.random.default_rng(seed)
    for begin in range(0, draws, _CHUNK):
        size = min(_CHUNK, draws - begin)
        chosen = random.integers(0, patients, (size, patients))
        chosen += np.arange(size)[:, None] * patients
        counts = np.bincount(chosen.ravel(), minlength=size * patients).reshape(size, patients)
        yield np.ascontiguousarray(counts.T, dtype=np.float64)


def _draw(
    y: FloatArray,
    p: FloatArray,
    code: npt.NDArray[np.int64],
    count: int,
    draws: int,
    seed: int,
    *,
    ranked: bool,
) -> dict[str, FloatArray]:
    """Return each metric's values (6, draws)."""
    labels = len(LABELS)
    rows = np.bincount(code, minlength=count).astype(np.float64)
    sums = _patient_sums(np.column_stack([row_losses(y, p), (p - y) ** 2]), code, count)
    gaps = np.zeros((labels * CALIBRATION_BINS, count))
    for k in range(labels):
        place = (k * CALIBRATION_BINS + calibration_bin(p[:, k])) * count + code
        gaps += np.bincount(place, weights=p[:, k] - y[:, k], minlength=gaps.size).reshape(gaps.shape)
    rankings = _rankings(y, p, code, count) if ranked else []
    parts: dict[str, list[FloatArray]] = {}
    with ThreadPoolExecutor(labels) as threads:
        for weights in draw_weights(count, draws, seed):
            total = rows @ weights
            means = sums @ weights / total
            distance = np.abs(gaps @ weights).reshape(labels, CALIBRATION_BINS, -1).sum(axis=1) / total
            made = {"log_loss": means[:labels], "brier": means[labels:], "calibration_error": distance}
            if ranked:
                found = list(threads.map(rank_scores, rankings, repeat(weights)))
                made["auc"] = np.stack([f.auc for f in found])
                made["average_precision"] = np.stack([f.average_precision for f in found])
                made |= {name: np.stack([f.sensitivity[i] for f in found]) for i, name in enumerate(SENSITIVITIES)}
            for metric, values in made.items():
                parts.setdefault(metric, []).append(values)
    return {metric: np.concatenate(values, axis=1) for metric, values in parts.items()}


def _auc_differences(
    y: FloatArray,
    p: FloatArray,
    q: FloatArray,
    code: npt.NDArray[np.int64],
    count: int,
    draws: int,
    seed: int,
) -> dict[str, Interval]:
    rankings = _rankings(y, p, code, count) + _rankings(y, q, code, count)

    def gaps(weights: FloatArray) -> FloatArray:
        found = np.stack([one.auc for one in threads.map(rank_scores, rankings, repeat(weights))])
        return found[: len(LABELS)] - found[len(LABELS) :]

    with ThreadPoolExecutor(len(LABELS)) as threads:
        value = gaps(np.ones((count, 1)))[:, 0]
        drawn = np.concatenate([gaps(weights) for weights in draw_weights(count, draws, seed)], axis=1)
    found = {}
    for k, name in enumerate(LABELS):
        truth = positive(y[:, k])
        absent = absent_class(int(truth.sum()), len(truth))
        found[name] = _interval(
            None if absent else float(value[k]), drawn[k], absent or _class_shortage(truth, code) or _shortage(count)
        )
    return found


def _rankings(y: FloatArray, p: FloatArray, code: npt.NDArray[np.int64], count: int) -> list[Ranking]:
    return [rank(positive(y[:, k]), p[:, k], code, count) for k in range(len(LABELS))]


def _patient_sums(values: FloatArray, code: npt.NDArray[np.int64], count: int) -> FloatArray:
    """Return the sums of the columns of `values` (N, C) over each patient's rows, (C, count)."""
    return np.stack([np.bincount(code, weights=column, minlength=count) for column in values.T])


def _means(sums: FloatArray, rows: npt.NDArray[np.int64], draws: int, seed: int) -> FloatArray:
    """Return the means over the rows of each draw, (C, draws), from sums per patient (C, patients)."""
    parts = [sums @ weights / (rows @ weights) for weights in draw_weights(len(rows), draws, seed)]
    return np.concatenate(parts, axis=1)


def _interval(value: float | None, drawn: FloatArray, undefined: str | None) -> Interval:
    """Return the interval of `drawn` (D,); a draw without one of the classes has no score (NaN) and does not count."""
    known = drawn[np.isfinite(drawn)]
    if undefined is not None or len(known) < 2:
        return Interval(value, None, None, None, undefined or "fewer than 2 draws")
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high), float(known.std(ddof=1)))


def _shortage(patients: int) -> str | None:
    return None if patients >= MIN_PATIENTS else f"no interval from {format_count(patients, 'patient')}"


def _class_shortage(truth: npt.NDArray[np.bool_], code: npt.NDArray[np.int64]) -> str | None:
    """Return why there is no interval where too few patients have, or have not, a label."""
    for rows, having in ((truth, "with"), (~truth, "without")):
        patients = len(np.unique(code[rows]))
        if patients < MIN_PATIENTS:
            return f"no interval from {format_count(patients, 'patient')} {having} the label"
    return None
