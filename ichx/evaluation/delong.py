"""Areas under ROC curves with the covariance of DeLong et al. (Biometrics 1988), for one or two predictions.

The computation by ranks is that of Sun and Xu (IEEE Signal Processing Letters 2014). Rows count as independent: use one
row per study, and the bootstrap of `ichx.evaluation.bootstrap` where patients have several.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.stats import norm, rankdata

from ichx.evaluation.metric import FloatArray

LEVEL: Final = 0.95
MIN_IN_CLASS: Final = 2
"""Rows of each class without which there is no variance."""


@dataclass(frozen=True)
class DeLong:
    """Two areas on the same rows, and whether they differ."""

    first: float
    second: float
    difference: float
    """First less second."""
    low: float
    high: float
    """95 % interval of the difference."""
    p_value: float
    """Two-sided; 1 if the predictions rank all rows alike."""
    rows: int
    positives: int


def auc_covariance(truth: npt.NDArray[np.bool_], predictions: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the areas `(K,)` of K predictions of the same rows and their covariance `(K, K)`.

    Args:
        truth: `(N,)`, with at least `MIN_IN_CLASS` rows of each class.
        predictions: `(K, N)`
    """
    m, n = int(truth.sum()), int((~truth).sum())
    if min(m, n) < MIN_IN_CLASS:
        raise ValueError(f"{m} positive and {n} negative rows")
    positive, negative = predictions[:, truth], predictions[:, ~truth]
    of_all = rankdata(np.concatenate([positive, negative], axis=1), axis=1)
    v_positive = (of_all[:, :m] - rankdata(positive, axis=1)) / n
    v_negative = 1 - (of_all[:, m:] - rankdata(negative, axis=1)) / m
    areas = v_positive.mean(axis=1)
    covariance = np.atleast_2d(np.cov(v_positive)) / m + np.atleast_2d(np.cov(v_negative)) / n
    return areas, covariance


def compare_areas(truth: npt.NDArray[np.bool_], first: FloatArray, second: FloatArray) -> DeLong | None:
    """Return the comparison of two predictions `(N,)` of the same rows; None with too few rows of a class."""
    positives = int(truth.sum())
    if min(positives, len(truth) - positives) < MIN_IN_CLASS:
        return None
    areas, covariance = auc_covariance(truth, np.stack([first, second]))
    difference = float(areas[0] - areas[1])
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    error = float(np.sqrt(max(variance, 0.0)))
    reach = float(norm.ppf((1 + LEVEL) / 2)) * error
    return DeLong(
        first=float(areas[0]),
        second=float(areas[1]),
        difference=difference,
        low=difference - reach,
        high=difference + reach,
        p_value=float(2 * norm.sf(abs(difference) / error)) if error > 0 else float(difference == 0),
        rows=len(truth),
        positives=positives,
    )
