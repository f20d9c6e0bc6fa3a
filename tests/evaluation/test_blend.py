"""Blend weights are optimal: compared with brute force, by their certificate, and by properties of the optimum."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ichx.errors import InvalidInputError
from ichx.evaluation import blend
from ichx.evaluation.metric import probabilities, score


def world(seed: int, n: int, skills: list[float], prevalence: float = 0.3) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return labels (n, 6) and a member per skill: noisy logits that follow the labels with that strength."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, 6)) < prevalence).astype(float)
    members = [probabilities((labels - 0.5) * skill + rng.normal(-0.5, 1.0, (n, 6))) for skill in skills]
    return labels, members


def grid(members: int, steps: int) -> list[np.ndarray]:
    """Return the points of the simplex whose weights are multiples of 1 / steps."""
    firsts = itertools.product(range(steps + 1), repeat=members - 1)
    return [np.array([*first, steps - sum(first)]) / steps for first in firsts if sum(first) <= steps]


def assert_optimal(labels: np.ndarray, members: list[np.ndarray], steps: int = 0) -> blend.Blend:
    """Check weights, loss and certificate; with `steps`, compare with brute force on a grid as well."""
    found = blend.solve(labels, members)
    assert (found.weights >= 0).all()
    assert found.weights.sum() == pytest.approx(1, abs=1e-12)
    assert found.certificate <= 1e-9
    q, a = blend.truth_probabilities(labels, members)
    assert found.certificate == pytest.approx(np.max(q.T @ (a / (q @ found.weights))) - 1, abs=1e-12)
    assert found.loss == pytest.approx(-(a @ np.log(q @ found.weights)), rel=1e-12, abs=1e-15)
    if all(
        np.abs(m - 0.5).max() < 0.5 - 1e-6 for m in members
    ):  # near certainty, mixing before the logarithm loses digits
        assert found.loss == pytest.approx(score(labels, blend.mix(members, found.weights)), rel=1e-9)
    points = [
        *np.eye(len(members)),
        np.full(len(members), 1 / len(members)),
        *(grid(len(members), steps) if steps else ()),
    ]
    assert found.loss <= min(-(a @ np.log(q @ point)) for point in points) + 1e-8
    return found


@pytest.mark.parametrize(
    ("skills", "steps"), [([1.0, 2.0], 1000), ([3.0, 3.0], 1000), ([0.5, 4.0], 1000), ([1.0, 2.0, 3.0], 60)]
)
@pytest.mark.parametrize("seed", [0, 1])
def test_no_point_of_a_fine_grid_is_better(skills: list[float], steps: int, seed: int) -> None:
    labels, members = world(seed, 80, skills)
    found = assert_optimal(labels, members, steps)
    best = min(grid(len(skills), steps), key=lambda w: score(labels, blend.mix(members, w)))
    np.testing.assert_allclose(found.weights, best, atol=2 / steps)
    assert score(labels, blend.mix(members, best)) == pytest.approx(found.loss, abs=1e-3)


def test_mirrored_members_have_equal_weights() -> None:
    labels, (one,) = world(3, 60, [2.0])
    labels, other = np.concatenate([labels, labels]), np.clip(one + 0.15, 0, 1)
    members = [np.concatenate([one, other]), np.concatenate([other, one])]
    np.testing.assert_allclose(assert_optimal(labels, members, 200).weights, [0.5, 0.5], atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_identical_members_do_not_change_the_loss(count: int) -> None:
    labels, (one, other) = world(4, 60, [2.0, 1.5])
    found = assert_optimal(labels, [one] * count)
    assert found.loss == pytest.approx(score(labels, one), abs=1e-9)
    plain = assert_optimal(labels, [one, other])
    doubled = assert_optimal(labels, [one] * count + [other])
    assert doubled.loss == pytest.approx(plain.loss, abs=1e-8)
    assert doubled.weights[:-1].sum() == pytest.approx(plain.weights[0], abs=1e-3)


def test_perfect_member_has_all_weight() -> None:
    labels, (one, other) = world(5, 60, [2.0, 1.0])
    found = assert_optimal(labels, [one, labels, other])
    np.testing.assert_allclose(found.weights, [0, 1, 0], atol=1e-6)
    assert found.loss < 1e-8


@pytest.mark.parametrize("seed", range(8))
def test_good_member_next_to_random_ones_has_exactly_all_weight(seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = (random.random((200, 6)) < 0.3).astype(float)
    good = np.where(labels == 1, 0.8, 0.1)
    noise = [np.clip(random.normal(0.5, 0.2, labels.shape), 0.01, 0.99) for _ in range(2)]
    solved = blend.solve(labels, [noise[0], good, noise[1]])
    assert solved.weights.tolist() == [0, 1, 0]
    assert solved.loss == pytest.approx(score(labels, good), rel=1e-14)


def test_probabilities_of_0_and_1_are_clipped_before_mixing() -> None:
    """A member that is certain and wrong in one slice has a finite loss."""
    labels, (one, other) = world(6, 60, [2.0, 1.0])
    certain = labels.copy()
    certain[0] = 1 - certain[0]
    found = assert_optimal(labels, [one, certain, other], 40)
    assert found.weights[1] > 0.5
    assert_optimal(labels, [1 - labels, one], 200)
    hopeless = assert_optimal(labels, [1 - labels, 1 - labels])
    assert hopeless.loss == pytest.approx(-np.log(1e-15), rel=1e-4)  # 1 - (1 - 1e-15) is not 1e-15
    contrary = assert_optimal(np.array([[0.0, 1, 0, 1, 0, 1]]), [np.zeros((1, 6)), np.ones((1, 6))], 1000)
    # Negatives weigh 3 of 7, positives 4 of 7: the optimum mixes the two constants in these shares.
    np.testing.assert_allclose(contrary.weights, [3 / 7, 4 / 7], atol=1e-6)


def test_label_weights_count() -> None:
    """A member that is good at `any` only outweighs one that is good at one subtype only."""
    labels = np.zeros((10, 6))
    at_any, at_subtype = np.full((10, 6), 0.5), np.full((10, 6), 0.5)
    at_any[:, 5], at_subtype[:, 0] = 0.01, 0.01
    found = assert_optimal(labels, [at_any, at_subtype], 500)
    assert found.weights[0] > found.weights[1]


def test_soft_labels() -> None:
    labels, members = world(7, 40, [1.0, 2.0])
    soft = 0.1 + 0.8 * labels
    assert_optimal(soft, members, 200)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 40),
    st.lists(st.floats(-4, 12), min_size=1, max_size=7),
    st.sampled_from([0.0, 0.01, 0.3, 1.0]),
    st.booleans(),
)
def test_never_worse_than_a_member_or_the_mean(
    seed: int, n: int, skills: list[float], prevalence: float, extreme: bool
) -> None:
    labels, members = world(seed, n, skills, prevalence)
    if extreme:
        members = [np.where(np.abs(m - 0.5) > 0.45, np.round(m), m) for m in members]
    assert_optimal(labels, members)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.permutations(range(4)))
def test_the_order_of_members_does_not_matter(seed: int, order: list[int]) -> None:
    labels, members = world(seed, 60, [1.0, 2.0, 2.5, 0.2])
    plain, permuted = blend.solve(labels, members), blend.solve(labels, [members[k] for k in order])
    assert permuted.loss == pytest.approx(plain.loss, abs=1e-8)
    np.testing.assert_allclose(permuted.weights, plain.weights[order], atol=1e-4)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 200),
    st.lists(st.floats(-4, 12), min_size=1, max_size=6),
    st.sampled_from([0.0, 0.01, 0.3, 1.0]),
    st.sampled_from(["corner", "even", "random"]),
)
def test_any_start_leads_to_the_same_optimum(
    seed: int, n: int, skills: list[float], prevalence: float, kind: str
) -> None:
    labels, members = world(seed, n, skills, prevalence)
    count = len(members)
    random = np.random.default_rng(seed)
    start = {
        "corner": np.eye(count)[random.integers(count)],
        "even": np.full(count, 1 / count),
        "random": random.dirichlet(np.ones(count)),
    }[kind]
    found, plain = blend.solve(labels, members, start=start), blend.solve(labels, members)
    assert found.certificate <= 1e-9
    assert found.weights.sum() == pytest.approx(1, abs=1e-12)
    assert (found.weights >= 0).all()
    assert found.loss == pytest.approx(plain.loss, abs=2e-9)


def test_many_members_and_many_slices() -> None:
    labels, members = world(8, 5000, list(np.linspace(0, 4, 20)))
    found = assert_optimal(labels, members)
    assert (found.weights > 0).sum() >= 2


def test_mixing_is_a_weighted_mean_of_clipped_members() -> None:
    first, second = np.zeros((2, 6)), np.full((2, 6), 0.5)
    np.testing.assert_allclose(blend.mix([first, second], [0.25, 0.75]), 0.25 * 1e-15 + 0.375, rtol=1e-15)
    assert (blend.mix([np.ones((1, 6))], [1.0]) == 1 - 1e-15).all()


def test_empty_input() -> None:
    for labels, members in ((np.zeros((2, 6)), []), (np.zeros((0, 6)), [np.zeros((0, 6))])):
        with pytest.raises(InvalidInputError):
            blend.solve(labels, members)
