"""Receiver operating characteristic and reliability of one label: what the report's diagrams show. No drawing here."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.metrics import auc, roc_curve

from ichx.evaluation.metric import FloatArray

BINS = 10
"""Equal-width bins of probability in a reliability diagram."""

ROC_POINTS = 400
"""Points that a drawn ROC curve keeps; its area is taken from all of them."""


@dataclass(frozen=True)
class Roc:
    """False and true positive rates, each `(P,)` and rising from 0 to 1, and the area under the whole curve."""

    false_positive: FloatArray
    true_positive: FloatArray
    auc: float


@dataclass(frozen=True)
class Reliability:
    """Per non-empty bin `(B,)`: the mean predicted probability, the share of positives and the number of slices."""

    predicted: FloatArray
    observed: FloatArray
    counts: npt.NDArray[np.int64]


def positive(labels: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Return which of `labels` in 0..1 count as positive: those over 1/2."""
    return np.asarray(labels, dtype=np.float64) > 0.5


def roc(labels: npt.ArrayLike, predicted: npt.ArrayLike) -> Roc | None:
    """Return the ROC of `(N,)` probabilities on `(N,)` labels; None where they do not have both classes."""
    truth = positive(labels)
    if not _both_classes(truth):
        return None
    false_positive, true_positive, _ = roc_curve(truth, np.asarray(predicted, dtype=np.float64))
    kept = _evenly_along(false_positive + true_positive, ROC_POINTS)
    return Roc(false_positive[kept], true_positive[kept], float(auc(false_positive, true_positive)))


def reliability(labels: npt.ArrayLike, predicted: npt.ArrayLike) -> Reliability | None:
    """Return the reliability of `(N,)` probabilities on `(N,)` labels; None where they do not have both classes."""
    y, p = np.asarray(labels, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    if not _both_classes(positive(y)):
        return None
    bins = np.minimum((p * BINS).astype(np.int64), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    filled = counts > 0
    sums = [np.bincount(bins, weights=values, minlength=BINS)[filled] / counts[filled] for values in (p, y)]
    return Reliability(predicted=sums[0], observed=sums[1], counts=counts[filled])


def _both_classes(truth: npt.NDArray[np.bool_]) -> bool:
    return bool(truth.any() and not truth.all())


def _evenly_along(position: FloatArray, points: int) -> npt.NDArray[np.int64]:
    """Return indices of at most `points` values of rising `position`, evenly spread over its range, ends included."""
    if len(position) <= points:
        return np.arange(len(position))
    wanted = np.linspace(position[0], position[-1], points - 1)
    return np.unique(np.append(np.searchsorted(position, wanted), len(position) - 1))
