"""The loss of the labels. The loss of masks is in `mask_loss`."""

import functools

import torch
from torch import nn

from ichx.labels import LABEL_WEIGHTS


def weighted_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    smoothing: float = 0.0,
    known_share: float | torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the binary cross-entropy with logits, weighted over the six labels like the score.

    Args:
        logits: `(N, 6)`.
        labels: `(N, 6)` in [0, 1].
        smoothing: Moves the labels towards 1/2, to 1 - smoothing / 2 and smoothing / 2 (Szegedy et al. 2016, arXiv
            1512.00567, for two classes).
        known_share: Share of the weights of the complete batch whose labels are known, see `share_of_known`: labels may
            be NaN, which do not count. None if all are known.
    """
    weights = label_weights(logits.device)
    if known_share is not None:
        known = ~labels.isnan()
        target = labels.nan_to_num(0.0)
        if smoothing > 0:
            target = target * (1 - smoothing) + smoothing / 2
        losses = nn.functional.binary_cross_entropy_with_logits(logits.float(), target, reduction="none")
        total = (losses * known * weights).sum() / (len(labels) * weights.sum())
        return total / known_share
    if smoothing > 0:
        labels = labels * (1 - smoothing) + smoothing / 2
    losses = nn.functional.binary_cross_entropy_with_logits(logits.float(), labels, reduction="none")
    return (losses.mean(dim=0) * weights).sum() / weights.sum()


def share_of_known(labels: torch.Tensor) -> torch.Tensor:
    """Return the share of the weights of `labels` (N, 6) that are known, a scalar; 1 if none is: there is no loss."""
    weights = label_weights(labels.device)
    share = (~labels.isnan() * weights).sum() / (max(len(labels), 1) * weights.sum())
    return torch.where(share > 0, share, 1.0)


@functools.cache
def label_weights(device: torch.device) -> torch.Tensor:
    """Return the label weights on `device`, cached there: a copy in each step would make the device wait."""
    with torch.inference_mode(False):
        return torch.tensor(LABEL_WEIGHTS, dtype=torch.float32, device=device)
