"""The score is scikit-learn's log loss, weighted like the challenge's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import log_loss

from ichx.evaluation.metric import CLIP, constant_score, label_losses, probabilities, score
from ichx.labels import LABEL_WEIGHTS, LABELS

shapes = st.integers(1, 30).map(lambda n: (n, 6))


def tables(elements: st.SearchStrategy[float]) -> st.SearchStrategy[np.ndarray]:
    return shapes.flatmap(lambda shape: hnp.arrays(np.float64, shape, elements=elements))


def sklearn_losses(labels: np.ndarray, predicted: np.ndarray) -> list[float]:
    clipped = np.clip(predicted.astype(np.float64), CLIP, 1 - CLIP)
    return [log_loss(labels[:, k], clipped[:, k], labels=[0, 1]) for k in range(6)]


@given(st.integers(1, 50), st.integers(0, 2**32 - 1), st.sampled_from([0.02, 1.0, 30.0]))
def test_score_equals_log_loss_of_scikit_learn_on_clipped_input(n: int, seed: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, 6)) < 0.3).astype(float)
    predicted = probabilities(rng.normal(-2, spread, (n, 6)))
    predicted[rng.random((n, 6)) < 0.1] = 0.0
    predicted[rng.random((n, 6)) < 0.1] = 1.0
    expected = sklearn_losses(labels, predicted)
    # The absolute tolerance: scikit-learn computes log(1 - p), which loses digits for small p.
    np.testing.assert_allclose(label_losses(labels, predicted), expected, rtol=1e-12, atol=1e-15)
    assert score(labels, predicted) == pytest.approx(
        np.average(expected, weights=[1, 1, 1, 1, 1, 2]), rel=1e-12, abs=1e-15
    )


def test_score_of_float32_input_is_computed_in_float64() -> None:
    labels = np.ones((1, 6), np.float32)
    confident = np.full((1, 6), 1 - 2**-24, np.float32)  # the largest float32 below 1
    assert score(labels, confident) == pytest.approx(2**-24, rel=1e-6)
    assert score(labels, np.zeros((1, 6), np.float32)) == pytest.approx(-np.log(1e-15), rel=1e-12)


def test_label_weights_by_hand() -> None:
    assert dict(zip(LABELS, LABEL_WEIGHTS, strict=True)) == {
        "epidural": 1,
        "intraparenchymal": 1,
        "intraventricular": 1,
        "subarachnoid": 1,
        "subdural": 1,
        "any": 2,
    }
    labels = np.zeros((1, 6))
    predicted = np.full((1, 6), 0.5)
    predicted[0, 5] = 0.75
    assert score(labels, predicted) == pytest.approx((5 * np.log(2) + 2 * np.log(4)) / 7)


def test_loss_of_a_wrong_certainty_is_the_clip() -> None:
    labels = np.array([[0.0, 1.0, 0.0, 1.0, 0.0, 1.0]])
    assert score(labels, 1 - labels) == pytest.approx(-np.log(1e-15), rel=1e-3)
    assert 0 < score(labels, labels) < 1e-14


def test_score_of_constant_prevalences_is_their_entropy() -> None:
    """With the challenge's training prevalences, in thousandths; no other constant prediction is better."""
    share = np.array([0.004, 0.048, 0.035, 0.047, 0.063, 0.143])
    labels = (np.arange(1000)[:, None] < share * 1000).astype(float)
    entropy = -(share * np.log(share) + (1 - share) * np.log(1 - share))
    assert constant_score(labels, labels) == pytest.approx(np.average(entropy, weights=LABEL_WEIGHTS), rel=1e-12)
    for other in (share + 0.002, share - 0.002):
        assert score(labels, np.broadcast_to(other, labels.shape)) > constant_score(labels, labels)
    assert constant_score(labels[:500], labels) > constant_score(labels, labels)


@given(tables(st.floats(-1000, 1000)))
def test_probabilities_are_the_logistic_function(logits: np.ndarray) -> None:
    with np.errstate(all="raise", under="ignore"):
        p = probabilities(logits)
    assert ((p >= 0) & (p <= 1)).all()
    np.testing.assert_allclose(p + probabilities(-logits), 1, rtol=1e-15)
    moderate = np.abs(logits) < 700
    np.testing.assert_allclose(p[moderate], 1 / (1 + np.exp(-logits[moderate])), rtol=1e-12)


def test_probabilities_of_float32_logits_are_float64() -> None:
    p = probabilities(np.array([[20.0, -20.0, 0.0, 40.0, -800.0, 800.0]], np.float32))
    assert p.dtype == np.float64
    assert p[0, 0] < 1  # float32 would round it to 1
    assert (p[0, 2], p[0, 4], p[0, 5]) == (0.5, 0.0, 1.0)


def test_soft_labels_are_interpolated() -> None:
    labels, predicted = np.full((1, 6), 0.25), np.full((1, 6), 0.4)
    assert score(labels, predicted) == pytest.approx(-(0.25 * np.log(0.4) + 0.75 * np.log(0.6)))
