"""The calibrated score: neither label smoothing nor undersampled negatives decide, and no slice calibrates itself."""

import numpy as np
import pytest

from ichx.evaluation.calibrated_score import (
    calibrate,
    calibrated_score,
    patient_halves,
    undo_undersampling,
)
from ichx.evaluation.metric import FloatArray, score

PATIENTS = np.repeat([f"p{number:03d}" for number in range(200)], 20).astype(object)


@pytest.fixture(scope="module")
def truth() -> tuple[FloatArray, FloatArray]:
    """Return probabilities `(4000, 6)` that are the truth, and labels drawn from them."""
    rng = np.random.default_rng(3)
    subtypes = 1 / (1 + np.exp(-rng.normal(-4, 2, (len(PATIENTS), 5))))
    p = np.column_stack([subtypes, 1 - np.prod(1 - subtypes, axis=1)])
    labels = (rng.random(subtypes.shape) < subtypes).astype(float)
    return p, np.column_stack([labels, labels.max(axis=1)])


def test_undersampling_is_undone_exactly(truth: tuple[FloatArray, FloatArray]) -> None:
    p, labels = truth
    kept = labels[:, 5].sum() / (1 - labels[:, 5]).sum()
    learned = p / (p[:, [5]] + kept * (1 - p[:, [5]]))  # what a network learns from the sampled slices
    assert score(labels, learned) > 1.05 * score(labels, p)
    np.testing.assert_allclose(undo_undersampling(learned, kept), p, rtol=1e-12)
    halves = patient_halves(PATIENTS, labels)
    assert calibrated_score(labels, learned, halves, kept) == pytest.approx(calibrated_score(labels, p, halves, 1.0))


def test_smoothed_predictions_lose_little(truth: tuple[FloatArray, FloatArray]) -> None:
    p, labels = truth
    halves = patient_halves(PATIENTS, labels)
    smoothed = p * 0.95 + 0.025
    raw = score(labels, smoothed) - score(labels, p)
    calibrated = calibrated_score(labels, smoothed, halves, 1.0) - calibrated_score(labels, p, halves, 1.0)
    assert 0 < calibrated < 0.7 * raw
    scaled = 1 / (1 + np.exp(-np.log(p / (1 - p)) * 3))
    assert score(labels, scaled) > 1.2 * score(labels, p)
    assert calibrated_score(labels, scaled, halves, 1.0) == pytest.approx(score(labels, p), rel=0.01)


def test_a_slice_is_not_calibrated_by_its_own_half(truth: tuple[FloatArray, FloatArray]) -> None:
    p, labels = truth
    halves = patient_halves(PATIENTS, labels)
    other = labels.copy()
    other[halves] = 1 - other[halves]
    before, after = calibrate(labels, p, halves, 1.0), calibrate(other, p, halves, 1.0)
    np.testing.assert_array_equal(before[halves], after[halves])
    assert not np.allclose(before[~halves], after[~halves])


def test_halves_divide_patients_with_as_many_positive_slices(truth: tuple[FloatArray, FloatArray]) -> None:
    _, labels = truth
    halves = patient_halves(PATIENTS, labels)
    assert not set(PATIENTS[halves]) & set(PATIENTS[~halves])
    counts = [labels[half, 5].sum() for half in (halves, ~halves)]
    assert counts[0] == pytest.approx(counts[1], rel=0.02)
    order = np.random.default_rng(0).permutation(len(PATIENTS))
    np.testing.assert_array_equal(patient_halves(PATIENTS[order], labels[order]), halves[order])


def test_one_patient_is_not_calibrated(truth: tuple[FloatArray, FloatArray]) -> None:
    p, labels = truth[0][:20], truth[1][:20]
    halves = patient_halves(PATIENTS[:20], labels)
    assert calibrated_score(labels, p, halves, 1.0) == score(labels, p)


def test_predictions_that_are_not_finite_have_no_score(truth: tuple[FloatArray, FloatArray]) -> None:
    p, labels = truth
    halves = patient_halves(PATIENTS, labels)
    assert np.isnan(calibrated_score(labels, np.full_like(p, np.nan), halves, 1.0))
