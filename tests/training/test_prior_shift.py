"""A loss of shifted logits of a sampled population has its minimum at the prior of the complete one."""

import numpy as np
import pytest
import torch

from ichx.labels import ANY, LABELS
from ichx.training.losses import weighted_loss
from ichx.training.prior_shift import sampled_logits


def test_shifted_logits_are_those_of_the_sampled_population() -> None:
    random = np.random.default_rng(1)
    # Every combination of the five subtypes, with its probability; `any` without a subtype does not occur.
    states = np.array([[k >> bit & 1 for bit in range(5)] for k in range(32)], np.float64)
    share = 0.15
    for _ in range(20):
        weights = random.dirichlet(np.full(32, 0.5))
        labels = np.column_stack([states, states.max(axis=1)])
        assert LABELS.index(ANY) == 5
        sampled = weights * np.where(labels[:, 5] > 0, 1, share)
        sampled /= sampled.sum()
        true, expected = weights @ labels, sampled @ labels
        logits = torch.from_numpy(np.log(true / (1 - true)))[None]
        found = torch.sigmoid(sampled_logits(logits, share))[0].numpy()
        np.testing.assert_allclose(found, expected, rtol=2e-5)


def test_training_on_a_sample_with_the_shift_learns_the_true_prior() -> None:
    # 10 % of the slices have a hemorrhage, all of one subtype; the sample has 50 %.
    labels = torch.tensor([[0, 1, 0, 0, 0, 1.0]] * 10 + [[0.0] * 6] * 10)
    logits = torch.nn.Parameter(torch.zeros(6))
    optimizer = torch.optim.Adam([logits], lr=0.05)
    for _ in range(600):
        optimizer.zero_grad()
        weighted_loss(sampled_logits(logits.expand(20, 6), 10 / 90), labels).backward()
        optimizer.step()
    found = torch.sigmoid(logits.detach())
    assert found[[1, 5]].tolist() == pytest.approx([0.1, 0.1], abs=1e-3)


def test_extreme_and_contradictory_logits_stay_finite() -> None:
    logits = torch.tensor([[200.0, -200, 0, 30, 0, -30], [-200.0, 40, 17, 0, 90, 90]], requires_grad=True)
    shifted = sampled_logits(logits, 0.01)
    shifted.sum().backward()
    assert torch.isfinite(shifted).all()
    assert torch.isfinite(logits.grad).all()
    assert (shifted >= logits).all(), "no label gets rarer"
