"""Scores equal scikit-learn's on the same input; undefined ones say why; studies are pooled from slices."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score, roc_curve

from ichx.errors import InvalidInputError
from ichx.evaluation.metric import CLIP, score
from ichx.evaluation.scores import (
    SENSITIVITY_METRICS,
    SPECIFICITY_METRICS,
    calibration,
    pool_studies,
    slice_scores,
    study_scores,
)
from ichx.labels import LABELS

KINDS = ("distinct", "tied", "constant", "certain", "perfect")


def tables(kind: str, rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = (rng.random((rows, 6)) < [0.02, 0.2, 0.3, 0.5, 0.8, 0.4]).astype(float)
    predicted = {
        "distinct": rng.random((rows, 6)),
        "tied": np.round(0.3 * labels + 0.7 * rng.random((rows, 6)), 1),
        "constant": np.full((rows, 6), 0.25),
        "certain": rng.integers(0, 2, (rows, 6)).astype(float),
        "perfect": np.where(labels > 0, 0.9, 0.1),
    }[kind]
    return labels, predicted


@settings(deadline=None)
@given(st.sampled_from(KINDS), st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_scores_equal_those_of_scikit_learn(kind: str, rows: int, seed: int) -> None:
    labels, predicted = tables(kind, rows, seed)
    found = slice_scores(labels, predicted)
    assert found.log_loss == pytest.approx(score(labels, predicted), rel=1e-15)
    for k, of_label in enumerate(found.labels):
        y, p = labels[:, k], predicted[:, k]
        clipped = np.clip(p, CLIP, 1 - CLIP)
        assert of_label.log_loss == pytest.approx(log_loss(y, clipped, labels=[0, 1]), rel=1e-12, abs=1e-15)
        assert of_label.brier == pytest.approx(brier_score_loss(y, p, pos_label=1), rel=1e-12, abs=1e-16)
        assert (of_label.label, of_label.count, of_label.positives) == (LABELS[k], rows, y.sum())
        if y.min() == y.max():
            assert of_label.undefined == ("the label always occurs" if y[0] else "the label never occurs")
            rates = [getattr(of_label, name) for name in (*SENSITIVITY_METRICS, *SPECIFICITY_METRICS)]
            assert [of_label.auc, of_label.average_precision, *rates] == [None] * 7
            continue
        assert of_label.undefined is None
        assert of_label.auc == pytest.approx(roc_auc_score(y, p), rel=1e-12)
        assert of_label.average_precision == pytest.approx(average_precision_score(y, p), rel=1e-12)
        rates, hits, _ = roc_curve(y, p, drop_intermediate=False)
        negatives = int((1 - y).sum())
        specificity = (negatives - np.round(rates * negatives)) / negatives
        for name, wanted in zip(SPECIFICITY_METRICS, (0.90, 0.95), strict=True):
            assert getattr(of_label, name) == pytest.approx(specificity[hits >= wanted].max(), rel=1e-12)
        for name, wanted in zip(SENSITIVITY_METRICS, (0.80, 0.90, 0.95), strict=True):
            assert getattr(of_label, name) == pytest.approx(hits[specificity >= wanted].max(), rel=1e-12)


def test_specificity_that_is_met_exactly_counts() -> None:
    """One of ten negatives is above the positive: the specificity is 0.9, however 1 - 0.9 is rounded."""
    labels, predicted = np.zeros((11, 6)), np.tile(np.linspace(0.1, 0.9, 11)[:, None], 6)
    labels[9] = 1
    of_label = slice_scores(labels, predicted).labels[0]
    assert (of_label.sensitivity_80, of_label.sensitivity_90, of_label.sensitivity_95) == (1.0, 1.0, 0.0)


def test_sensitivity_that_is_met_exactly_counts() -> None:
    """Nine of ten positives are above the three negatives, which are tied with the last one."""
    labels, predicted = np.ones((13, 6)), np.full((13, 6), 0.9)
    labels[:3], predicted[:4] = 0, 0.2
    of_label = slice_scores(labels, predicted).labels[0]
    assert (of_label.specificity_90, of_label.specificity_95) == (1.0, 0.0)


def test_calibration_error_by_hand() -> None:
    predicted = np.array([0.0, 0.05, 0.1, 0.19, 0.95, 1.0])
    labels = np.array([0.0, 1.0, 0.0, 0.0, 1.0, 1.0])
    found = calibration(labels, predicted)
    assert found.counts.tolist() == [2, 2, 2]
    np.testing.assert_allclose(found.predicted, [0.025, 0.145, 0.975])
    assert found.observed.tolist() == [0.5, 0.0, 1.0]
    assert found.error == pytest.approx((0.475 + 0.145 + 0.025) / 3)


@pytest.mark.parametrize("pooling", ["max", "noisy_or"])
def test_studies_by_hand(pooling: str) -> None:
    rng = np.random.default_rng(3)
    labels, predicted = (rng.random((40, 6)) < 0.2).astype(float), rng.random((40, 6)) ** 3
    studies = rng.permutation(np.repeat(["b", "a", "d", "c", "e", "f", "g", "h"], 5))
    names = list(dict.fromkeys(studies))
    truth = np.array([labels[studies == s].max(axis=0) for s in names])
    of_slices = [predicted[studies == s] for s in names]
    expected = np.array([p.max(axis=0) if pooling == "max" else 1 - np.prod(1 - p, axis=0) for p in of_slices])
    pooled = pool_studies(labels, predicted, studies, pooling)
    assert pooled.labels.tolist() == truth.tolist()
    np.testing.assert_allclose(pooled.probabilities, expected, rtol=1e-12)
    assert studies[pooled.row].tolist() == names
    found = study_scores(labels, predicted, studies, pooling)
    assert (found.unit, found.pooling, found.count) == ("study", pooling, 8)
    assert found.log_loss == pytest.approx(score(truth, expected), rel=1e-12)


def test_noisy_or_of_certainties_is_a_probability() -> None:
    predicted = np.array([[0.0, 1.0, 1e-300, 1e-17, 0.5, 1.0]])
    pooled = pool_studies(np.zeros((1, 6)), predicted, ["s"], "noisy_or").probabilities
    assert ((pooled >= 0) & (pooled <= 1)).all()
    np.testing.assert_allclose(pooled, predicted, atol=2e-15)


def test_invalid_input() -> None:
    labels, predicted = tables("distinct", 4, 0)
    broken = predicted.copy()
    broken[1, 2], broken[3, 3] = np.nan, 1.5
    with pytest.raises(InvalidInputError, match="2 probabilities"):
        slice_scores(labels, broken)
    with pytest.raises(InvalidInputError, match="1 labels"):
        slice_scores(np.where(np.arange(24).reshape(4, 6) == 7, -1, labels), predicted)
    with pytest.raises(InvalidInputError):
        slice_scores(labels[:0], predicted[:0])
    with pytest.raises(InvalidInputError, match=r"\(4, 6\), .*\(3, 6\)"):
        slice_scores(labels, predicted[:3])
    with pytest.raises(InvalidInputError, match="`pooling`: 'mean'"):
        study_scores(labels, predicted, ["a", "a", "b", "b"], "mean")  # type: ignore[arg-type]
