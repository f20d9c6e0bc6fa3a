"""Decision curves: the net benefit of acting on a prediction, compared with acting on all rows or on none.

Net benefit at the threshold probability t is TP/N - FP/N * t / (1 - t): the benefit of a true positive is 1, and t is
the probability at which acting and not acting are equally good (Vickers and Elkin, Medical Decision Making 2006). Not
acting has the net benefit 0. Probabilities need to be calibrated: t is both the threshold and the exchange rate.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from ichx.errors import InvalidInputError
from ichx.evaluation.bootstrap import Interval, percentile_interval
from ichx.evaluation.choices import Pooling
from ichx.evaluation.label_rows import label_rows
from ichx.evaluation.metric import FloatArray
from ichx.evaluation.patient_sums import DRAWS, PatientSums
from ichx.evaluation.subgroup_scores import Predicted, Unit

THRESHOLDS: Final = tuple(i / 100 for i in range(1, 100))
"""Threshold probabilities of a curve."""
SHOWN: Final = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
"""Those of a table."""


@dataclass(frozen=True)
class DecisionPoint:
    """Net benefits at one threshold probability, per row."""

    threshold: float
    net_benefit: Interval
    """Of acting where the probability is at least the threshold."""
    of_all: Interval
    """Of acting on every row."""
    gain: Interval
    """The net benefit less the better one of acting on all and on none; the interval is paired."""


@dataclass(frozen=True)
class DecisionCurve:
    """The net benefits of one label's probabilities."""

    rows: int
    """Slices or studies with a known label."""
    patients: int
    positives: int
    prevalence: float
    """That of the rows, unless another was given."""
    points: tuple[DecisionPoint, ...]
    """By rising threshold."""

    @property
    def useful(self) -> tuple[float, float] | None:
        """The widest range of consecutive thresholds where the interval of the gain is above 0; None without one."""
        best: list[float] = []
        run: list[float] = []
        for point in self.points:
            run = [*run, point.threshold] if point.gain.low is not None and point.gain.low > 0 else []
            best = max(best, run, key=len)
        return (best[0], best[-1]) if best else None

    def at(self, thresholds: Sequence[float]) -> list[DecisionPoint]:
        """Return the points of these thresholds, as far as the curve has them."""
        return [point for point in self.points if any(abs(point.threshold - t) < 1e-9 for t in thresholds)]


def decision_curve(
    truth: npt.NDArray[np.bool_],
    probabilities: FloatArray,
    patients: npt.ArrayLike,
    thresholds: Sequence[float] = THRESHOLDS,
    *,
    prevalence: float | None = None,
    draws: int = DRAWS,
) -> DecisionCurve:
    """Return the decision curve of one label.

    Args:
        truth: Which rows are positive, `(N,)`.
        probabilities: `(N,)`
        patients: Patient of each row, `(N,)`.
        thresholds: Threshold probabilities, above 0 and below 1.
        prevalence: Share of positives where decisions will be made; None takes the rows as they are.
        draws: Draws of patients for the intervals.

    Raises:
        InvalidInputError: There are no rows, or a threshold or the prevalence is not between 0 and 1.
    """
    t = np.unique(np.asarray(thresholds, np.float64))
    if not len(t) or not ((t > 0) & (t < 1)).all():
        raise InvalidInputError(f"Invalid thresholds: {t.tolist()}.", "Use probabilities between 0 and 1.")
    if prevalence is not None and not 0 < prevalence < 1:
        raise InvalidInputError(f"Invalid prevalence: {prevalence}.", "Use a share between 0 and 1, e.g. 0.1.")
    if not len(truth):
        raise InvalidInputError("There is no row with a known label.", "Use a dataset with labels.")
    sample = PatientSums(patients, draws)
    cells = np.searchsorted(t, probabilities, "right").astype(np.int64)  # how many thresholds a row reaches
    counts = [sample.counts(cells, len(t) + 1, rows) for rows in (truth, ~truth)]
    called = np.concatenate([np.cumsum(of[::-1], axis=0)[::-1] for of in counts])  # row 0 of each: all rows
    odds, size = (t / (1 - t))[:, None], len(t)

    def benefits(totals: FloatArray) -> FloatArray:
        hits, alarms = totals[: size + 1], totals[size + 1 :]
        with np.errstate(invalid="ignore", divide="ignore"):
            positives = hits[0] / (hits[0] + alarms[0]) if prevalence is None else np.full_like(hits[0], prevalence)
            true, false = hits[1:] / hits[0] * positives, alarms[1:] / alarms[0] * (1 - positives)
            if prevalence is None:  # defined in draws without one of the classes, too
                true, false = hits[1:] / (hits[0] + alarms[0]), alarms[1:] / (hits[0] + alarms[0])
            model, everyone = true - false * odds, positives - (1 - positives) * odds
        return np.concatenate([model, everyone, model - np.maximum(everyone, 0)])

    point = benefits(called.sum(axis=1, keepdims=True))[:, 0]
    drawn, short = sample.drawn(called, benefits), sample.shortage(truth)
    absent = "the label never or always occurs" if truth.all() or not truth.any() else None

    def interval(row: int) -> Interval:
        value = float(point[row])
        return percentile_interval(value if np.isfinite(value) else None, drawn[row], absent or short)

    return DecisionCurve(
        rows=len(truth),
        patients=sample.count,
        positives=int(truth.sum()),
        prevalence=float(truth.mean()) if prevalence is None else prevalence,
        points=tuple(
            DecisionPoint(float(value), interval(i), interval(size + i), interval(2 * size + i))
            for i, value in enumerate(t)
        ),
    )


def decision_curves(
    predicted: Predicted,
    labels: Sequence[str],
    unit: Unit = "study",
    *,
    pooling: Pooling = "max",
    prevalence: float | None = None,
) -> dict[str, DecisionCurve]:
    """Return the decision curve of each label that has both classes; see `decision_curve` and `label_rows`."""
    found = {name: label_rows(predicted, name, unit, pooling) for name in labels}
    return {
        name: decision_curve(rows.truth, rows.probabilities, rows.patients, prevalence=prevalence)
        for name, rows in found.items()
        if rows.both_classes
    }
