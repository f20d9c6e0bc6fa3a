"""Smoothing along the head: neighbours are slices of one series; a slice without neighbours stays as it is."""

import numpy as np
import pytest

from ichx.evaluation.metric import probabilities, score
from ichx.evaluation.series_neighbours import SeriesNeighbours
from ichx.evaluation.smoothing import RADIUS, Kernels, fit_kernels


def series_of(sizes: list[int]) -> SeriesNeighbours:
    series = np.repeat(np.arange(len(sizes)), sizes)
    return SeriesNeighbours(series, np.concatenate([np.arange(size) for size in sizes]))


def runs(seed: int, series: int, noise: float = 2.0) -> tuple[np.ndarray, np.ndarray, SeriesNeighbours]:
    """Return noisy probabilities and labels that are positive over a run of slices."""
    rng = np.random.default_rng(seed)
    neighbours = series_of([30] * series)
    begin, length = rng.integers(0, 25, (2, series, 6))
    place = neighbours.order[:, None] - begin[neighbours.run]
    labels = ((place >= 0) & (place < length[neighbours.run])).astype(float)
    return probabilities(3 * labels - 1.5 + rng.normal(0, noise, labels.shape)), labels, neighbours


def test_neighbours_by_hand() -> None:
    neighbours = SeriesNeighbours(np.array([1, 0, 1, 0, 1, 2]), np.array([5, 1, 2, 0, 9, 0]))
    assert neighbours.neighbour(1).tolist() == [4, 1, 0, 1, 4, 5]
    assert neighbours.neighbour(-1).tolist() == [2, 3, 2, 3, 0, 5]
    assert neighbours.neighbour(-2).tolist() == [2, 3, 2, 3, 2, 5]
    assert neighbours.alone.tolist() == [False] * 5 + [True]
    assert neighbours.missing.tolist() == [0, 1, 1, 1, 1, 2]


def test_smoothing_by_hand() -> None:
    z = np.arange(5.0)[:, None] * np.ones(6)
    kernel = np.zeros(RADIUS + 2)
    kernel[:2], kernel[-1] = (0.5, 0.25), 0.1
    smoothed = Kernels(np.tile(kernel, (6, 1))).apply(probabilities(z), series_of([4, 1]))
    means = np.array([0.5, 1, 2, 2.5])
    expected = probabilities((0.5 * z[:4, 0] + 0.25 * means + 0.1)[:, None] * np.ones(6))
    np.testing.assert_allclose(smoothed[:4], expected)
    assert (smoothed[4] == probabilities(z[4])).all()


def test_smoothing_gains_on_other_slices() -> None:
    p, labels, neighbours = runs(0, 60)
    other, truth, others = runs(1, 60)
    smoothed = fit_kernels(p, labels, neighbours).apply(other, others)
    assert score(truth, smoothed) < 0.7 * score(truth, other)


def test_row_order_does_not_matter() -> None:
    p, labels, neighbours = runs(2, 8)
    order = np.random.default_rng(0).permutation(len(p))
    shuffled = SeriesNeighbours(neighbours.run[order], neighbours.order[order])
    kernels = fit_kernels(p, labels, neighbours)
    np.testing.assert_allclose(kernels.weights, fit_kernels(p[order], labels[order], shuffled).weights, atol=1e-7)
    np.testing.assert_allclose(kernels.apply(p, neighbours)[order], kernels.apply(p[order], shuffled), rtol=1e-12)


def test_other_series_have_no_effect() -> None:
    p, labels, neighbours = runs(3, 8)
    kernels = fit_kernels(p, labels, neighbours)
    rows = neighbours.run == 4
    np.testing.assert_array_equal(kernels.apply(p, neighbours)[rows], kernels.apply(p[rows], neighbours.take(rows)))


def test_slices_without_neighbours_are_unchanged() -> None:
    p, labels, _ = runs(4, 2)
    alone = SeriesNeighbours(np.arange(len(p)), np.zeros(len(p), np.int64))
    kernels = fit_kernels(p, labels, alone)
    assert kernels.weights[0].tolist() == [1.0] + [0.0] * (RADIUS + 1)
    assert (kernels.apply(p, alone) == p).all()


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_certain_predictions_stay_finite(value: float) -> None:
    """Most of the certain predictions are wrong."""
    neighbours = series_of([10])
    labels = np.full((10, 6), 1 - value)
    labels[:3] = value
    kernels = fit_kernels(np.full((10, 6), value), labels, neighbours)
    assert (kernels.weights[:, 0] != 1).all()
    assert np.isfinite(kernels.weights).all()
    assert np.isfinite(kernels.apply(np.ones((10, 6)), neighbours)).all()
