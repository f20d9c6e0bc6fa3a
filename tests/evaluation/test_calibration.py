"""Calibration corrects known distortions, and does not become certain with few slices."""

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from ichx.datasets.label_csv import read_labels
from ichx.evaluation.calibration import (
    BOUNDS,
    Bounds,
    Consistent,
    fit_bounds,
    fit_isotonic,
    fit_temperature,
    fit_temperatures,
)
from ichx.evaluation.logistic import logits
from ichx.evaluation.metric import probabilities, score
from ichx.evaluation.series_neighbours import SeriesNeighbours
from ichx.labels import LABELS

NO_NEIGHBOURS = SeriesNeighbours(np.zeros(0, np.int64), np.zeros(0, np.int64))


def calibrated(seed: int, n: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    p = probabilities(rng.normal(-1, 2, (n, 6)))
    return p, (rng.random((n, 6)) < p).astype(float)


def test_a_known_temperature_is_found() -> None:
    p, labels = calibrated(0)
    hot = probabilities(logits(p) * 2.0)
    found = fit_temperature(hot, labels, NO_NEIGHBOURS)
    assert found.values == pytest.approx([2.0], rel=0.03)
    assert score(labels, found.apply(hot, NO_NEIGHBOURS)) == pytest.approx(score(labels, p), rel=1e-3)
    each = np.array([0.5, 1, 1.5, 2, 3, 4])
    np.testing.assert_allclose(
        fit_temperatures(probabilities(logits(p) * each), labels, NO_NEIGHBOURS).values, each, rtol=0.06
    )


def test_isotonic_corrects_a_monotone_distortion() -> None:
    p, labels = calibrated(1)
    bent = p**3
    found = fit_isotonic(bent, labels, NO_NEIGHBOURS)
    fresh, truth = calibrated(2)
    assert score(truth, found.apply(fresh**3, NO_NEIGHBOURS)) < score(truth, fresh) + 0.003
    assert score(truth, fresh**3) > score(truth, fresh) + 0.1


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.sampled_from([0.0, 0.02, 0.5, 1.0]), st.booleans())
def test_isotonic_is_monotone_and_never_certain(seed: int, n: int, prevalence: float, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    p = np.round(rng.random((n, 6)), 1 if ties else 8)
    labels = (rng.random((n, 6)) < prevalence).astype(float)
    found = fit_isotonic(p, labels, NO_NEIGHBOURS)
    grid = np.tile(np.linspace(0, 1, 50)[:, None], 6)
    mapped = found.apply(grid, NO_NEIGHBOURS)
    assert (np.diff(mapped, axis=0) >= -1e-12).all()
    mixed = (labels.min(axis=0) == 0) & (labels.max(axis=0) == 1)
    assert (mapped[:, mixed] > 0).all()
    assert (mapped[:, mixed] < 1).all()


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(2, 80), st.sampled_from([1, 2, 8]), st.booleans())
def test_isotonic_equals_that_of_scikit_learn(seed: int, n: int, digits: int, soft: bool) -> None:
    """With one row of the label's prevalence added at either end."""
    rng = np.random.default_rng(seed)
    p = np.round(rng.random((n, 6)), digits)
    labels = (rng.random((n, 6)) < p).astype(float)
    if soft:
        labels = 0.1 + 0.8 * labels
    mapped = fit_isotonic(p, labels, NO_NEIGHBOURS).apply(p, NO_NEIGHBOURS)
    for x, y, found in zip(p.T, labels.T, mapped.T, strict=True):
        if y.min() == y.max():
            continue
        ends = [x.min() - 1e-9, x.max() + 1e-9]
        model = IsotonicRegression().fit([ends[0], *x, ends[1]], [y.mean(), *y, y.mean()])
        np.testing.assert_allclose(found, model.predict(x), atol=1e-12)


def test_consistency_only_raises_any() -> None:
    p = np.array([[0.1, 0.6, 0.2, 0.1, 0.1, 0.4], [0.1, 0.2, 0.2, 0.1, 0.1, 0.4]])
    assert Consistent().apply(p, NO_NEIGHBOURS).tolist() == [[*p[0, :5], 0.6], p[1].tolist()]


def test_bounds_correct_wrong_certainties() -> None:
    p, labels = calibrated(3)
    p = np.where(p < 0.05, 1e-9, p)
    found = fit_bounds(p, labels, NO_NEIGHBOURS)
    assert found.low == 1e-2
    assert found.high < 1e-2
    assert score(labels, found.apply(p, NO_NEIGHBOURS)) < score(labels, p) - 0.05
    best = min(score(labels, Bounds(low, found.high).apply(p, NO_NEIGHBOURS)) for low in (1e-6, 1e-4, 1e-3, 1e-2))
    assert score(labels, found.apply(p, NO_NEIGHBOURS)) == pytest.approx(best)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.sampled_from([1.0, 6.0]), st.booleans())
def test_no_other_bounds_are_better(seed: int, n: int, spread: float, soft: bool) -> None:
    rng = np.random.default_rng(seed)
    p = probabilities(rng.normal(-2, spread, (n, 6)))
    p[rng.random(p.shape) < 0.1] = 0.0
    labels = (rng.random(p.shape) < 0.2).astype(float) * (0.9 if soft else 1.0)
    found = fit_bounds(p, labels, NO_NEIGHBOURS)
    clipped = score(labels, found.apply(p, NO_NEIGHBOURS))
    best = min(score(labels, Bounds(low, high).apply(p, NO_NEIGHBOURS)) for low in BOUNDS for high in BOUNDS)
    assert clipped == pytest.approx(best, abs=1e-12)


def test_real_model_gains_from_calibration_on_other_images(shared_data: Path) -> None:
    with gzip.open(shared_data / "predictions" / "resnet50_holdout.csv.gz", "rt") as handle:
        table = pd.read_csv(handle)
    known = read_labels(shared_data / "labels" / "stage_2_train.csv.gz")
    row_of = dict(zip(known.ids, range(len(known.ids)), strict=True))
    labels = known.values[[row_of[image] for image in table["Image"]]].astype(np.float64)
    p = table[list(LABELS)].to_numpy(np.float64)
    first = np.arange(len(p)) % 2 == 0
    plain = score(labels[~first], p[~first])
    for fit in (fit_temperature, fit_temperatures, fit_isotonic):
        assert (
            score(labels[~first], fit(p[first], labels[first], NO_NEIGHBOURS).apply(p[~first], NO_NEIGHBOURS)) < plain
        ), fit


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_constant_label_leaves_probabilities_unchanged(value: float) -> None:
    """Twenty negative slices do not prove that a label never occurs."""
    p, labels = calibrated(3, 20)
    labels[:, 2] = value
    for fit in (fit_isotonic, fit_temperatures):
        np.testing.assert_allclose(fit(p, labels, NO_NEIGHBOURS).apply(p, NO_NEIGHBOURS)[:, 2], p[:, 2], rtol=1e-9)
    labels[:] = value
    for fit in (fit_isotonic, fit_temperatures, fit_temperature):
        np.testing.assert_allclose(fit(p, labels, NO_NEIGHBOURS).apply(p, NO_NEIGHBOURS), p, rtol=1e-9)
