"""Operating thresholds of one label: the probability from which a row counts as positive, and what follows from it.

A threshold is chosen on the rows that it is reported for, so its values on other data are a little worse.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ichx.evaluation.ranking import SENSITIVITIES, SPECIFICITIES
from ichx.evaluation.scores import positive


@dataclass(frozen=True)
class OperatingPoint:
    """One threshold and its counts on the rows that it was chosen on."""

    rule: str
    """How it was chosen, e.g. `specificity >= 0.90`."""
    threshold: float | None
    """Rows with at least this probability are positive; None: no row is."""
    sensitivity: float
    specificity: float
    positive_predictive_value: float | None
    """Share of positive calls that are right; None without positive calls."""
    negative_predictive_value: float | None
    """Share of negative calls that are right; None without negative calls."""


def operating_points(labels: npt.ArrayLike, predicted: npt.ArrayLike) -> tuple[OperatingPoint, ...]:
    """Return the thresholds of one label: of a least specificity, of a least sensitivity, and of Youden's index.

    For a least specificity (sensitivity) the threshold has the highest sensitivity (specificity) that is possible.

    Args:
        labels: `(N,)` in 0..1; those above 1/2 are positive. NaN is unknown.
        predicted: `(N,)` probabilities.

    Returns:
        The operating points; none if `labels` lacks one of the classes.
    """
    known = ~np.isnan(np.asarray(labels, np.float64))
    truth, p = positive(labels)[known], np.asarray(predicted, dtype=np.float64)[known]
    if truth.all() or not truth.any():
        return ()
    order = np.argsort(-p, kind="stable")
    last = np.append(np.flatnonzero(np.diff(p[order])), len(p) - 1)  # equal probabilities share a threshold
    hits, calls = np.append(0, np.cumsum(truth[order])[last]), np.append(0, last + 1)
    thresholds = np.append(np.inf, p[order][last])
    positives, negatives = int(truth.sum()), int((~truth).sum())
    sensitivity, specificity = hits / positives, (negatives - (calls - hits)) / negatives

    def point(rule: str, allowed: npt.NDArray[np.bool_], best: npt.NDArray[np.float64]) -> OperatingPoint:
        index = int(np.argmax(np.where(allowed, best, -np.inf)))
        called, hit = int(calls[index]), int(hits[index])
        return OperatingPoint(
            rule=rule,
            threshold=float(thresholds[index]) if index else None,
            sensitivity=float(sensitivity[index]),
            specificity=float(specificity[index]),
            positive_predictive_value=hit / called if called else None,
            negative_predictive_value=(len(p) - called - positives + hit) / (len(p) - called)
            if called < len(p)
            else None,
        )

    return (
        *(point(f"specificity >= {s:.2f}", specificity >= s, sensitivity) for s in SPECIFICITIES),
        *(point(f"sensitivity >= {s:.2f}", sensitivity >= s, specificity) for s in SENSITIVITIES),
        point("Youden's index", np.ones(len(hits), bool), sensitivity + specificity),
    )
