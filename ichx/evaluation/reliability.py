"""Reliability curves: the share of positives by predicted probability, with intervals over patients.

Bins have equal numbers of rows by default: with bins of equal width, nearly all rows of a rare label are in the first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from ichx.evaluation.bootstrap import Interval, percentile_interval
from ichx.evaluation.choices import Pooling
from ichx.evaluation.label_rows import label_rows
from ichx.evaluation.metric import FloatArray
from ichx.evaluation.patient_sums import DRAWS, MIN_IN_CLASS, MIN_PATIENTS, PatientSums
from ichx.evaluation.subgroup_scores import Predicted, Unit
from ichx.text import format_count

BINS: Final = 10

Binning = Literal["rows", "width"]
"""Bins with equal numbers of rows, or of equal width."""


@dataclass(frozen=True)
class ReliabilityBin:
    """Rows with similar probabilities."""

    low: float
    """Least probability in the bin."""
    high: float
    """Largest one."""
    rows: int
    patients: int
    positives: int
    predicted: float
    """Mean probability."""
    observed: Interval
    """Share of positives. No interval with few patients, or if all or none of the rows are positive."""


@dataclass(frozen=True)
class ReliabilityCurve:
    """The bins of one label that are not empty."""

    binning: Binning
    rows: int
    patients: int
    positives: int
    bins: tuple[ReliabilityBin, ...]
    """By rising probability."""


def reliability_curve(
    truth: npt.NDArray[np.bool_],
    probabilities: FloatArray,
    patients: npt.ArrayLike,
    *,
    binning: Binning = "rows",
    bins: int = BINS,
    draws: int = DRAWS,
) -> ReliabilityCurve:
    """Return the reliability curve of one label.

    Args:
        truth: Which rows are positive, `(N,)`.
        probabilities: `(N,)`
        patients: Patient of each row, `(N,)`.
        binning: How rows are binned. Rows of equal probability are in one bin.
        bins: Number of bins; fewer if rows of equal probability do not split.
        draws: Draws of patients for the intervals.
    """
    sample, cells = PatientSums(patients, draws), _cells(probabilities, binning, bins)
    every = np.ones(len(truth), bool)
    counts = np.stack([sample.counts(cells, bins, rows) for rows in (truth, every)])
    filled = np.flatnonzero(counts[1].sum(axis=1))
    size = len(filled)

    def shares(totals: FloatArray) -> FloatArray:
        with np.errstate(invalid="ignore", divide="ignore"):
            found: FloatArray = totals[:size] / totals[size:]
        return found

    drawn = sample.drawn(counts[:, filled].reshape(2 * size, -1), shares) if size else np.empty((0, draws))
    short, found = sample.shortage(), []
    for of_draws, cell in zip(drawn, filled, strict=True):
        rows = cells == cell
        positives, owners, p = int(truth[rows].sum()), int((counts[1, cell] > 0).sum()), probabilities[rows]
        few = None if owners >= MIN_IN_CLASS else f"no interval from {format_count(owners, 'patient')} in the bin"
        alike = "all or none of the rows have the label" if positives in (0, len(p)) else None
        observed = percentile_interval(positives / len(p), of_draws, short or few or alike)
        found.append(
            ReliabilityBin(float(p.min()), float(p.max()), len(p), owners, positives, float(p.mean()), observed)
        )
    return ReliabilityCurve(binning, len(truth), sample.count, int(truth.sum()), tuple(found))


def reliability_curves(
    predicted: Predicted,
    labels: Sequence[str],
    unit: Unit = "slice",
    *,
    pooling: Pooling = "max",
    binning: Binning = "rows",
) -> dict[str, ReliabilityCurve]:
    """Return the reliability curve of each label; see `reliability_curve` and `ichx.evaluation.label_rows`.

    Bins of equal numbers of rows have about `MIN_PATIENTS` patients or more each, so that there are intervals.
    """
    found = {name: label_rows(predicted, name, unit, pooling) for name in labels}
    return {
        name: reliability_curve(
            rows.truth,
            rows.probabilities,
            rows.patients,
            binning=binning,
            bins=BINS if binning == "width" else min(max(len(np.unique(rows.patients)) // MIN_PATIENTS, 2), BINS),
        )
        for name, rows in found.items()
        if len(rows.truth)
    }


def _cells(p: FloatArray, binning: Binning, bins: int) -> npt.NDArray[np.int64]:
    """Return the bin of each row."""
    if binning == "width":
        return np.minimum((p * bins).astype(np.int64), bins - 1)
    rank = np.searchsorted(np.sort(p), p, "left")  # the same for equal probabilities
    cells: npt.NDArray[np.int64] = rank * bins // max(len(p), 1)
    return cells
