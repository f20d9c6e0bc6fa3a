"""The logistic solver compared with scikit-learn, and its constraint."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from ichx.evaluation.logistic import fit_logistic, logits
from ichx.evaluation.metric import probabilities


def world(seed: int, n: int = 3000) -> tuple[list[np.ndarray], np.ndarray]:
    rng = np.random.default_rng(seed)
    features = [rng.normal(0, 2, n) for _ in range(3)]
    z = 1.5 * features[0] - 0.7 * features[1] - 1
    return features, (rng.random(n) < probabilities(z)).astype(float)


@pytest.mark.parametrize("strength", [0.5, 1.0, 40.0])
def test_ridge_towards_zero_equals_that_of_scikit_learn(strength: float) -> None:
    features, labels = world(0)
    found = fit_logistic(features, labels, towards=np.zeros(3), strength=strength)
    model = LogisticRegression(C=1 / strength, fit_intercept=False, tol=1e-10).fit(np.stack(features, axis=1), labels)
    np.testing.assert_allclose(found, model.coef_[0], atol=1e-5)


def test_many_rows_are_solved_as_precisely() -> None:
    """Although the solver starts with a sample of the rows, the gradient over all rows vanishes."""
    features, labels = world(4, 140_000)
    found = fit_logistic(features, labels, towards=np.zeros(3), strength=1.0)
    p = probabilities(sum(w * f for w, f in zip(found, features, strict=True)))
    gradient = np.array([f @ (p - labels) for f in features]) + found
    assert np.abs(gradient / len(labels)).max() < 1e-10


def test_weights_count_as_rows() -> None:
    features, labels = world(1, 400)
    weights = np.where(np.arange(400) < 100, 2.0, 1.0)
    twice = [np.concatenate([f, f[:100]]) for f in features]
    repeated = fit_logistic(twice, np.concatenate([labels, labels[:100]]), towards=np.zeros(3), strength=500e-9)
    np.testing.assert_allclose(
        fit_logistic(features, labels, weights, towards=np.zeros(3), strength=400e-9), repeated, atol=1e-6
    )


def test_positive_coefficients_are_optimal_under_their_constraint() -> None:
    features, labels = world(2)
    found = fit_logistic(features, labels, towards=np.zeros(3), positive=True)
    assert found[1] == 0
    assert (found >= 0).all()
    p = probabilities(sum(w * f for w, f in zip(found, features, strict=True)))
    slopes = np.array([f @ (p - labels) for f in features]) / len(labels)
    assert np.abs(slopes[found > 0]).max() < 1e-3
    assert (slopes[found == 0] > 0).all()


def test_ridge_bounds_the_solution_for_constant_labels() -> None:
    """Without the ridge, the coefficient of a positive feature would be infinite."""
    found = fit_logistic([np.ones(3000)], np.zeros(3000), towards=[0.0])
    assert -20 < found[0] < -5
    assert 3000 * probabilities(found)[0] + found[0] == pytest.approx(0, abs=1e-6)


def test_logits_of_certain_probabilities_are_finite() -> None:
    np.testing.assert_allclose(logits([0.0, 0.5, 1.0]), [np.log(1e-15), 0, -np.log(1e-15)], rtol=1e-3)
