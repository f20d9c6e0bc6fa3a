"""Calibration of probabilities, consistency of `any` with the subtypes, and clipping.

`ichx.evaluation.nested_score` chooses among these, `ichx.evaluation.scores` measures calibration. Temperature scaling
divides logits by one number, for all labels or for each (Guo et al., On calibration of modern neural networks, ICML
2017). Isotonic calibration is the best non-decreasing map (Zadrozny and Elkan, KDD 2002).
"""

from dataclasses import dataclass
from functools import reduce

import numpy as np
from scipy.optimize import isotonic_regression

from ichx.evaluation.logistic import fit_logistic, model_logits, varying
from ichx.evaluation.metric import CLIP, FloatArray, entry_weights, probabilities
from ichx.evaluation.series_neighbours import SeriesNeighbours
from ichx.labels import ANY, LABEL_WEIGHTS, LABELS

BOUNDS = (CLIP, 1e-7, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
"""Candidates for the lower bound, and for the distance of the upper bound from 1."""

_ANY = LABELS.index(ANY)


@dataclass(frozen=True)
class Temperatures:
    """Temperature scaling: logits are divided by `values`."""

    values: FloatArray
    """`(1,)` for all labels, or `(6,)`."""

    def apply(self, p: FloatArray, neighbours: SeriesNeighbours | None = None) -> FloatArray:
        """Return the probabilities `(N, 6)` at these temperatures."""
        return probabilities(model_logits(p) / self.values)

    def __str__(self) -> str:
        if len(self.values) == 1:
            return f"temperature {self.values[0]:.3f}"
        return f"temperature per label ({', '.join(f'{t:.2f}' for t in self.values)})"


@dataclass(frozen=True)
class Isotonic:
    """A non-decreasing, piecewise linear map per label."""

    before: tuple[FloatArray, ...]
    """Knots of each label, ascending."""
    after: tuple[FloatArray, ...]
    """Values at the knots."""

    def apply(self, p: FloatArray, neighbours: SeriesNeighbours) -> FloatArray:
        """Return the mapped probabilities `(N, 6)`."""
        columns = zip(p.T, self.before, self.after, strict=True)
        return np.stack([np.interp(column, before, after) for column, before, after in columns], axis=1)

    def __str__(self) -> str:
        return "isotonic per label"


@dataclass(frozen=True)
class Consistent:
    """Raises `any` to the largest subtype."""

    def apply(self, p: FloatArray, neighbours: SeriesNeighbours) -> FloatArray:
        """Return the probabilities `(N, 6)` with any >= max of the subtypes."""
        raised = p.copy()
        raised[:, _ANY] = reduce(np.maximum, p.T)
        return raised

    def __str__(self) -> str:
        return "any >= max of the subtypes"


@dataclass(frozen=True)
class Bounds:
    """Clips probabilities to `low` and 1 - `high`."""

    low: float
    high: float

    def apply(self, p: FloatArray, neighbours: SeriesNeighbours) -> FloatArray:
        """Return the clipped probabilities `(N, 6)`."""
        return np.clip(p, self.low, 1.0 - self.high)

    def __str__(self) -> str:
        return f"to [{self.low:g}, 1 - {self.high:g}]"


def fit_temperature(p: FloatArray, labels: FloatArray, neighbours: SeriesNeighbours | None = None) -> Temperatures:
    """Return the one temperature with the lowest weighted log loss of the labels that vary; `p` is `(N, 6)`."""
    varied = varying(labels)
    if not varied.any():
        return Temperatures(np.ones(1))
    y = labels[:, varied]
    weights = np.broadcast_to(entry_weights(y) * np.asarray(LABEL_WEIGHTS)[varied], y.shape).ravel()
    return Temperatures(1.0 / _slope(model_logits(p[:, varied]).ravel(), y.ravel(), weights))


def fit_temperatures(p: FloatArray, labels: FloatArray, neighbours: SeriesNeighbours) -> Temperatures:
    """Return the temperature with the lowest log loss of each label; 1 for a label that does not vary."""
    columns = zip(model_logits(p).T, labels.T, varying(labels), strict=True)
    return Temperatures(1.0 / np.concatenate([_slope(z, y) if varied else np.ones(1) for z, y, varied in columns]))


def fit_isotonic(p: FloatArray, labels: FloatArray, neighbours: SeriesNeighbours) -> Isotonic:
    """Return the non-decreasing map with the least squares, and so the lowest log loss, of each label.

    One observation with the label's prevalence is added at either end: few slices must not yield certainty. A label
    that does not vary gets the identity.
    """
    columns = (
        (x[~np.isnan(y)], y[~np.isnan(y)], varied) for x, y, varied in zip(p.T, labels.T, varying(labels), strict=True)
    )
    maps = [_monotone(x, y) if varied else (np.array([0.0, 1.0]), np.array([0.0, 1.0])) for x, y, varied in columns]
    return Isotonic(tuple(before for before, _ in maps), tuple(after for _, after in maps))


def fit_bounds(p: FloatArray, labels: FloatArray, neighbours: SeriesNeighbours) -> Bounds:
    """Return the bounds among `BOUNDS` with the lowest weighted log loss; the widest among equals."""
    low, high = (BOUNDS[int(np.argmin(losses))] for losses in (_losses(p, labels), _losses(1.0 - p, 1.0 - labels)))
    return Bounds(low, high)


def _slope(z: FloatArray, y: FloatArray, weights: FloatArray | None = None) -> FloatArray:
    fitted = fit_logistic([z], y, weights, towards=[1.0], positive=True)
    slope: FloatArray = np.maximum(fitted, 1e-3)  # 0 for random predictions; the temperature must stay finite
    return slope


def _monotone(p: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return ascending knots and their values: the ends of each constant piece."""
    first, last, sums, counts = _runs(p, y)
    prevalence = y.mean()
    first, last = (np.concatenate([first[:1], points, last[-1:]]) for points in (first, last))
    rates = np.concatenate([[prevalence], sums / counts, [prevalence]])
    fitted = isotonic_regression(rates, weights=np.concatenate([[1.0], counts, [1.0]]))
    begins, ends = fitted.blocks[:-1], fitted.blocks[1:] - 1
    levels = fitted.x[begins]
    knots, values = np.stack([first[begins], last[ends]], axis=1), np.stack([levels, levels], axis=1)
    distinct = np.stack([np.ones(len(levels), bool), first[begins] < last[ends]], axis=1)
    return knots[distinct], values[distinct]


def _runs(p: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return the first and last probability of ascending runs of rows, the sums of their labels and their lengths.

    A run has the rows of one probability. If all labels are 0 or 1, all negative rows between two positive ones are
    one run: the best non-decreasing map never separates them, and fewer rows need to be sorted together.
    """
    positive, negative = y == 1.0, y == 0.0
    if not (positive | negative).all():
        points, index, counts = np.unique(p, return_inverse=True, return_counts=True)
        return points, points, np.bincount(index, y, len(points)).astype(np.float64), counts.astype(np.float64)
    below = np.sort(p[negative])
    points, times = np.unique(p[positive], return_counts=True)
    left, right = np.searchsorted(below, points, "left"), np.searchsorted(below, points, "right")
    # Alternating: negatives below the first positive, rows of its probability, negatives up to the next, ...
    begins, ends = np.zeros((2, 2 * len(points) + 1), np.int64)
    begins[1::2], ends[1::2] = left, right
    begins[2::2], ends[:-1:2], ends[-1] = right, left, len(below)
    sums = np.zeros(len(begins))
    sums[1::2] = times
    first, last = np.empty((2, len(begins)))
    first[1::2] = last[1::2] = points
    gap = np.flatnonzero(ends > begins)
    gap = gap[gap % 2 == 0]
    first[gap], last[gap] = below[begins[gap]], below[ends[gap] - 1]
    lengths = ends - begins + sums
    filled = lengths > 0
    return first[filled], last[filled], sums[filled], lengths[filled]


def _losses(p: FloatArray, labels: FloatArray) -> FloatArray:
    """Return the weighted log loss for each lower bound of `BOUNDS`, less the part that none of them changes.

    All entries below a bound become equal to it, so sums over the entries between bounds suffice.
    """
    below = (p < BOUNDS[-1]) & ~np.isnan(labels)
    y, entries = labels[below], np.maximum(p[below], CLIP)
    weights = np.broadcast_to(np.asarray(LABEL_WEIGHTS) * entry_weights(labels), p.shape)[below]
    place = np.searchsorted(BOUNDS, entries, "right")  # the first bound that changes the entry
    unclipped = -(y * np.log(entries) + (1.0 - y) * np.log1p(-entries))
    loss, positive, negative = (np.bincount(place, weights * v, len(BOUNDS)) for v in (unclipped, y, 1.0 - y))
    unchanged = np.append(np.cumsum(loss[:0:-1])[::-1], 0.0)
    losses: FloatArray = (
        unchanged - np.cumsum(positive) * np.log(BOUNDS) - np.cumsum(negative) * np.log1p(-np.array(BOUNDS))
    )
    return losses
