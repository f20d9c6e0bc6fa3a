"""What a fixed threshold does on a set of slices or studies, with intervals over patients.

A row is called positive if its probability is at least the threshold. Thresholds are chosen in
`ichx.evaluation.operating_points`.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ichx.errors import InvalidInputError
from ichx.evaluation.bootstrap import DrawnRate, Interval, rate_intervals
from ichx.evaluation.metric import FloatArray
from ichx.evaluation.patient_sums import DRAWS


@dataclass(frozen=True)
class CallScores:
    """Sensitivity and what else follows from a threshold."""

    threshold: float
    rows: int
    """Slices or studies."""
    patients: int
    positives: int
    prevalence: float
    """For the predictive values and the alarms: that of the rows, unless another was given."""
    sensitivity: Interval
    specificity: Interval
    positive_predictive_value: Interval
    negative_predictive_value: Interval
    alarms: Interval
    """Positive calls per 100 rows."""

    @property
    def rates(self) -> tuple[Interval, ...]:
        """Sensitivity, specificity, both predictive values and the alarms."""
        return (
            self.sensitivity,
            self.specificity,
            self.positive_predictive_value,
            self.negative_predictive_value,
            self.alarms,
        )


def call_scores(
    truth: npt.NDArray[np.bool_],
    probabilities: FloatArray,
    patients: npt.NDArray[np.object_],
    threshold: float,
    *,
    prevalence: float | None = None,
    draws: int = DRAWS,
) -> CallScores:
    """Return what `threshold` does.

    Args:
        truth: Which rows are positive, `(N,)`.
        probabilities: `(N,)`
        patients: Patient of each row, `(N,)`.
        threshold: The least probability of a positive call.
        prevalence: Share of positives where the threshold will be used: predictive values and alarms follow from it,
            sensitivity and specificity by Bayes' rule; None takes the rows as they are.
        draws: Draws of patients for the intervals.

    Raises:
        InvalidInputError: The prevalence is not between 0 and 1.
    """
    if prevalence is not None and not 0 < prevalence < 1:
        raise InvalidInputError(f"Invalid prevalence: {prevalence}.", "Use a share between 0 and 1, e.g. 0.1.")
    called, every = probabilities >= threshold, np.ones(len(truth), bool)
    counted = np.column_stack([called, ~called, truth, ~truth, called])
    among = np.column_stack([truth, ~truth, called, ~called, every])
    sensitivity, specificity, ppv, npv, alarms = rate_intervals(counted, among, patients, draws=draws)
    if prevalence is not None:
        ppv, npv, alarms = _at_prevalence(sensitivity, specificity, prevalence)
    return CallScores(
        threshold=threshold,
        rows=len(truth),
        patients=len(np.unique(patients)),
        positives=int(truth.sum()),
        prevalence=float(truth.mean()) if prevalence is None else prevalence,
        sensitivity=sensitivity.interval,
        specificity=specificity.interval,
        positive_predictive_value=ppv.interval,
        negative_predictive_value=npv.interval,
        alarms=_times_100(alarms.interval),
    )


def _at_prevalence(sensitivity: DrawnRate, specificity: DrawnRate, p: float) -> tuple[DrawnRate, DrawnRate, DrawnRate]:
    """Return both predictive values and the share of positive calls at the prevalence `p`."""
    short = sensitivity.shortage or specificity.shortage

    def rates(se: FloatArray, sp: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        hits, false_alarms = se * p, (1 - sp) * (1 - p)
        misses, passes = (1 - se) * p, sp * (1 - p)
        with np.errstate(invalid="ignore", divide="ignore"):
            return hits / (hits + false_alarms), passes / (passes + misses), hits + false_alarms

    points = rates(np.array(sensitivity.value), np.array(specificity.value))
    drawn = rates(sensitivity.drawn, specificity.drawn)
    one, two, three = (DrawnRate(float(value), of, short) for value, of in zip(points, drawn, strict=True))
    return one, two, three


def _times_100(found: Interval) -> Interval:
    value, low, high, error = (
        None if value is None else 100 * value for value in (found.value, found.low, found.high, found.standard_error)
    )
    return Interval(value, low, high, error, found.undefined)
