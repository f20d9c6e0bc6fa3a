"""Smoothing along the head: neighbours are those of one series, and what is alone stays as it is."""

import numpy as np
import pytest

from ichx.evaluation.metric import probabilities, score
from ichx.evaluation.series_neighbours import Heads
from ichx.evaluation.smoothing import RADIUS, Kernels, fit_kernels


def heads_of(sizes: list[int]) -> Heads:
    series = np.repeat(np.arange(len(sizes)), sizes)
    return Heads(series, np.concatenate([np.arange(size) for size in sizes]))


def runs(seed: int, series: int, noise: float = 2.0) -> tuple[np.ndarray, np.ndarray, Heads]:
    """Return noisy probabilities and labels that go on over a run of slices."""
    rng = np.random.default_rng(seed)
    heads = heads_of([30] * series)
    begin, length = rng.integers(0, 25, (2, series, 6))
    place = heads.order[:, None] - begin[heads.series]
    labels = ((place >= 0) & (place < length[heads.series])).astype(float)
    return probabilities(3 * labels - 1.5 + rng.normal(0, noise, labels.shape)), labels, heads


def test_neighbours_by_hand() -> None:
    heads = Heads(np.array([1, 0, 1, 0, 1, 2]), np.array([5, 1, 2, 0, 9, 0]))
    assert heads.neighbour(1).tolist() == [4, 1, 0, 1, 4, 5]
    assert heads.neighbour(-1).tolist() == [2, 3, 2, 3, 0, 5]
    assert heads.neighbour(-2).tolist() == [2, 3, 2, 3, 2, 5]
    assert heads.alone.tolist() == [False] * 5 + [True]
    assert heads.missing.tolist() == [0, 1, 1, 1, 1, 2]


def test_smoothing_by_hand() -> None:
    z = np.arange(5.0)[:, None] * np.ones(6)
    kernel = np.zeros(RADIUS + 2)
    kernel[:2], kernel[-1] = (0.5, 0.25), 0.1
    found = Kernels(np.tile(kernel, (6, 1))).apply(probabilities(z), heads_of([4, 1]))
    means = np.array([0.5, 1, 2, 2.5])
    np.testing.assert_allclose(found[:4], probabilities((0.5 * z[:4, 0] + 0.25 * means + 0.1)[:, None] * np.ones(6)))
    assert (found[4] == probabilities(z[4])).all()


def test_a_run_of_slices_gains_on_slices_that_were_not_seen() -> None:
    p, labels, heads = runs(0, 60)
    other, truth, others = runs(1, 60)
    smoothed = fit_kernels(p, labels, heads).apply(other, others)
    assert score(truth, smoothed) < 0.7 * score(truth, other)


def test_the_order_of_rows_does_not_matter() -> None:
    p, labels, heads = runs(2, 8)
    order = np.random.default_rng(0).permutation(len(p))
    shuffled = Heads(heads.series[order], heads.order[order])
    kernels = fit_kernels(p, labels, heads)
    np.testing.assert_allclose(kernels.weights, fit_kernels(p[order], labels[order], shuffled).weights, atol=1e-7)
    np.testing.assert_allclose(kernels.apply(p, heads)[order], kernels.apply(p[order], shuffled), rtol=1e-12)


def test_another_study_changes_nothing() -> None:
    p, labels, heads = runs(3, 8)
    kernels = fit_kernels(p, labels, heads)
    rows = heads.series == 4
    np.testing.assert_array_equal(kernels.apply(p, heads)[rows], kernels.apply(p[rows], heads.take(rows)))


def test_slices_without_neighbours_stay() -> None:
    p, labels, _ = runs(4, 2)
    alone = Heads(np.arange(len(p)), np.zeros(len(p), np.int64))
    kernels = fit_kernels(p, labels, alone)
    assert kernels.weights[0].tolist() == [1.0] + [0.0] * (RADIUS + 1)
    assert (kernels.apply(p, alone) == p).all()


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_certain_predictions_stay_finite(value: float) -> None:
    heads = heads_of([10])
    found = fit_kernels(np.full((10, 6), value), np.full((10, 6), 1 - value), heads).apply(np.ones((10, 6)), heads)
    assert np.isfinite(found).all()
