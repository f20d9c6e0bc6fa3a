"""Calibration slope and intercept of a label: how far probabilities are too extreme, and too high or too low.

A logistic regression of the outcome on the logit of the probability, logit P(y = 1) = a + b logit(p) (Cox, Biometrika
1958; Van Calster et al., BMC Medicine 2019). Slices of one patient are not independent, so standard errors come from
the cluster-robust covariance (Liang and Zeger, Biometrika 1986) with the patients as clusters.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit

from ichx.evaluation.bootstrap import Interval
from ichx.evaluation.metric import CLIP, FloatArray
from ichx.evaluation.patient_sums import PatientSums
from ichx.evaluation.scores import UNKNOWN_LABEL, positive
from ichx.labels import LABELS

Z: Final = 1.959963984540054
"""Of a 95 % interval."""
STEPS: Final = 100
TOLERANCE: Final = 1e-12
CONVERGED: Final = 1e-6
"""Largest relative step after `STEPS` at which the likelihood is taken to have a maximum."""


@dataclass(frozen=True)
class CalibrationLine:
    """The line of one label."""

    slope: Interval
    """1 if calibrated; below 1 if probabilities are too extreme, above if they are not extreme enough."""
    intercept: Interval
    """`a` of the line with that slope."""
    in_the_large: Interval
    """`a` with a slope of 1: below 0 if probabilities are too high on average, above if they are too low."""
    observed: float
    """Share of positives."""
    predicted: float
    """Mean probability."""


def calibration_line(
    truth: npt.NDArray[np.bool_], probabilities: FloatArray, patients: npt.ArrayLike
) -> CalibrationLine:
    """Return the calibration line of one label.

    Args:
        truth: `(N,)`
        probabilities: `(N,)`
        patients: Patient of each row, `(N,)`.

    Returns:
        Intervals without a value if a class is absent or one value of the probability separates the classes; without
        bounds from few patients.
    """
    if not len(truth):
        unknown = Interval(None, None, None, None, UNKNOWN_LABEL)
        return CalibrationLine(unknown, unknown, unknown, observed=float("nan"), predicted=float("nan"))
    y = truth.astype(np.float64)
    x = logit(np.clip(probabilities, CLIP, 1 - CLIP))
    sample = PatientSums(patients)
    codes, reason = sample.codes, sample.shortage(truth)
    line = _fit(np.column_stack([np.ones_like(x), x]), y, np.zeros_like(x), codes)
    large = _fit(np.ones((len(x), 1)), y, x, codes)
    intercept, slope = (_interval(line, i, reason) for i in range(2))
    return CalibrationLine(
        slope=slope,
        intercept=intercept,
        in_the_large=_interval(large, 0, reason),
        observed=float(y.mean()),
        predicted=float(np.mean(probabilities)),
    )


def calibration_lines(
    labels: FloatArray, probabilities: FloatArray, patients: npt.ArrayLike
) -> dict[str, CalibrationLine]:
    """Return the line of each label, of the rows where it is known; labels and probabilities are `(N, 6)`."""
    owners = np.asarray(patients)
    lines = {}
    for k, name in enumerate(LABELS):
        known = ~np.isnan(labels[:, k])
        lines[name] = calibration_line(positive(labels[known, k]), probabilities[known, k], owners[known])
    return lines


def line_coefficients(
    truth: npt.NDArray[np.bool_], probabilities: FloatArray, *, with_slope: bool
) -> tuple[float, float] | None:
    """Return intercept and slope of the line of one label, `(N,)` both; the slope is 1 without `with_slope`.

    None if a class is absent or the probabilities separate the classes.
    """
    x = logit(np.clip(probabilities, CLIP, 1 - CLIP))
    codes, one = np.arange(len(x)), np.ones_like(x)
    if with_slope:
        found = _fit(np.column_stack([one, x]), truth.astype(np.float64), np.zeros_like(x), codes)
        return None if found is None else (float(found[0][0]), float(found[0][1]))
    found = _fit(one[:, None], truth.astype(np.float64), x, codes)
    return None if found is None else (float(found[0][0]), 1.0)


def _fit(
    design: FloatArray, y: FloatArray, offset: FloatArray, codes: npt.NDArray[np.int64]
) -> tuple[FloatArray, FloatArray] | None:
    """Return coefficients `(K,)` and their cluster-robust standard errors; None if the likelihood has no maximum."""
    if y.all() or not y.any() or np.linalg.matrix_rank(design) < design.shape[1]:
        return None
    beta = np.zeros(design.shape[1])
    if design.shape[1] == 2:
        beta[1] = 1.0
    loss = _loss(design, y, offset, beta)
    for _ in range(STEPS):
        p = expit(design @ beta + offset)
        gradient = design.T @ (y - p)
        information = (design * (p * (1 - p))[:, None]).T @ design
        try:
            step = np.linalg.solve(information, gradient)
        except np.linalg.LinAlgError:
            return None
        scale = 1.0
        while (after := _loss(design, y, offset, beta + scale * step)) > loss + 1e-12 and scale > 1e-6:
            scale /= 2
        beta, loss = beta + scale * step, min(after, loss)
        if not np.isfinite(beta).all() or np.abs(beta).max() > 1e3:
            return None
        if np.abs(scale * step).max() < TOLERANCE * max(1.0, np.abs(beta).max()):
            break
    else:
        if np.abs(step).max() > CONVERGED * max(1.0, np.abs(beta).max()):
            return None  # some rows separate the classes: the slope grows without bound
    p = expit(design @ beta + offset)
    information = (design * (p * (1 - p))[:, None]).T @ design
    groups = int(codes.max()) + 1
    scores = design * (y - p)[:, None]
    of_patient = np.stack([np.bincount(codes, weights=column, minlength=groups) for column in scores.T], axis=1)
    try:
        bread = np.linalg.inv(information)
    except np.linalg.LinAlgError:
        return None
    n, k = design.shape
    correction = groups / max(groups - 1, 1) * (n - 1) / max(n - k, 1)
    covariance = correction * bread @ (of_patient.T @ of_patient) @ bread
    return beta, np.sqrt(np.maximum(np.diag(covariance), 0.0))


def _loss(design: FloatArray, y: FloatArray, offset: FloatArray, beta: FloatArray) -> float:
    z = design @ beta + offset
    return float(np.mean(np.logaddexp(0, z) - y * z))


def _interval(fitted: tuple[FloatArray, FloatArray] | None, index: int, reason: str | None) -> Interval:
    if fitted is None:
        return Interval(None, None, None, None, "the probabilities separate the classes, or one is absent")
    value, error = float(fitted[0][index]), float(fitted[1][index])
    if reason is not None:
        return Interval(value, None, None, None, reason)
    return Interval(value, value - Z * error, value + Z * error, error)
