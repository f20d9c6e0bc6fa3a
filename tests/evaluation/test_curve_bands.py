"""Curves with bands: the curve is scikit-learn's, and the band is that of drawn patients."""

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve, roc_auc_score, roc_curve

from ichx.evaluation.curve_bands import GRID, THRESHOLDS, precision_recall_band, roc_band
from ichx.evaluation.label_rows import LabelRows
from ichx.evaluation.patient_sums import draw_weights


def made(count: int = 240, patients: int = 60, *, levels: int | None = None, seed: int = 0) -> LabelRows:
    random = np.random.default_rng(seed)
    truth = random.random(count) < 0.4
    p = np.clip(0.3 * truth + 0.7 * random.random(count), 0, 1)
    if levels:
        p = np.round(p * levels) / levels
    owners = random.integers(0, patients, count).astype(str).astype(object)
    return LabelRows(truth, p, owners, owners)


@pytest.mark.parametrize("levels", [None, 8])
def test_curves_are_those_of_scikit_learn(levels: int | None) -> None:
    rows = made(levels=levels)
    roc = roc_band(rows, draws=32)
    false, true, threshold = roc_curve(rows.truth, rows.probabilities, drop_intermediate=False)
    np.testing.assert_allclose(roc.x, false, atol=1e-12)
    np.testing.assert_allclose(roc.y, true, atol=1e-12)
    np.testing.assert_array_equal(roc.threshold, threshold)
    precision, recall, cuts = precision_recall_curve(rows.truth, rows.probabilities)
    found = precision_recall_band(rows, draws=32)
    np.testing.assert_allclose(found.x[::-1], recall[:-1], atol=1e-12)
    np.testing.assert_allclose(found.y[::-1], precision[:-1], atol=1e-12)
    np.testing.assert_array_equal(found.threshold[::-1], cuts)


@pytest.mark.parametrize("levels", [None, 8])
def test_bands_are_percentiles_over_drawn_patients(levels: int | None) -> None:
    rows = made(levels=levels)
    names = list(dict.fromkeys(rows.patients))
    sensitivities, precisions = [], []
    for chunk in draw_weights(len(names), 64, 0):
        for weights in chunk.T:
            count = dict(zip(names, weights, strict=True))
            weight = np.array([count[name] for name in rows.patients])
            false, true, _ = roc_curve(rows.truth, rows.probabilities, sample_weight=weight, drop_intermediate=False)
            grid = np.linspace(0, 1, GRID)
            sensitivities.append([_roc_at(x, false, true) for x in grid])
            precision, recall, _ = precision_recall_curve(rows.truth, rows.probabilities, sample_weight=weight)
            precisions.append([precision[:-1][recall[:-1] >= x - 1e-12][-1] for x in grid])
    for band, expected in ((roc_band, sensitivities), (precision_recall_band, precisions)):
        found = band(rows, draws=64)
        low, high = np.percentile(np.array(expected), [2.5, 97.5], axis=0)
        np.testing.assert_allclose(found.low, low, atol=1e-9)
        np.testing.assert_allclose(found.high, high, atol=1e-9)


def _roc_at(x: float, false: np.ndarray, true: np.ndarray) -> float:
    before = np.flatnonzero(false <= x)[-1]
    if before == len(false) - 1:
        return float(true[-1])
    share = (x - false[before]) / (false[before + 1] - false[before])
    return float(true[before] + share * (true[before + 1] - true[before]))


def test_a_long_curve_is_thinned_without_changing_its_area() -> None:
    rows = made(20_000, 300)
    found = roc_band(rows, draws=32)
    assert len(found.x) <= THRESHOLDS + 2
    area = float(np.trapezoid(found.y, found.x)) if hasattr(np, "trapezoid") else float(np.trapz(found.y, found.x))
    assert area == pytest.approx(roc_auc_score(rows.truth, rows.probabilities), abs=1e-4)
    assert np.all(found.low <= found.high)


def test_without_enough_patients_there_is_a_curve_without_a_band() -> None:
    found = roc_band(made(30, 8))
    assert np.isnan(found.low).all()
    assert "8 patients" in str(found.undefined)
    assert found.y[-1] == 1
