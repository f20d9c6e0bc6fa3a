"""ROC and precision-recall curves of one label with pointwise bands over patients, for figures.

The bands are percentile intervals of the value at each point of a fixed grid: of the sensitivity at a false positive
rate, and of the precision at a recall. They are no simultaneous band for the complete curve.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from ichx.evaluation.bootstrap import LEVEL
from ichx.evaluation.label_rows import LabelRows
from ichx.evaluation.metric import FloatArray
from ichx.evaluation.patient_sums import DRAWS, PatientSums

GRID: Final = 101
"""Points of a band, from 0 to 1."""

THRESHOLDS: Final = 500
"""Most thresholds of a curve; a curve with more probabilities is thinned evenly along its length."""


@dataclass(frozen=True)
class BandedCurve:
    """A curve and its band."""

    x: FloatArray
    """`(P,)`, not falling."""
    y: FloatArray
    """`(P,)`"""
    threshold: FloatArray
    """Rows with at least this probability are called, `(P,)`; infinite where none is."""
    grid: FloatArray
    """`(G,)`"""
    low: FloatArray
    """Lower end of the band at each point of the grid, `(G,)`; NaN without a band."""
    high: FloatArray
    undefined: str | None
    """Why there is no band."""


def roc_band(rows: LabelRows, *, draws: int = DRAWS) -> BandedCurve:
    """Return sensitivity over false positive rate; between two thresholds it is interpolated linearly.

    `rows` need both classes.
    """

    def rates(hits: FloatArray, alarms: FloatArray) -> tuple[FloatArray, FloatArray]:
        zero = np.zeros((1, hits.shape[1]))
        return np.concatenate([zero, alarms / alarms[-1]]), np.concatenate([zero, hits / hits[-1]])

    def at(grid: FloatArray, x: FloatArray, y: FloatArray) -> FloatArray:
        after = np.minimum(np.searchsorted(x, grid, "right"), len(x) - 1)
        before = np.maximum(after - 1, 0)
        width = x[after] - x[before]
        share = np.where(width > 0, (grid - x[before]) / np.where(width > 0, width, 1), 1)
        found: FloatArray = y[before] + np.clip(share, 0, 1) * (y[after] - y[before])
        return found

    return _banded(rows, rates, at, draws, starts_empty=True)


def precision_recall_band(rows: LabelRows, *, draws: int = DRAWS) -> BandedCurve:
    """Return precision over recall: at a recall, the precision of the highest threshold that reaches it.

    `rows` need both classes.
    """

    def rates(hits: FloatArray, alarms: FloatArray) -> tuple[FloatArray, FloatArray]:
        return hits / hits[-1], hits / (hits + alarms)

    def at(grid: FloatArray, x: FloatArray, y: FloatArray) -> FloatArray:
        found: FloatArray = y[np.minimum(np.searchsorted(x, grid - 1e-12, "left"), len(x) - 1)]
        return found

    return _banded(rows, rates, at, draws, starts_empty=False)


_Rates = Callable[[FloatArray, FloatArray], tuple[FloatArray, FloatArray]]
_At = Callable[[FloatArray, FloatArray, FloatArray], FloatArray]


def _banded(rows: LabelRows, rates: _Rates, at: _At, draws: int, *, starts_empty: bool) -> BandedCurve:
    thresholds = _thresholds(rows)
    sample = PatientSums(rows.patients, draws)
    size = len(thresholds)
    cells = np.searchsorted(thresholds, rows.probabilities, "right").astype(np.int64)
    counts = [sample.counts(cells, size + 1, of) for of in (rows.truth, ~rows.truth)]
    called = np.concatenate([np.cumsum(of[:0:-1], axis=0) for of in counts])  # by falling threshold
    grid = np.linspace(0, 1, GRID)

    def values(totals: FloatArray) -> FloatArray:
        with np.errstate(invalid="ignore", divide="ignore"):
            x, y = rates(totals[:size], totals[size:])
        found = np.full((GRID, totals.shape[1]), np.nan)
        for k in np.flatnonzero((totals[size - 1] > 0) & (totals[-1] > 0)):
            found[:, k] = at(grid, x[:, k], y[:, k])
        return found

    total = called.sum(axis=1, keepdims=True)
    x, y = rates(total[:size], total[size:])
    low = high = np.full(GRID, np.nan)
    if (undefined := sample.shortage(rows.truth)) is None:
        tail = 100 * (1 - LEVEL) / 2
        low, high = np.nanpercentile(sample.drawn(called, values), [tail, 100 - tail], axis=1)
    falling = thresholds[::-1]
    return BandedCurve(
        x[:, 0], y[:, 0], np.append(np.inf, falling) if starts_empty else falling, grid, low, high, undefined
    )


def _thresholds(rows: LabelRows) -> FloatArray:
    """Return the thresholds of the curve, rising: all probabilities, or some that are even along the ROC curve."""
    unique, inverse = np.unique(rows.probabilities, return_inverse=True)
    if len(unique) <= THRESHOLDS:
        return np.asarray(unique, np.float64)
    share = [np.bincount(inverse[of], minlength=len(unique)) / of.sum() for of in (rows.truth, ~rows.truth)]
    length = np.cumsum(share[0] + share[1])
    index = np.searchsorted(length, np.linspace(0, length[-1], THRESHOLDS))
    chosen = np.unique(np.append(np.minimum(index, len(unique) - 1), 0))
    return np.asarray(unique[chosen], np.float64)
