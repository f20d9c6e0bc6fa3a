"""The blending methods: each against its definition, and all on the same slices."""

import numpy as np
import pytest

from ichx.evaluation import blend
from ichx.evaluation.blend_methods import FITS, LinearPool, LogitPool, RankPool, fit_pool
from ichx.evaluation.logistic import logits
from ichx.evaluation.metric import label_losses, probabilities, score
from ichx.evaluation.series_neighbours import Heads

N = 1500


def world(seed: int, skills: tuple[float, ...] = (1.0, 2.0, 2.5)) -> tuple[dict[int, np.ndarray], np.ndarray, Heads]:
    rng = np.random.default_rng(seed)
    labels = (rng.random((N, 6)) < 0.3).astype(float)
    members = {k: probabilities((labels - 0.5) * skill + rng.normal(-0.5, 1, (N, 6))) for k, skill in enumerate(skills)}
    return members, labels, Heads(np.arange(N) // 30, np.arange(N) % 30)


@pytest.mark.parametrize("method", FITS)
def test_every_method_is_no_worse_than_the_worst_and_applies_to_other_slices(method: str) -> None:
    members, labels, heads = world(0)
    pool = fit_pool(method, members, labels, heads)
    fresh, truth, others = world(1)
    found = pool.apply({k: fresh[k] for k in pool.members}, others)
    assert found.shape == (N, 6)
    assert ((found >= 0) & (found <= 1)).all()
    assert score(truth, found) < max(score(truth, p) for p in fresh.values())
    assert len(pool.shares) == len(pool.members)
    again = fit_pool(method, members, labels, heads).apply({k: fresh[k] for k in pool.members}, others)
    assert (again == found).all()


def test_per_label_is_the_optimum_of_each_label() -> None:
    members, labels, heads = world(2)
    members[0][:, 5], members[2][:, 5] = members[2][:, 5].copy(), members[0][:, 5].copy()
    pool, convex = (fit_pool(m, members, labels, heads) for m in ("per-label", "convex"))
    apart, together = (label_losses(labels, p.apply(members, heads)) for p in (pool, convex))
    assert (apart <= together + 1e-9).all()
    assert apart[5] < together[5] - 0.01
    assert isinstance(pool, LinearPool)
    np.testing.assert_allclose(pool.weights.sum(axis=0), 1)


def test_greedy_ends_near_the_optimum_and_mean_is_even() -> None:
    members, labels, heads = world(3)
    greedy = score(labels, fit_pool("greedy", members, labels, heads).apply(members, heads))
    best = blend.solve(labels, list(members.values())).loss
    assert best - 1e-12 <= greedy < best + 1e-3
    assert fit_pool("mean", members, labels, heads).shares.tolist() == pytest.approx([1 / 3] * 3)


def test_a_logit_pool_of_independent_evidence_sums_it() -> None:
    """Logits that are log likelihood ratios of independent observations: their sum is the posterior."""
    rng = np.random.default_rng(4)
    labels = (rng.random((20_000, 6)) < 0.5).astype(float)
    members = {
        k: probabilities(2 * s * (labels * 2 - 1 + rng.normal(0, 1 / np.sqrt(s), labels.shape)))
        for k, s in enumerate((0.5, 1.0))
    }
    heads = Heads(np.zeros(20_000, np.int64), np.arange(20_000))
    pool = fit_pool("logit", members, labels, heads)
    assert isinstance(pool, LogitPool)
    np.testing.assert_allclose(pool.weights, 1, atol=0.05)
    np.testing.assert_allclose(
        pool.apply(members, heads),
        probabilities(sum(w * logits(p) for w, p in zip(pool.weights, members.values(), strict=True))),
    )


def test_ranks_do_not_see_a_monotone_distortion() -> None:
    members, labels, heads = world(5)
    bent = {k: p ** (k + 1) for k, p in members.items()}
    plain, other = (fit_pool("rank", m, labels, heads) for m in (members, bent))
    assert isinstance(plain, RankPool)
    assert isinstance(other, RankPool)
    np.testing.assert_allclose(plain.ranks(members), other.ranks(bent), atol=2e-3)


def test_a_member_without_use_is_left_out() -> None:
    members, labels, heads = world(6, (3.0, 3.0))
    members[2] = probabilities(0.5 - labels + np.random.default_rng(0).normal(0, 1, labels.shape))
    for method in ("convex", "greedy", "logit", "per-label"):
        assert 2 not in fit_pool(method, members, labels, heads).members, method


def test_a_stack_uses_neighbours() -> None:
    rng = np.random.default_rng(7)
    heads = Heads(np.arange(N) // 30, np.arange(N) % 30)
    labels = np.repeat((rng.random((N // 10, 6)) < 0.3).astype(float), 10, axis=0)
    members = {k: probabilities(2 * labels - 1.5 + rng.normal(0, 2, labels.shape)) for k in range(2)}
    stack, convex = (fit_pool(m, members, labels, heads) for m in ("stack", "convex"))
    assert score(labels, stack.apply(members, heads)) < 0.7 * score(labels, convex.apply(members, heads))
