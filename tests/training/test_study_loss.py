"""Losses with unknown labels, and of labelled studies."""

import numpy as np
import pytest
import torch

from ichx.labels import LABEL_WEIGHTS
from ichx.training.losses import share_of_known, weighted_loss
from ichx.training.study_loss import StudyGroups, expected_labels, posterior_share, study_groups, study_loss

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


def expected(logits: torch.Tensor, posterior: float = 1.0) -> torch.Tensor:
    labels = torch.full((8, 6), float("nan"))
    labels[3:6, 0] = 0.0
    return expected_labels(logits, labels, groups(), posterior)


def test_expected_labels_are_first_those_of_the_study_and_then_posteriors() -> None:
    logits, _ = random_batch()
    first, then, between = (expected(logits, share) for share in (0, 1, 0.25))
    p = torch.sigmoid(logits[:3, 4])
    torch.testing.assert_close(then[:3, 4], p / (1 - (1 - p).prod()))
    assert (first[:3, 4] == 1).all()
    torch.testing.assert_close(between, 0.75 * first + 0.25 * then, equal_nan=True)
    for found in (first, then):
        assert not found[:3, 0].any(), "a negative study"
        assert found[3:6, [0, 2]].isnan().all(), "the label of the slice is known, that of the study is not"
        assert found[6:].isnan().all(), "no study"


def test_expected_labels_have_the_gradient_of_noisy_or() -> None:
    logits, _ = random_batch()
    logits.requires_grad_()
    of_study = study_groups(np.array([0] * 8), np.ones((8, 6), np.float32))
    study_loss(logits, of_study, "noisy_or").backward()
    pooled = logits.grad
    logits.grad = None
    labels = expected_labels(logits, torch.full((8, 6), float("nan")), of_study, 1.0)
    assert not labels.requires_grad
    (8 * weighted_loss(logits, labels, 0.0, 1.0)).backward()  # a mean over slices
    torch.testing.assert_close(logits.grad, pooled, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [-1e4, -60.0, 60.0, 1e4])
def test_expected_labels_of_extreme_logits_are_probabilities(size: float) -> None:
    found = expected(torch.full((8, 6), size))[:3, 4]
    torch.testing.assert_close(found, torch.full((3,), 1.0 if size > 0 else 1 / 3))


@pytest.mark.parametrize("posterior", [0.0, 0.5, 1.0])
def test_expected_labels_of_a_part_are_those_of_its_slices(posterior: float) -> None:
    logits, _ = random_batch()
    unknown = torch.full((5, 6), float("nan"))
    found = expected_labels(logits[3:], unknown, groups().part(slice(3, 8)), posterior)
    assert found[3:].isnan().all()
    assert not found[:3, 0].any()


def test_the_share_of_the_posterior_rises_to_one() -> None:
    assert [posterior_share(progress, 0.5) for progress in (0, 0.25, 0.5, 0.9)] == [0, 0.5, 1, 1]
    assert posterior_share(0, 0) == 1
