"""Calibration slopes and intercepts equal those of statsmodels and scikit-learn, with standard errors by patient."""

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from ichx.evaluation.calibration_line import CalibrationLine, calibration_line


def drawn(rows: int, slope: float, shift: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return truth, probabilities and patients; the true line of the probabilities is (`shift`, `slope`)."""
    rng = np.random.default_rng(seed)
    patients = np.repeat(np.arange(rows // 10), 10)
    x = rng.normal(-1, 1.5, rows) + rng.normal(0, 0.5, rows // 10)[patients]
    return rng.random(rows) < expit(shift + slope * x), expit(x), patients


def test_the_line_equals_that_of_statsmodels_with_clustered_errors() -> None:
    api = pytest.importorskip("statsmodels.api")
    truth, p, patients = drawn(4000, 0.7, -0.4)
    found = calibration_line(truth, p, patients)
    x = logit(p)
    model = api.GLM(truth.astype(float), api.add_constant(x), family=api.families.Binomial())
    fitted = model.fit(cov_type="cluster", cov_kwds={"groups": patients}, tol=1e-14, maxiter=200)
    assert (found.intercept.value, found.slope.value) == pytest.approx(tuple(fitted.params), abs=1e-9)
    assert (found.intercept.standard_error, found.slope.standard_error) == pytest.approx(tuple(fitted.bse), abs=1e-9)
    assert (found.slope.low, found.slope.high) == pytest.approx(tuple(fitted.conf_int()[1]), abs=1e-9)
    constant = api.GLM(truth.astype(float), np.ones(4000), family=api.families.Binomial(), offset=x)
    alone = constant.fit(cov_type="cluster", cov_kwds={"groups": patients}, tol=1e-14, maxiter=200)
    assert found.in_the_large.value == pytest.approx(alone.params[0], abs=1e-9)
    assert found.in_the_large.standard_error == pytest.approx(alone.bse[0], abs=1e-9)


def test_the_line_equals_that_of_scikit_learn() -> None:
    truth, p, patients = drawn(3000, 1.4, 0.2, seed=1)
    found = calibration_line(truth, p, patients)
    fitted = LogisticRegression(C=np.inf, tol=1e-12, max_iter=1000).fit(logit(p)[:, None], truth)
    assert found.slope.value == pytest.approx(fitted.coef_[0, 0], abs=1e-5)
    assert found.intercept.value == pytest.approx(fitted.intercept_[0], abs=1e-5)


def covers(found: CalibrationLine, slope: float, large: bool) -> bool:
    line = found.slope
    assert line.low is not None
    assert line.high is not None
    return line.low <= slope <= line.high and (not large or (found.in_the_large.low or 0) < 0)


def test_overconfident_and_too_high_probabilities_are_recognised() -> None:
    assert covers(calibration_line(*drawn(20_000, 0.6, -0.5, seed=2)), 0.6, large=True)
    assert covers(calibration_line(*drawn(20_000, 1.0, 0.0, seed=3)), 1.0, large=False)


def test_undefined_lines_say_why() -> None:
    truth, p, patients = drawn(1000, 1, 0)
    absent = calibration_line(np.zeros(1000, bool), p, patients)
    assert (absent.slope.value, absent.observed) == (None, 0)
    assert absent.slope.undefined
    separated = calibration_line(p > 0.5, p, patients)
    assert separated.slope.value is None
    # Rows of one probability have both outcomes, all others are separated: the slope grows without bound.
    nearly = np.array([0.1, 0.2, 0.3, 0.5, 0.5, 0.7, 0.8] * 100)
    both = np.array([0, 0, 0, 0, 1, 1, 1] * 100, bool)
    assert calibration_line(both, nearly, np.arange(700)).slope.value is None
    constant = calibration_line(truth, np.full(1000, 0.3), patients)
    assert constant.slope.value is None
    assert constant.in_the_large.value is not None
    few = calibration_line(truth, p, np.arange(1000) % 5)
    assert few.slope.value is not None
    assert few.slope.low is None
    extreme = calibration_line(truth, np.round(p), patients)
    assert extreme.slope.value is None or np.isfinite(extreme.slope.value)
