"""The curves of one label that a report draws: ROC and precision-recall, thinned to what an eye can tell apart.

The areas under them are no matter of this file: they are scores, taken from every threshold.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.metrics import precision_recall_curve, roc_curve

from ichx.evaluation.metric import FloatArray
from ichx.report.scoring import positive

CURVE_POINTS = 160
"""Points that a drawn curve keeps."""


@dataclass(frozen=True)
class Curve:
    """Points `(P,)` in [0, 1] of a drawn curve, with the threshold at and over which a slice counts as called."""

    x: FloatArray
    y: FloatArray
    threshold: FloatArray


def roc(labels: npt.ArrayLike, predicted: npt.ArrayLike) -> Curve | None:
    """Return the true positive rate over the false positive rate; None for labels without both classes.

    The first threshold is infinite: nothing is called.
    """
    truth = positive(labels)
    if not _both_classes(truth):
        return None
    false_positive, true_positive, threshold = roc_curve(truth, np.asarray(predicted, dtype=np.float64))
    return _thinned(false_positive, true_positive, threshold)


def precision_recall(labels: npt.ArrayLike, predicted: npt.ArrayLike) -> Curve | None:
    """Return the precision over the recall, from the highest threshold on; None for labels without both classes."""
    truth = positive(labels)
    if not _both_classes(truth):
        return None
    precision, recall, threshold = precision_recall_curve(truth, np.asarray(predicted, dtype=np.float64))
    # The last point, recall 0 with precision 1, belongs to no threshold: it is scikit-learn's convention.
    return _thinned(recall[-2::-1], precision[-2::-1], threshold[::-1])


def thinned_places(*values: npt.ArrayLike, points: int = CURVE_POINTS) -> npt.NDArray[np.int64]:
    """Return indices of at most `points` of the curve `values` (P,) each, evenly along its length, ends included."""
    columns = [np.asarray(v, dtype=np.float64) for v in values]
    count = len(columns[0])
    if count <= points:
        return np.arange(count)
    length = np.concatenate([[0.0], np.cumsum(sum(np.abs(np.diff(c)) for c in columns))])
    wanted = np.linspace(0, length[-1], points - 1)
    return np.unique(np.append(np.minimum(np.searchsorted(length, wanted), count - 1), count - 1))


def _thinned(x: FloatArray, y: FloatArray, threshold: FloatArray) -> Curve:
    kept = thinned_places(x, y)
    return Curve(x[kept], y[kept], threshold[kept])


def _both_classes(truth: npt.NDArray[np.bool_]) -> bool:
    return bool(truth.any() and not truth.all())
