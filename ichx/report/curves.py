"""ROC and precision-recall curves of one label, thinned for drawing. The areas under them are in `ichx.evaluation`."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ichx.evaluation.metric import FloatArray
from ichx.labels import LABELS

CURVE_POINTS = 160
"""Maximum number of points of a drawn curve."""


@dataclass(frozen=True)
class Curve:
    """Points `(P,)` of a curve."""

    x: FloatArray
    """In [0, 1]."""
    y: FloatArray
    """In [0, 1]."""
    threshold: FloatArray
    """Probability from which a slice counts as predicted positive."""


@dataclass(frozen=True)
class LabelCurves:
    """The curves of one label."""

    roc: Curve
    """True positive rate over false positive rate."""
    precision_recall: Curve
    """Precision over recall."""


def label_curves(labels: npt.ArrayLike, predicted: npt.ArrayLike) -> LabelCurves | None:
    """Return the curves of one label, with a point for each distinct probability in descending order.

    The ROC curve starts with one more point, at an infinite threshold. Precision is undefined there.

    Args:
        labels: `(N,)` labels; values over 1/2 are positive, NaN is unknown.
        predicted: `(N,)` probabilities.

    Returns:
        The curves, or None if `labels` lacks one of the classes.
    """
    from ichx.evaluation.scores import positive  # imports pandas and scipy

    known = ~np.isnan(np.asarray(labels, np.float64))
    truth, p = positive(labels)[known], np.asarray(predicted, dtype=np.float64)[known]
    if truth.all() or not truth.any():
        return None
    order = np.argsort(-p, kind="stable")
    descending = p[order]
    last = np.append(np.flatnonzero(np.diff(descending)), len(p) - 1)  # equal probabilities share one point
    true_positives, called = np.cumsum(truth[order], dtype=np.float64)[last], last + 1.0
    false_positives, threshold = called - true_positives, descending[last]
    recall = true_positives / true_positives[-1]
    false_positive_rate = np.append(0.0, false_positives / false_positives[-1])
    return LabelCurves(
        roc=_thinned(false_positive_rate, np.append(0.0, recall), np.append(np.inf, threshold)),
        precision_recall=_thinned(recall, true_positives / called, threshold),
    )


def curves_by_label(labels: FloatArray, predicted: FloatArray) -> dict[str, LabelCurves | None]:
    """Return the curves of each label; both arguments are `(N, 6)`."""
    return {name: label_curves(labels[:, k], predicted[:, k]) for k, name in enumerate(LABELS)}


def thinned_indices(*values: npt.ArrayLike, points: int = CURVE_POINTS) -> npt.NDArray[np.int64]:
    """Return indices of at most `points` points of a curve, evenly spaced along its length, both ends included.

    Args:
        values: The coordinates of the curve, `(P,)` each.
        points: Maximum number of indices.
    """
    columns = [np.asarray(v, dtype=np.float64) for v in values]
    count = len(columns[0])
    if count <= points:
        return np.arange(count)
    length = np.concatenate([[0.0], np.cumsum(sum(np.abs(np.diff(c)) for c in columns))])
    targets = np.linspace(0, length[-1], points - 1)
    return np.unique(np.append(np.minimum(np.searchsorted(length, targets), count - 1), count - 1))


def _thinned(x: FloatArray, y: FloatArray, threshold: FloatArray) -> Curve:
    index = thinned_indices(x, y)
    return Curve(x[index], y[index], threshold[index])
