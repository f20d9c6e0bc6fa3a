"""Blending methods: each compared with its definition, and properties of all."""

import numpy as np
import pytest

from ichx.evaluation import blend
from ichx.evaluation.blend_methods import LinearPool, LogitPool, RankPool, Stack, fit_pool
from ichx.evaluation.choices import METHODS
from ichx.evaluation.logistic import logits
from ichx.evaluation.metric import label_losses, probabilities, score
from ichx.evaluation.series_neighbours import SeriesNeighbours
from ichx.labels import LABEL_WEIGHTS

N = 1500
World = tuple[dict[int, np.ndarray], np.ndarray, SeriesNeighbours]


def world(seed: int, skills: tuple[float, ...] = (1.0, 2.0, 2.5)) -> World:
    rng = np.random.default_rng(seed)
    labels = (rng.random((N, 6)) < 0.3).astype(float)
    members = {k: probabilities((labels - 0.5) * skill + rng.normal(-0.5, 1, (N, 6))) for k, skill in enumerate(skills)}
    return members, labels, SeriesNeighbours(np.arange(N) // 30, np.arange(N) % 30)


@pytest.mark.parametrize("method", METHODS[1:])
def test_every_method_is_deterministic_and_beats_the_worst_member_on_other_slices(method: str) -> None:
    members, labels, neighbours = world(0)
    pool = fit_pool(method, members, labels, neighbours)
    fresh, truth, others = world(1)
    blended = pool.apply({k: fresh[k] for k in pool.members}, others)
    assert blended.shape == (N, 6)
    assert ((blended >= 0) & (blended <= 1)).all()
    assert score(truth, blended) < max(score(truth, p) for p in fresh.values())
    assert len(pool.shares) == len(pool.members)
    again = fit_pool(method, members, labels, neighbours).apply({k: fresh[k] for k in pool.members}, others)
    assert (again == blended).all()


def test_per_label_is_the_optimum_of_each_label() -> None:
    members, labels, neighbours = world(2)
    members[0][:, 5], members[2][:, 5] = members[2][:, 5].copy(), members[0][:, 5].copy()
    pool, convex = (fit_pool(m, members, labels, neighbours) for m in ("per-label", "convex"))
    separate, common = (label_losses(labels, p.apply(members, neighbours)) for p in (pool, convex))
    assert (separate <= common + 1e-9).all()
    assert separate[5] < common[5] - 0.01
    assert isinstance(pool, LinearPool)
    np.testing.assert_allclose(pool.weights.sum(axis=0), 1)


def test_per_label_logit_is_the_optimum_of_each_label_and_may_give_weight_0() -> None:
    members, labels, neighbours = world(2)
    members[2][:, 0] = 1 - members[2][:, 0]
    pool, common = (fit_pool(m, members, labels, neighbours, 30.0) for m in ("per-label-logit", "logit"))
    assert isinstance(pool, LogitPool)
    weights = dict(zip(pool.members, pool.weights, strict=True))
    assert weights[2][0] == 0
    assert (weights[2][1:] > 0.1).all()
    separate, joint = (label_losses(labels, p.apply(members, neighbours)) for p in (pool, common))
    assert separate[0] < joint[0] - 0.01
    assert (separate < joint + 1e-3).all()
    z = {k: logits(p) for k, p in members.items()}
    np.testing.assert_allclose(
        pool.apply(members, neighbours), probabilities(sum(w * z[k] for k, w in weights.items())), rtol=1e-9
    )
    assert pool.shares.tolist() == pytest.approx([w @ LABEL_WEIGHTS / 7 for w in weights.values()])


@pytest.mark.parametrize("method", ["per-label-logit", "stack"])
def test_a_label_that_does_not_vary_gets_the_mean_of_the_logits(method: str) -> None:
    members, labels, neighbours = world(8)
    labels[:, 0] = 0
    blended = fit_pool(method, members, labels, neighbours, 30.0).apply(members, neighbours)
    mean = np.mean([logits(p[:, 0]) for p in members.values()], axis=0)
    np.testing.assert_allclose(logits(blended[:, 0]), mean, atol=1e-9)


def test_certain_predictions_of_other_tools_do_not_outweigh_all_others() -> None:
    """One wrong slice with probability 0 has a bounded logit."""
    members, labels, neighbours = world(9)
    plain = score(labels, fit_pool("logit", members, labels, neighbours, 30.0).apply(members, neighbours))
    wrong = int(np.flatnonzero(labels[:, 5])[0])
    members[0][wrong, 5] = 0.0
    pool = fit_pool("logit", members, labels, neighbours, 30.0)
    assert score(labels, pool.apply(members, neighbours)) < plain + 0.005


def test_the_ridge_counts_patients_not_slices() -> None:
    """Slices that are repeated with their patient's number of slices do not make a stack more certain."""
    members, labels, neighbours = world(10)
    few = {k: p[:60] for k, p in members.items()}
    once = fit_pool("stack", few, labels[:60], neighbours.take(np.arange(60)), 30.0)
    rows = np.repeat(np.arange(60), 5)  # the same slices, five times each
    repeated = SeriesNeighbours(rows // 30 * 5 + np.tile(np.arange(5), 60), rows % 30)
    five = fit_pool("stack", {k: p[rows] for k, p in few.items()}, labels[rows], repeated, 150.0)
    assert isinstance(once, Stack)
    assert isinstance(five, Stack)
    np.testing.assert_allclose(once.coefficients[:, :-1], five.coefficients[:, :-1], atol=0.02)


def test_greedy_is_near_the_optimum_and_mean_has_equal_weights() -> None:
    members, labels, neighbours = world(3)
    greedy = score(labels, fit_pool("greedy", members, labels, neighbours).apply(members, neighbours))
    best = blend.solve(labels, list(members.values())).loss
    assert best - 1e-12 <= greedy < best + 1e-3
    assert fit_pool("mean", members, labels, neighbours).shares.tolist() == pytest.approx([1 / 3] * 3)


def test_logit_pool_sums_independent_evidence() -> None:
    """The sum of log likelihood ratios of independent observations is the posterior."""
    rng = np.random.default_rng(4)
    labels = (rng.random((20_000, 6)) < 0.5).astype(float)
    members = {
        k: probabilities(2 * s * (labels * 2 - 1 + rng.normal(0, 1 / np.sqrt(s), labels.shape)))
        for k, s in enumerate((0.5, 1.0))
    }
    neighbours = SeriesNeighbours(np.zeros(20_000, np.int64), np.arange(20_000))
    pool = fit_pool("logit", members, labels, neighbours)
    assert isinstance(pool, LogitPool)
    np.testing.assert_allclose(pool.weights, 1, atol=0.05)
    np.testing.assert_allclose(
        pool.apply(members, neighbours),
        probabilities(sum(w * logits(p) for w, p in zip(pool.weights, members.values(), strict=True))),
    )


def test_ranks_are_invariant_to_a_monotone_distortion() -> None:
    members, labels, neighbours = world(5)
    bent = {k: p ** (k + 1) for k, p in members.items()}
    plain, other = (fit_pool("rank", m, labels, neighbours) for m in (members, bent))
    assert isinstance(plain, RankPool)
    assert isinstance(other, RankPool)
    np.testing.assert_allclose(plain.ranks(members), other.ranks(bent), atol=2e-3)


def test_useless_member_has_no_weight() -> None:
    members, labels, neighbours = world(6, (3.0, 3.0))
    members[2] = probabilities(0.5 - labels + np.random.default_rng(0).normal(0, 1, labels.shape))
    for method in ("convex", "greedy", "logit", "per-label"):
        assert 2 not in fit_pool(method, members, labels, neighbours).members, method


def test_stack_uses_neighbours() -> None:
    rng = np.random.default_rng(7)
    neighbours = SeriesNeighbours(np.arange(N) // 30, np.arange(N) % 30)
    labels = np.repeat((rng.random((N // 10, 6)) < 0.3).astype(float), 10, axis=0)
    members = {k: probabilities(2 * labels - 1.5 + rng.normal(0, 2, labels.shape)) for k in range(2)}
    stack, convex = (fit_pool(m, members, labels, neighbours) for m in ("stack", "convex"))
    assert score(labels, stack.apply(members, neighbours)) < 0.7 * score(labels, convex.apply(members, neighbours))
