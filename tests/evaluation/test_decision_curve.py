"""Decision curves and reliability curves: values by counting, intervals, too few patients, unknown labels."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve

from ichx.errors import InvalidInputError
from ichx.evaluation.decision_curve import decision_curve, decision_curves
from ichx.evaluation.label_rows import label_rows
from ichx.evaluation.reliability import reliability_curve, reliability_curves
from ichx.evaluation.subgroup_scores import Predicted
from ichx.labels import LABELS


def rows_of(seed: int, rows: int, patients: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return truth, calibrated probabilities in tenths and patients."""
    rng = np.random.default_rng(seed)
    p = np.round(rng.random(rows), 1)
    return rng.random(rows) < p, p, rng.integers(0, patients, rows).astype(str).astype(object)


@given(st.integers(0, 2**32 - 1), st.integers(2, 300), st.floats(0.01, 0.99))
def test_net_benefit_is_that_of_counting(seed: int, rows: int, threshold: float) -> None:
    truth, p, patients = rows_of(seed, rows, 50)
    (point,) = decision_curve(truth, p, patients, [threshold], draws=3).points
    called, odds = p >= threshold, threshold / (1 - threshold)
    expected = (truth & called).sum() / rows - (~truth & called).sum() / rows * odds
    of_all = truth.mean() - (~truth).mean() * odds
    assert point.net_benefit.value == pytest.approx(expected, abs=1e-12)
    assert point.of_all.value == pytest.approx(of_all, abs=1e-12)
    assert point.gain.value == pytest.approx(expected - max(of_all, 0), abs=1e-12)


def test_curve_of_a_calibrated_model_is_useful_and_that_of_chance_is_not() -> None:
    truth, p, patients = rows_of(1, 4000, 400)
    curve = decision_curve(truth, p, patients, draws=200)
    assert curve.useful is not None
    low, high = curve.useful
    assert low < 0.3
    assert high > 0.7
    for point in curve.points:
        assert point.net_benefit.low is not None
        assert point.net_benefit.high is not None
        assert point.net_benefit.value is not None
        assert point.net_benefit.low <= point.net_benefit.value <= point.net_benefit.high
    chance = np.random.default_rng(2).permutation(p)
    assert decision_curve(truth, chance, patients, draws=200).useful is None


def test_prevalence_reweights_the_curve() -> None:
    truth, p, patients = rows_of(3, 3000, 300)
    own = decision_curve(truth, p, patients, draws=5)
    same = decision_curve(truth, p, patients, prevalence=float(truth.mean()), draws=5)
    rare = decision_curve(truth, p, patients, prevalence=0.05, draws=5)
    for one, two in zip(own.points, same.points, strict=True):
        assert one.net_benefit.value == pytest.approx(two.net_benefit.value, abs=1e-12)
        assert one.of_all.value == pytest.approx(two.of_all.value, abs=1e-12)
    (point,) = rare.at([0.2])
    called = p >= 0.2
    se, fpr = called[truth].mean(), called[~truth].mean()
    assert point.net_benefit.value == pytest.approx(0.05 * se - 0.95 * fpr * 0.25)
    assert point.of_all.value == pytest.approx(0.05 - 0.95 * 0.25)


def test_few_patients_and_one_class_have_no_interval() -> None:
    truth, p, patients = rows_of(4, 60, 9)
    few = decision_curve(truth, p, patients, [0.5], draws=5).points[0]
    assert few.net_benefit.low is None
    assert few.net_benefit.undefined == "no interval from 9 patients"
    many = np.arange(60).astype(str).astype(object)
    (one,) = decision_curve(np.zeros(60, bool), p, many, [0.5], draws=5).points
    assert one.gain.low is None
    assert one.gain.value is not None
    assert one.gain.value <= 0
    for wrong in ([0.0], [1.0], []):
        with pytest.raises(InvalidInputError):
            decision_curve(truth, p, patients, wrong)
    with pytest.raises(InvalidInputError):
        decision_curve(truth, p, patients, prevalence=1.5)


def predictions(rows: int) -> Predicted:
    """Return predictions of two slices per study, one study per patient; `any` is unknown in every fifth study."""
    rng = np.random.default_rng(5)
    p = rng.random((rows, len(LABELS)))
    labels = (rng.random(p.shape) < p).astype(float)
    study = np.arange(rows) // 2
    labels[study % 5 == 0, LABELS.index("any")] = np.nan
    slices = pd.DataFrame({"patient": study.astype(str), "study": study.astype(str)}, dtype=object)
    return Predicted(slices, labels, p)


def test_rows_without_a_label_are_left_out() -> None:
    predicted = predictions(400)
    slices = label_rows(predicted, "any")
    assert len(slices.truth) == 320
    assert len(label_rows(predicted, "subdural").truth) == 400
    known = ~np.isnan(predicted.labels[:, -1])
    assert np.array_equal(slices.truth, predicted.labels[known, -1] == 1)
    found = decision_curves(predicted, ["any", "subdural"], "slice")
    assert (found["any"].rows, found["subdural"].rows) == (320, 400)
    curves = reliability_curves(predicted, ["any", "subdural"], "study")
    assert (curves["any"].rows, curves["subdural"].rows) == (160, 200)
    assert len(curves["any"].bins) == 160 // 20  # so that each has enough patients
    assert sum(one.observed.low is not None for one in curves["any"].bins) >= 6


def test_bins_of_equal_width_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(6)
    p = rng.random(3000)
    truth, patients = rng.random(3000) < p**2, rng.integers(0, 200, 3000).astype(str).astype(object)
    curve = reliability_curve(truth, p, patients, binning="width", draws=50)
    observed, predicted = calibration_curve(truth, p, n_bins=10)
    assert [one.observed.value for one in curve.bins] == pytest.approx(observed.tolist(), abs=1e-12)
    assert [one.predicted for one in curve.bins] == pytest.approx(predicted.tolist(), abs=1e-12)
    for one in curve.bins:
        assert one.observed.low is not None
        assert one.observed.high is not None
        assert one.observed.value is not None
        assert one.observed.low < one.observed.value < one.observed.high


@given(st.integers(0, 2**32 - 1), st.integers(1, 200))
def test_bins_contain_each_row_once_and_rise(seed: int, rows: int) -> None:
    truth, p, patients = rows_of(seed, rows, 30)
    curve = reliability_curve(truth, p, patients, draws=3)
    assert sum(one.rows for one in curve.bins) == rows
    assert sum(one.positives for one in curve.bins) == truth.sum()
    for before, after in zip(curve.bins, curve.bins[1:], strict=False):
        assert before.high < after.low


def test_a_bin_without_positives_has_no_interval() -> None:
    p = np.repeat([0.01, 0.9], 100)
    truth = np.r_[np.zeros(100, bool), np.arange(100) < 80]
    curve = reliability_curve(truth, p, np.arange(200).astype(str), bins=2, draws=20)
    low, high = curve.bins
    assert (low.observed.value, low.observed.low) == (0.0, None)
    assert high.observed.low is not None
