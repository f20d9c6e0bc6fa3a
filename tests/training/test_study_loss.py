"""Losses with unknown labels, and of labelled studies."""

import numpy as np
import pytest
import torch

from ichx.labels import LABEL_WEIGHTS
from ichx.training.losses import share_of_known, weighted_loss
from ichx.training.study_loss import StudyGroups, study_groups, study_loss

WEIGHTS = torch.tensor(LABEL_WEIGHTS)


def random_batch(rows: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(3)
    return torch.randn(rows, 6, generator=random), (torch.rand(rows, 6, generator=random) < 0.4).float()


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_unknown_labels_are_left_out_of_the_mean(smoothing: float) -> None:
    logits, labels = random_batch()
    complete = weighted_loss(logits, labels, smoothing)
    torch.testing.assert_close(weighted_loss(logits, labels, smoothing, share_of_known(labels)), complete)
    known = torch.rand(8, 6, generator=torch.Generator().manual_seed(4)) < 0.5
    partial = labels.where(known, float("nan"))
    target = labels * (1 - smoothing) + smoothing / 2
    expected = (cross_entropy(logits, target) * known * WEIGHTS).sum() / (known * WEIGHTS).sum()
    torch.testing.assert_close(weighted_loss(logits, partial, smoothing, share_of_known(partial)), expected)


def test_parts_of_a_batch_add_up_to_it() -> None:
    logits, labels = random_batch()
    labels[:3, 1:] = float("nan")
    share = share_of_known(labels)
    parts = []
    for at in (slice(0, 2), slice(2, 8)):
        parts.append(weighted_loss(logits[at], labels[at], 0.0, share) * (at.stop - at.start) / 8)
    torch.testing.assert_close(sum(parts), weighted_loss(logits, labels, 0.0, share))


def test_no_known_label_is_no_loss_and_no_gradient() -> None:
    logits = torch.randn(4, 6, requires_grad=True)
    labels = torch.full((4, 6), float("nan"))
    loss = weighted_loss(logits, labels, 0.1, share_of_known(labels))
    loss.backward()
    assert loss == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def groups() -> StudyGroups:
    labels = np.full((8, 6), np.nan, np.float32)
    labels[:3], labels[3:6] = [0, 0, 0, 0, 1, 1], [0, 0, np.nan, 0, 0, 0]
    return study_groups(np.array([4, 4, 4, 2, 2, 2, -1, -1]), labels)


@pytest.mark.parametrize("pooling", ["max", "noisy_or"])
def test_loss_of_pooled_probabilities(pooling: str) -> None:
    logits, _ = random_batch()
    p = torch.sigmoid(logits)
    if pooling == "max":
        pooled = torch.stack([p[3:6].amax(0), p[:3].amax(0)])
    else:
        pooled = torch.stack([1 - (1 - p[3:6]).prod(0), 1 - (1 - p[:3]).prod(0)])
    labels = torch.tensor([[0, 0, float("nan"), 0, 0, 0], [0, 0, 0, 0, 1, 1]])
    known = ~labels.isnan()
    losses = torch.nn.functional.binary_cross_entropy(pooled, labels.nan_to_num(0), reduction="none")
    expected = (losses * known * WEIGHTS).sum() / (known * WEIGHTS).sum()
    torch.testing.assert_close(study_loss(logits, groups(), pooling), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pooling", ["max", "noisy_or"])
def test_extreme_logits_have_finite_gradients(pooling: str) -> None:
    for size in (60.0, -60.0):
        logits = torch.full((8, 6), size, requires_grad=True)
        study_loss(logits, groups(), pooling).backward()
        assert logits.grad is not None
        assert logits.grad.isfinite().all()


def test_slices_outside_groups_and_unknown_labels_get_no_gradient() -> None:
    logits = torch.randn(8, 6, requires_grad=True)
    study_loss(logits, groups(), "noisy_or").backward()
    assert logits.grad is not None
    assert not logits.grad[6:].any()
    assert not logits.grad[3:6, 2].any()
    assert logits.grad[:6, 0].all()


def test_a_part_has_the_groups_of_its_slices() -> None:
    logits, _ = random_batch()
    part = groups().part(slice(3, 8))
    alone = study_groups(np.array([2, 2, 2, -1, -1]), np.float32([[0, 0, np.nan, 0, 0, 0]] * 5))
    torch.testing.assert_close(study_loss(logits[3:], part, "max"), study_loss(logits[3:], alone, "max"))
    assert study_loss(logits[6:], groups().part(slice(6, None)), "max") == 0
