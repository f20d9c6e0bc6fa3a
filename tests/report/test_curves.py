"""Curves equal their definitions, keep their shape when thinned, and are undefined without both classes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ichx.report.curves import CURVE_POINTS, label_curves, thinned_indices

labels_and_predictions = st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=2, max_size=40).map(
    lambda pairs: (np.array([p[0] for p in pairs], float), np.array([p[1] for p in pairs]))
)


def at_threshold(labels: np.ndarray, predicted: np.ndarray, threshold: float) -> tuple[int, int, int, int]:
    """Return the counts of true positives, false positives, true negatives and false negatives."""
    called, truth = predicted >= threshold, labels == 1
    pairs = ((called, truth), (called, ~truth), (~called, ~truth), (~called, truth))
    return tuple(int((a & b).sum()) for a, b in pairs)  # type: ignore[return-value]


@given(labels_and_predictions)
def test_points_equal_the_rates_at_their_thresholds(data: tuple[np.ndarray, np.ndarray]) -> None:
    labels, predicted = data
    found = label_curves(labels, predicted)
    if labels.min() == labels.max():
        assert found is None
        return
    assert found is not None
    roc, precision = found.roc, found.precision_recall
    assert len(roc.x) == len(precision.x) + 1 == len(set(predicted)) + 1
    assert (roc.x[0], roc.y[0], roc.x[-1], roc.y[-1]) == (0, 0, 1, 1)
    assert precision.x[-1] == 1
    for x, y, threshold in zip(roc.x, roc.y, roc.threshold, strict=True):
        tp, fp, tn, fn = at_threshold(labels, predicted, threshold)
        assert (x, y) == pytest.approx((fp / (fp + tn), tp / (tp + fn)))
    for x, y, threshold in zip(precision.x, precision.y, precision.threshold, strict=True):
        tp, fp, _, fn = at_threshold(labels, predicted, threshold)
        assert (x, y) == pytest.approx((tp / (tp + fn), tp / (tp + fp)))


def test_thinning_keeps_the_area_under_a_long_curve() -> None:
    random = np.random.default_rng(0)
    labels = (random.random(20_000) < 0.3).astype(float)
    predicted = np.clip(random.normal(0.3 + 0.2 * labels, 0.2), 0, 1)
    both = label_curves(labels, predicted)
    assert both is not None
    found = both.roc
    assert len(found.x) <= CURVE_POINTS
    positives, negatives = predicted[labels == 1], np.sort(predicted[labels == 0])
    below = np.searchsorted(negatives, positives) + np.searchsorted(negatives, positives, side="right")
    assert np.trapezoid(found.y, found.x) == pytest.approx(below.mean() / 2 / len(negatives), abs=1e-3)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=400), st.integers(2, 50))
def test_thinning_keeps_ends_and_order(values: list[float], points: int) -> None:
    indices = thinned_indices(values, points=points)
    assert (indices[0], indices[-1]) == (0, len(values) - 1)
    assert (np.diff(indices) > 0).all()
    assert len(indices) <= max(points, 1)
    assert len(values) > points or len(indices) == len(values)
