"""DeLong's test equals its definition and the values that were published with it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from ichx.evaluation.delong import auc_covariance, compare_areas

# Ovarian cancer: albumin, total protein, K-G score, benefit of surgery (DeLong et al., Biometrics 1988)
ALBUMIN = (
    "3.0 3.2 3.9 2.8 3.2 0.9 2.5 1.6 3.8 3.7 3.2 3.8 4.1 3.6 4.3 3.6 2.3 4.2 4.0 3.5 3.8 3.0 4.5 3.7 3.1 4.1 4.3 4.3 "
    "3.2 2.6 3.3 1.7 3.7 3.3 4.2 3.5 2.9 2.1 2.8 4.0 3.3 3.7 3.6"
)
PROTEIN = (
    "5.8 6.3 6.8 4.8 5.8 4.0 5.7 5.6 5.7 6.7 5.4 6.6 6.6 5.7 7.0 6.7 4.4 7.6 6.6 5.8 6.8 4.7 7.4 7.4 6.6 8.2 7.0 6.5 "
    "5.1 4.7 6.8 4.0 6.1 6.3 7.7 6.2 5.7 4.8 6.2 7.0 5.7 6.9 6.6"
)
SCORE = "10 5 3 6 3 5 8 5 5 6 4 6 5 5 4 4 6 4 6 6 7 8 5 5 6 6 5 4 5 6 6 7 5 7 6 5 9 7 8 7 6 5 5"
BENEFIT = "0 1 1 0 1 0 0 1 1 1 1 1 1 1 1 0 1 0 0 1 1 0 1 1 1 1 1 1 1 1 0 0 1 1 1 1 0 1 0 1 1 1 1"


def test_the_published_example() -> None:
    albumin, protein, score = (np.array(text.split(), float) for text in (ALBUMIN, PROTEIN, SCORE))
    truth = np.array(BENEFIT.split(), int) > 0
    areas, covariance = auc_covariance(truth, np.stack([albumin, protein, 10 - score]))
    assert areas == pytest.approx([0.7366, 0.6478, 0.7258], abs=5e-5)
    assert np.sqrt(np.diag(covariance)) == pytest.approx([0.0927, 0.1000, 0.1028], abs=5e-5)
    found = compare_areas(truth, albumin, 10 - score)
    assert found is not None
    assert (found.difference, found.low, found.high) == pytest.approx((0.0108, -0.1761, 0.1976), abs=5e-5)
    assert found.p_value == pytest.approx(0.9102, abs=5e-5)
    assert (found.rows, found.positives) == (43, 31)
    found = compare_areas(truth, protein, 10 - score)
    assert found is not None
    assert (found.difference, found.p_value) == pytest.approx((-0.0780, 0.4561), abs=5e-5)


@given(st.integers(0, 2**32 - 1), st.integers(4, 40), st.integers(1, 3))
def test_areas_and_covariance_equal_their_definition(seed: int, rows: int, decimals: int) -> None:
    rng = np.random.default_rng(seed)
    truth = np.zeros(rows, bool)
    truth[: rng.integers(2, rows - 1)] = True
    predictions = np.round(rng.random((2, rows)), decimals)
    areas, covariance = auc_covariance(truth, predictions)
    psi = [
        (p[truth][:, None] > p[~truth][None, :]) + 0.5 * (p[truth][:, None] == p[~truth][None, :]) for p in predictions
    ]
    by_positive, by_negative = (np.stack([one.mean(axis=axis) for one in psi]) for axis in (1, 0))
    expected = np.cov(by_positive) / truth.sum() + np.cov(by_negative) / (~truth).sum()
    assert areas == pytest.approx([roc_auc_score(truth, p) for p in predictions], abs=1e-12)
    assert covariance == pytest.approx(expected, abs=1e-12)


def test_equal_rankings_do_not_differ_and_few_rows_have_no_test() -> None:
    truth = np.array([True, False] * 10)
    p = np.random.default_rng(0).random(20)
    found = compare_areas(truth, p, p**2)
    assert found is not None
    assert (found.difference, found.low, found.high, found.p_value) == (0, 0, 0, 1)
    assert compare_areas(np.array([True, False, False]), p[:3], p[:3]) is None
    with pytest.raises(ValueError, match="1 positive"):
        auc_covariance(np.array([True, False, False]), p[None, :3])
