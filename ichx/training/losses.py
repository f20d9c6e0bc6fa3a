"""The loss of the labels. The loss of masks is in `mask_loss`."""

import functools

import torch
from torch import nn

from ichx.labels import LABEL_WEIGHTS


def weighted_loss(logits: torch.Tensor, labels: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
    """Return the binary cross-entropy with logits, weighted over the six labels like the score.

    Args:
        logits: `(N, 6)`.
        labels: `(N, 6)` in [0, 1].
        smoothing: Moves the labels towards 1/2, to 1 - smoothing / 2 and smoothing / 2 (Szegedy et al. 2016, arXiv
            1512.00567, for two classes).
    """
    if smoothing > 0:
        labels = labels * (1 - smoothing) + smoothing / 2
    weights = _label_weights(logits.device)
    losses = nn.functional.binary_cross_entropy_with_logits(logits.float(), labels, reduction="none")
    return (losses.mean(dim=0) * weights).sum() / weights.sum()


@functools.cache
def _label_weights(device: torch.device) -> torch.Tensor:
    """Return the label weights on `device`, cached there: a copy in each step would make the device wait."""
    with torch.inference_mode(False):
        return torch.tensor(LABEL_WEIGHTS, dtype=torch.float32, device=device)
