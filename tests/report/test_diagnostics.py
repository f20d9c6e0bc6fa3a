"""ROC and reliability: equal to their definitions, and undefined where they are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ichx.report.diagnostics import BINS, ROC_POINTS, reliability, roc

some = st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=2, max_size=40).map(
    lambda pairs: (np.array([p[0] for p in pairs], float), np.array([p[1] for p in pairs]))
)


@given(some)
def test_auc_is_the_share_of_pairs_in_the_right_order(data: tuple[np.ndarray, np.ndarray]) -> None:
    labels, predicted = data
    positives, negatives = predicted[labels == 1], predicted[labels == 0]
    found = roc(labels, predicted)
    if not len(positives) or not len(negatives):
        assert found is None
        assert reliability(labels, predicted) is None
        return
    above = (positives[:, None] > negatives).mean() + (positives[:, None] == negatives).mean() / 2
    assert found is not None
    assert found.auc == pytest.approx(above, abs=1e-12)
    for rate in (found.false_positive, found.true_positive):
        assert (rate[0], rate[-1]) == (0, 1)
        assert (np.diff(rate) >= 0).all()


def test_a_long_curve_is_thinned_but_its_area_is_not() -> None:
    random = np.random.default_rng(0)
    labels = (random.random(20_000) < 0.3).astype(float)
    predicted = np.clip(random.normal(0.3 + 0.2 * labels, 0.2), 0, 1)
    found = roc(labels, predicted)
    assert found is not None
    assert len(found.false_positive) <= ROC_POINTS
    heights = (found.true_positive[1:] + found.true_positive[:-1]) / 2
    drawn = float(heights @ np.diff(found.false_positive))
    assert drawn == pytest.approx(found.auc, abs=1e-3)
    assert drawn != found.auc


@given(some)
def test_reliability_holds_every_slice_once(data: tuple[np.ndarray, np.ndarray]) -> None:
    labels, predicted = data
    found = reliability(labels, predicted)
    if found is None:
        assert labels.min() == labels.max()
        return
    assert found.counts.sum() == len(labels)
    assert (found.counts > 0).all()
    assert found.observed @ found.counts == pytest.approx(labels.sum())
    assert found.predicted @ found.counts == pytest.approx(predicted.sum())
    assert len(found.counts) <= BINS
    assert (np.diff(found.predicted) >= 0).all()


def test_reliability_by_hand() -> None:
    found = reliability([0, 1, 1, 1, 0], [0.05, 0.02, 0.95, 1.0, 0.5])
    assert found is not None
    assert found.counts.tolist() == [2, 1, 2]
    assert found.observed.tolist() == [0.5, 0, 1]
    assert found.predicted == pytest.approx([0.035, 0.5, 0.975])
