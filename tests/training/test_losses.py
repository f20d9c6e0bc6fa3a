"""The loss of the labels."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ichx.evaluation.metric import probabilities, score
from ichx.training.losses import weighted_loss


@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_the_loss_is_the_score(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1, 3, (n, 6)).astype(np.float32)
    labels = (rng.random((n, 6)) < 0.3).astype(np.float32)
    loss = weighted_loss(torch.from_numpy(logits), torch.from_numpy(labels))
    assert loss.item() == pytest.approx(score(labels, probabilities(logits)), rel=1e-5)


def test_the_loss_is_computed_in_float32_under_mixed_precision() -> None:
    logits = torch.full((4, 6), 12.0, dtype=torch.bfloat16, requires_grad=True)
    loss = weighted_loss(logits, torch.ones(4, 6))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(np.log1p(np.exp(-12.0)), rel=1e-4)
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad != 0).all()


def test_label_smoothing_moves_labels_towards_a_half() -> None:
    logits, labels = torch.tensor([[2.0, -1.0] * 3]), torch.tensor([[1.0, 0.0] * 3])
    smooth = weighted_loss(logits, labels, 0.2)
    torch.testing.assert_close(smooth, weighted_loss(logits, torch.tensor([[0.9, 0.1] * 3])))
    at_one, at_zero = (0.9 * np.log1p(np.exp(-z)) + 0.1 * np.log1p(np.exp(z)) for z in (2.0, 1.0))
    assert smooth.item() == pytest.approx((3 * at_one + 4 * at_zero) / 7, rel=1e-6)  # `any`, the last, counts twice
