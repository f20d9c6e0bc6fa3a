"""The loss of masks and their overlap, against values by hand."""

import math

import torch

from ichx.labels import SUBTYPES, UNKNOWN_MASK
from ichx.training.mask_loss import Overlap, dice, mask_loss


def logits_of(masks: torch.Tensor, sure: float) -> torch.Tensor:
    """Return the logits of a network that is as `sure` of `masks`."""
    subtypes = torch.arange(1, len(SUBTYPES) + 1).view(1, -1, 1, 1)
    return torch.where(masks.unsqueeze(1) == subtypes, sure, -sure)


def masks_at_random(seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 4, (3, 8, 8), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def test_patience_by_hand() -> None:
    """One pixel of four is epidural; the network says 1/2 everywhere."""
    masks = torch.tensor([[[1, 0], [0, 0]]], dtype=torch.uint8)
    expected = math.log(2) + 1 - 2 * 0.5 / (4 * 0.5**2 + 1)
    assert math.isclose(mask_loss(torch.zeros(1, 5, 2, 2), masks).item(), expected, rel_tol=1e-6)


def test_the_right_masks_cost_nothing_and_wrong_ones_much() -> None:
    masks = masks_at_random()
    right, wrong = logits_of(masks, 30.0), logits_of((masks + 1) % 4, 30.0)
    assert mask_loss(right, masks) < 1e-6
    assert mask_loss(wrong, masks) > 5
    assert mask_loss(logits_of(torch.zeros_like(masks), 30.0), torch.zeros_like(masks)) < 1e-6


def test_unknown_masks_teach_nothing() -> None:
    masks = masks_at_random()
    with_unknown = masks.clone()
    with_unknown[1] = UNKNOWN_MASK
    logits = torch.randn(3, 5, 8, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
    mask_loss(logits, with_unknown).backward()
    assert logits.grad is not None
    assert not logits.grad[1].any()
    assert logits.grad[0].any()
    torch.testing.assert_close(mask_loss(logits, with_unknown), mask_loss(logits[[0, 2]], masks[[0, 2]]))
    few = masks.clone()
    few[:, :3] = UNKNOWN_MASK  # the first rows of every slice
    logits.grad = None
    mask_loss(logits, few).backward()
    assert logits.grad is not None
    assert not logits.grad[:, :, :3].any()
    assert logits.grad[:, :, 3:].all()
    torch.testing.assert_close(mask_loss(logits, few), mask_loss(logits[:, :, 3:], masks[:, 3:]))
    nothing = mask_loss(logits, torch.full_like(masks, UNKNOWN_MASK))
    assert nothing.item() == 0
    nothing.backward()


def test_the_mask_loss_is_computed_in_float32() -> None:
    masks = masks_at_random()
    logits = logits_of(masks, 8.0).half()
    assert mask_loss(logits, masks).dtype == torch.float32
    torch.testing.assert_close(mask_loss(logits, masks), mask_loss(logits.float(), masks))


def test_overlap_by_hand() -> None:
    """Of 4 epidural pixels 3 are found, and 1 too many: dice 6 / 8. Of 2 subdural ones, none."""
    masks = torch.tensor([[[1, 1, 1, 1], [5, 5, 0, 0]]], dtype=torch.uint8)
    found = torch.tensor([[[1, 1, 1, 0], [1, 0, 0, 2]]], dtype=torch.uint8)
    overlap = Overlap(torch.device("cpu"))
    overlap.add(logits_of(found, 1.0), masks)
    overlap.add(logits_of(found, 1.0), torch.full_like(masks, UNKNOWN_MASK))
    assert dice([overlap.counts()]) == {"dice": 0.375, "dice_epidural": 0.75, "dice_subdural": 0.0}


def test_overlap_without_a_bleed_is_empty() -> None:
    overlap = Overlap(torch.device("cpu"))
    assert dice([overlap.counts()]) == {}
    overlap.add(torch.ones(1, 5, 4, 4), torch.zeros(1, 4, 4, dtype=torch.uint8))
    assert dice([overlap.counts()]) == {}


def test_counts_of_several_processes_are_those_of_one() -> None:
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn((4, 5, 8, 8), generator=rng)
    masks = torch.randint(0, 6, (4, 8, 8), generator=rng, dtype=torch.uint8)
    whole, parts = Overlap(torch.device("cpu")), [Overlap(torch.device("cpu")) for _ in range(2)]
    whole.add(logits, masks)
    for part, rows in zip(parts, (slice(0, 3), slice(3, 4)), strict=True):
        part.add(logits[rows], masks[rows])
    assert dice([part.counts() for part in parts]) == dice([whole.counts()])
