"""Curves: equal to their definitions, thinned without harm, and undefined where they are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ichx.report.curves import CURVE_POINTS, curves, thinned_places

some = st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=2, max_size=40).map(
    lambda pairs: (np.array([p[0] for p in pairs], float), np.array([p[1] for p in pairs]))
)


def at_threshold(labels: np.ndarray, predicted: np.ndarray, threshold: float) -> tuple[int, int, int, int]:
    """Return how many slices are truly and falsely called, and truly and falsely not, by counting."""
    called, truth = predicted >= threshold, labels == 1
    pairs = ((called, truth), (called, ~truth), (~called, ~truth), (~called, truth))
    return tuple(int((a & b).sum()) for a, b in pairs)  # type: ignore[return-value]


@given(some)
def test_each_point_of_a_curve_is_what_its_threshold_gives(data: tuple[np.ndarray, np.ndarray]) -> None:
    labels, predicted = data
    found = curves(labels, predicted)
    if labels.min() == labels.max():
        assert found is None
        return
    assert found is not None
    operating, precision = found.roc, found.precision_recall
    assert len(operating.x) == len(precision.x) + 1 == len(set(predicted)) + 1
    assert (operating.x[0], operating.y[0], operating.x[-1], operating.y[-1]) == (0, 0, 1, 1)
    assert precision.x[-1] == 1
    for x, y, threshold in zip(operating.x, operating.y, operating.threshold, strict=True):
        hits, alarms, passed, missed = at_threshold(labels, predicted, threshold)
        assert (x, y) == pytest.approx((alarms / (alarms + passed), hits / (hits + missed)))
    for x, y, threshold in zip(precision.x, precision.y, precision.threshold, strict=True):
        hits, alarms, _, missed = at_threshold(labels, predicted, threshold)
        assert (x, y) == pytest.approx((hits / (hits + missed), hits / (hits + alarms)))


def test_a_long_curve_is_thinned_and_keeps_its_shape() -> None:
    random = np.random.default_rng(0)
    labels = (random.random(20_000) < 0.3).astype(float)
    predicted = np.clip(random.normal(0.3 + 0.2 * labels, 0.2), 0, 1)
    both = curves(labels, predicted)
    assert both is not None
    found = both.roc
    assert len(found.x) <= CURVE_POINTS
    positives, negatives = predicted[labels == 1], np.sort(predicted[labels == 0])
    below = np.searchsorted(negatives, positives) + np.searchsorted(negatives, positives, side="right")
    assert np.trapezoid(found.y, found.x) == pytest.approx(below.mean() / 2 / len(negatives), abs=1e-3)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=400), st.integers(2, 50))
def test_thinning_keeps_the_ends_and_the_order(values: list[float], points: int) -> None:
    places = thinned_places(values, points=points)
    assert (places[0], places[-1]) == (0, len(values) - 1)
    assert (np.diff(places) > 0).all()
    assert len(places) <= max(points, 1)
    assert len(values) > points or len(places) == len(values)
