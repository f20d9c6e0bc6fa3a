"""The curves of one label that a report draws: ROC and precision-recall, thinned to what an eye can tell apart.

The areas under them are no matter of this file: they are scores, taken from every threshold.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ichx.evaluation.metric import FloatArray
from ichx.evaluation.scores import positive

CURVE_POINTS = 160
"""Points that a drawn curve keeps."""


@dataclass(frozen=True)
class Curve:
    """Points `(P,)` in [0, 1] of a drawn curve, with the threshold at and over which a slice counts as called."""

    x: FloatArray
    y: FloatArray
    threshold: FloatArray


@dataclass(frozen=True)
class Curves:
    """A label's ROC, true over false positive rate, and its precision over its recall."""

    roc: Curve
    precision_recall: Curve


def curves(labels: npt.ArrayLike, predicted: npt.ArrayLike) -> Curves | None:
    """Return the curves of `(N,)` probabilities on `(N,)` labels; None for labels without both classes.

    A point stands for each probability that occurs, from the highest on. The ROC begins with one more, in which nothing
    is called and which has an infinite threshold; precision means nothing there.
    """
    truth, p = positive(labels), np.asarray(predicted, dtype=np.float64)
    if truth.all() or not truth.any():
        return None
    order = np.argsort(-p, kind="stable")
    falling = p[order]
    last = np.append(np.flatnonzero(np.diff(falling)), len(p) - 1)  # equal probabilities are called together
    hits, called = np.cumsum(truth[order], dtype=np.float64)[last], last + 1.0
    alarms, threshold = called - hits, falling[last]
    recall = hits / hits[-1]
    begin = np.zeros(1)
    return Curves(
        roc=_thinned(np.append(begin, alarms / alarms[-1]), np.append(begin, recall), np.append(np.inf, threshold)),
        precision_recall=_thinned(recall, hits / called, threshold),
    )


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
