"""Statistics of evaluations: largest differences from other libraries and published values, time of subgroups.

Part of `benchmarks/external.py`; statsmodels and scikit-learn are development dependencies.
"""

import time
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import statsmodels.api as sm
from cohort import data_folder, real_cohort, synthetic_cohort
from common import Figure
from intervals import predictions
from scipy.special import expit, logit
from sklearn.calibration import calibration_curve
from sklearn.metrics import cohen_kappa_score, confusion_matrix, roc_auc_score, roc_curve
from statsmodels.stats.inter_rater import aggregate_raters
from statsmodels.stats.inter_rater import fleiss_kappa as their_fleiss

from ichx.evaluation.calibration_line import calibration_line
from ichx.evaluation.call_scores import call_scores
from ichx.evaluation.decision_curve import decision_curve
from ichx.evaluation.delong import auc_covariance, compare_areas
from ichx.evaluation.kappa import cohen_kappa, fleiss_kappa
from ichx.evaluation.label_rows import LabelRows
from ichx.evaluation.recalibration import fit_label
from ichx.evaluation.reliability import reliability_curve
from ichx.evaluation.subgroup_scores import Predicted, subgroup_scores
from ichx.evaluation.threshold_choice import ThresholdRequest, chosen_threshold

EXACT: Final = 1e-9
SECONDS: Final = 60.0
GROUPS: Final = 30
QUICK: Final = 0.05
"""Share of the slices with --quick."""
DRAWS: Final = 3
"""Draws where only values are compared."""

# Ovarian cancer: albumin, total protein, K-G score, benefit of surgery (DeLong et al., Biometrics 1988)
_ALBUMIN = (
    "3.0 3.2 3.9 2.8 3.2 0.9 2.5 1.6 3.8 3.7 3.2 3.8 4.1 3.6 4.3 3.6 2.3 4.2 4.0 3.5 3.8 3.0 4.5 3.7 3.1 4.1 4.3 4.3 "
    "3.2 2.6 3.3 1.7 3.7 3.3 4.2 3.5 2.9 2.1 2.8 4.0 3.3 3.7 3.6"
)
_PROTEIN = (
    "5.8 6.3 6.8 4.8 5.8 4.0 5.7 5.6 5.7 6.7 5.4 6.6 6.6 5.7 7.0 6.7 4.4 7.6 6.6 5.8 6.8 4.7 7.4 7.4 6.6 8.2 7.0 6.5 "
    "5.1 4.7 6.8 4.0 6.1 6.3 7.7 6.2 5.7 4.8 6.2 7.0 5.7 6.9 6.6"
)
_SCORE = "10 5 3 6 3 5 8 5 5 6 4 6 5 5 4 4 6 4 6 6 7 8 5 5 6 6 5 4 5 6 6 7 5 7 6 5 9 7 8 7 6 5 5"
_BENEFIT = "0 1 1 0 1 0 0 1 1 1 1 1 1 1 1 0 1 0 0 1 1 0 1 1 1 1 1 1 1 1 0 0 1 1 1 1 0 1 0 1 1 1 1"


def measure(quick: bool) -> list[Figure]:
    """Return the figures."""
    rng = np.random.default_rng(0)
    rows = 2_000 if quick else 20_000
    patients = rng.integers(0, rows // 10, rows).astype(str).astype(object)
    x = rng.normal(-1, 1.5, rows)
    p, truth = expit(x), rng.random(rows) < expit(0.3 + 0.7 * x)
    published = _published()
    return [
        _figure("threshold, its sensitivity and specificity", _thresholds(truth, p, patients), "scikit-learn"),
        _figure("kappa of Cohen and Fleiss", _kappas(rng, rows), "scikit-learn, statsmodels"),
        _figure("DeLong: areas and covariance", _delong(rng), "scikit-learn, definition"),
        Figure(
            "DeLong: published example",
            published := _published(),
            "",
            "DeLong 1988, 4 digits",
            "5e-5",
            published <= 5e-5,
        ),
        _figure("calibration slope, intercept and errors", _lines(truth, p, patients), "statsmodels"),
        _figure("recalibration: intercept, slope", _recalibration(truth, p, patients), "statsmodels"),
        _figure("reliability curve", _reliability(truth, p, patients), "scikit-learn"),
        _figure("net benefit", _benefit(truth, p, patients), "counts of scikit-learn"),
        _subgroups(quick),
    ]


def _figure(name: str, difference: float, baseline: str) -> Figure:
    return Figure(f"largest difference: {name}", difference, "", baseline, f"{EXACT:g}", difference <= EXACT)


def _largest(found: npt.ArrayLike, expected: npt.ArrayLike) -> float:
    return float(np.abs(np.asarray(found, float) - np.asarray(expected, float)).max())


def _thresholds(truth: npt.NDArray[np.bool_], p: npt.NDArray[np.float64], patients: npt.NDArray[np.object_]) -> float:
    fpr, tpr, thresholds = roc_curve(truth, p, drop_intermediate=False)
    found, expected = [], []
    for rule, value in (("sensitivity", 0.95), ("specificity", 0.9)):
        one = chosen_threshold(LabelRows(truth, p, patients, patients), ThresholdRequest("any", rule, value))  # type: ignore[arg-type]
        assert one is not None  # some row is called
        at = np.argmax(tpr >= value) if rule == "sensitivity" else np.flatnonzero(1 - fpr >= value)[-1]
        calls = call_scores(truth, p, patients, one, draws=DRAWS)
        found += [one, calls.sensitivity.value or 0, calls.specificity.value or 0]
        expected += [thresholds[at], tpr[at], 1 - fpr[at]]
    return _largest(found, expected)


def _kappas(rng: np.random.Generator, rows: int) -> float:
    values = (rng.random(rows) < 0.3)[:, None] ^ (rng.random((rows, 3)) < 0.15)
    patients = np.arange(rows)
    found = [
        cohen_kappa(values[:, 0], values[:, 1], patients, draws=DRAWS).value,
        fleiss_kappa(values, patients, draws=DRAWS).value,
    ]
    theirs = their_fleiss(aggregate_raters(values.astype(int))[0])
    return _largest([one or 0 for one in found], [cohen_kappa_score(values[:, 0], values[:, 1]), theirs])


def _delong(rng: np.random.Generator) -> float:
    truth, predictions = rng.random(500) < 0.3, np.round(rng.random((2, 500)), 2)
    areas, covariance = auc_covariance(truth, predictions)
    psi = [
        (p[truth][:, None] > p[~truth][None, :]) + 0.5 * (p[truth][:, None] == p[~truth][None, :]) for p in predictions
    ]
    by_positive, by_negative = (np.stack([one.mean(axis=axis) for one in psi]) for axis in (1, 0))
    expected = np.cov(by_positive) / truth.sum() + np.cov(by_negative) / (~truth).sum()
    return max(_largest(areas, [roc_auc_score(truth, p) for p in predictions]), _largest(covariance, expected))


def _published() -> float:
    """Return the largest difference from the published areas, standard errors, differences and p values."""
    albumin, protein, score = (np.array(text.split(), float) for text in (_ALBUMIN, _PROTEIN, _SCORE))
    truth = np.array(_BENEFIT.split(), int) > 0
    areas, covariance = auc_covariance(truth, np.stack([albumin, protein, 10 - score]))
    one, two = compare_areas(truth, albumin, 10 - score), compare_areas(truth, protein, 10 - score)
    assert one is not None
    assert two is not None
    found = [*areas, *np.sqrt(np.diag(covariance)), one.difference, one.low, one.high, one.p_value]
    expected = [0.7366, 0.6478, 0.7258, 0.0927, 0.1000, 0.1028, 0.0108, -0.1761, 0.1976, 0.9102]
    return _largest([*found, two.difference, two.p_value], [*expected, -0.0780, 0.4561])


def _lines(truth: npt.NDArray[np.bool_], p: npt.NDArray[np.float64], patients: npt.NDArray[np.object_]) -> float:
    found = calibration_line(truth, p, patients)
    x, y, family = logit(p), truth.astype(float), sm.families.Binomial()
    options = {"cov_type": "cluster", "cov_kwds": {"groups": pd.factorize(patients)[0]}, "tol": 1e-14, "maxiter": 200}
    line = sm.GLM(y, sm.add_constant(x), family=family).fit(**options)
    large = sm.GLM(y, np.ones(len(x)), family=family, offset=x).fit(**options)
    ours = (found.intercept, found.slope, found.in_the_large)
    values = [v for one in ours for v in (one.value or 0, one.standard_error or 0)]
    theirs = [line.params[0], line.bse[0], line.params[1], line.bse[1], large.params[0], large.bse[0]]
    return _largest(values, theirs)


def _recalibration(
    truth: npt.NDArray[np.bool_], p: npt.NDArray[np.float64], patients: npt.NDArray[np.object_]
) -> float:
    rows = LabelRows(truth, p, patients, patients)
    both, alone = fit_label("any", rows, "slope"), fit_label("any", rows, "intercept")
    x, y, family = logit(p), truth.astype(float), sm.families.Binomial()
    line = sm.GLM(y, sm.add_constant(x), family=family).fit(tol=1e-14).params
    large = sm.GLM(y, np.ones(len(x)), family=family, offset=x).fit(tol=1e-14).params
    return _largest([both.intercept, both.slope, alone.intercept], [*line, large[0]])


def _reliability(truth: npt.NDArray[np.bool_], p: npt.NDArray[np.float64], patients: npt.NDArray[np.object_]) -> float:
    curve = reliability_curve(truth, p, patients, binning="width", draws=DRAWS)
    observed, predicted = calibration_curve(truth, p, n_bins=10)
    ours = [[one.observed.value or 0 for one in curve.bins], [one.predicted for one in curve.bins]]
    return _largest(ours, [observed, predicted])


def _benefit(truth: npt.NDArray[np.bool_], p: npt.NDArray[np.float64], patients: npt.NDArray[np.object_]) -> float:
    curve = decision_curve(truth, p, patients, draws=DRAWS)
    expected = []
    for point in curve.points:
        _, fp, _, tp = confusion_matrix(truth, p >= point.threshold).ravel()
        expected.append(tp / len(p) - fp / len(p) * point.threshold / (1 - point.threshold))
    return _largest([point.net_benefit.value or 0 for point in curve.points], expected)


def _subgroups(quick: bool) -> Figure:
    """Return the time of all scores with intervals of 30 subgroups, per slice, with 1,000 draws each."""
    folder = data_folder()
    cohort = real_cohort(folder) if folder else synthetic_cohort()
    predicted = predictions(cohort, folder)
    if quick:
        size = round(QUICK * len(cohort.images))
        cohort, predicted = cohort.first(size), predicted[:size]
    codes, names = pd.factorize(cohort.patients)
    group = np.random.default_rng(1).integers(0, GROUPS, len(names))[codes]
    slices = pd.DataFrame(
        {"patient": cohort.patients, "study": cohort.patients, "kernel": "K" + pd.Series(group).astype(str)}
    )
    began = time.perf_counter()
    (found,) = subgroup_scores(Predicted(slices, cohort.labels, predicted), ["kernel"])
    seconds = time.perf_counter() - began
    assert len(found.groups) == GROUPS
    size_text = f"{len(slices):,} slices, {len(names):,} patients, 1,000 draws"
    return Figure(f"intervals of {GROUPS} subgroups", seconds, "s", size_text, f"{SECONDS:g} s", seconds <= SECONDS)
