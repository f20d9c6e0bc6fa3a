"""Operating thresholds agree with a count of calls, and with the sensitivities of the scores."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ichx.evaluation.scores import SENSITIVITY_METRICS, SPECIFICITY_METRICS, slice_scores
from ichx.evaluation.thresholds import operating_points
from ichx.labels import LABELS


def test_thresholds_of_a_small_example() -> None:
    labels = [0, 0, 0, 0, 0, 1, 0, 1, 1, 1]
    predicted = [0.05, 0.1, 0.2, 0.3, 0.4, 0.45, 0.5, 0.6, 0.7, 0.9]
    found = {point.rule: point for point in operating_points(labels, predicted)}
    strict = found["specificity >= 0.95"]
    assert (strict.threshold, strict.sensitivity, strict.specificity) == (0.6, 0.75, 1.0)
    assert (strict.positive_predictive_value, strict.negative_predictive_value) == (1.0, 6 / 7)
    loose = found["specificity >= 0.80"]
    assert (loose.threshold, loose.sensitivity, loose.specificity) == (0.45, 1.0, 5 / 6)
    assert (loose.positive_predictive_value, loose.negative_predictive_value) == (4 / 5, 1.0)
    assert found["sensitivity >= 0.95"].threshold == 0.45
    assert found["Youden's index"].threshold == 0.45


def test_without_one_of_the_classes_there_is_none() -> None:
    assert operating_points([0, 0], [0.1, 0.2]) == operating_points([1, 1], [0.1, 0.2]) == ()


def test_a_specificity_may_allow_no_positive_call() -> None:
    first = operating_points([1, 0], [0.2, 0.9])[0]
    assert (first.threshold, first.sensitivity, first.specificity) == (None, 0.0, 1.0)
    assert (first.positive_predictive_value, first.negative_predictive_value) == (None, 0.5)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=2, max_size=40))
def test_values_are_those_of_the_calls(rows: list[tuple[bool, int]]) -> None:
    truth, p = np.array([label for label, _ in rows]), np.array([value / 6 for _, value in rows])
    points = operating_points(truth, p)
    assert bool(points) == (truth.any() and not truth.all())
    scores = slice_scores(np.repeat(truth[:, None], 6, 1), np.repeat(p[:, None], 6, 1)).labels[LABELS.index("any")]
    for point, name in zip(points[:3], SENSITIVITY_METRICS, strict=bool(points)):
        assert point.sensitivity == pytest.approx(getattr(scores, name))
    for point, name in zip(points[3:5], SPECIFICITY_METRICS, strict=bool(points)):
        assert point.specificity == pytest.approx(getattr(scores, name))
    for point in points:
        called = p >= (np.inf if point.threshold is None else point.threshold)
        assert point.sensitivity == pytest.approx((called & truth).sum() / truth.sum())
        assert point.specificity == pytest.approx((~called & ~truth).sum() / (~truth).sum())
        if called.any():
            assert point.positive_predictive_value == pytest.approx(truth[called].mean())
        if not called.all():
            assert point.negative_predictive_value == pytest.approx((~truth[~called]).mean())
