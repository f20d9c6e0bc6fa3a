"""The loss of predicted masks, and their overlap with known masks over a validation fold."""

from collections.abc import Sequence

import torch
from torch import nn

from ichx.labels import SUBTYPES, UNKNOWN_MASK


def mask_loss(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Return the float32 loss of mask logits `(N, 5, H, W)` against `masks` `(N, H, W)` as in `Batch`.

    Binary cross-entropy, averaged over known pixels and subtypes, plus the soft dice loss of each subtype over the
    batch (with squares, as in Milletari et al. 2016, arXiv 1606.04797), averaged over the subtypes in it. 0 without
    known masks.
    """
    known = (masks != UNKNOWN_MASK).unsqueeze(1).float()
    truth = _by_subtype(masks).float()
    logits = logits.float()
    losses = nn.functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    cross_entropy = (losses * known).sum() / (known.sum() * len(SUBTYPES)).clamp(min=1)
    predicted = torch.sigmoid(logits) * known
    places = (0, 2, 3)
    present = truth.sum(places)
    dice = 2 * (predicted * truth).sum(places) / (predicted.square().sum(places) + present).clamp(min=1)
    occurs = (present > 0).float()
    return cross_entropy + ((1 - dice) * occurs).sum() / occurs.sum().clamp(min=1)


class Overlap:
    """Counts over batches how predicted masks (probability above 1/2) and known ones agree."""

    def __init__(self, device: torch.device) -> None:
        self._both, self._predicted, self._known = torch.zeros((3, len(SUBTYPES)), dtype=torch.float64, device=device)

    def add(self, logits: torch.Tensor, masks: torch.Tensor) -> None:
        """Count the masks of a batch, shaped as in `mask_loss`."""
        truth = _by_subtype(masks)
        predicted = (logits > 0) & (masks != UNKNOWN_MASK).unsqueeze(1)
        places = (0, 2, 3)
        self._both += (truth & predicted).sum(places)
        self._predicted += predicted.sum(places)
        self._known += truth.sum(places)

    def counts(self) -> list[list[float]]:
        """Return the pixels of each subtype in both masks, in the predicted and in the known ones."""
        found: list[list[float]] = torch.stack([self._both, self._predicted, self._known]).tolist()
        return found


def dice(counts: Sequence[list[list[float]]]) -> dict[str, float]:
    """Return `dice_NAME` of each subtype that occurs in `counts`, over all its pixels, and their mean as `dice`."""
    both, predicted, known = torch.tensor(counts, dtype=torch.float64).sum(0)
    scores = (2 * both / (predicted + known)).tolist()
    found = {
        f"dice_{name}": score for name, score, pixels in zip(SUBTYPES, scores, known.tolist(), strict=True) if pixels
    }
    return {"dice": sum(found.values()) / len(found)} | found if found else {}


def _by_subtype(masks: torch.Tensor) -> torch.Tensor:
    """Return `masks` `(N, H, W)` as `(N, 5, H, W)` bool; False where they are unknown."""
    values = torch.arange(1, len(SUBTYPES) + 1, dtype=masks.dtype, device=masks.device)
    return masks.unsqueeze(1) == values.view(1, -1, 1, 1)
