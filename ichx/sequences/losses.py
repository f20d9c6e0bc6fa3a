"""The loss of a network over series: slices weighted as the score, the series' own prediction, and the slices' maximum.

The last two are compared with whether any slice of the series has the label, or with the label of the study itself. The
maximum is multiple-instance learning in its simplest form; a noisy-or would push down all slices of a series, which are
far from independent.
"""

import torch
from torch import nn

from ichx.labels import LABEL_WEIGHTS
from ichx.plugins.contract import SequenceLogits
from ichx.recipe import SequenceRecipe


def sequence_loss(
    outputs: SequenceLogits,
    labels: torch.Tensor,
    weights: torch.Tensor,
    heads: torch.Tensor,
    recipe: SequenceRecipe,
    smoothing: float = 0.0,
    *,
    studies: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the mean loss of the series; its value is the mean of the heads, its gradient the sum.

    The learning rate of a head thus does not depend on the number of heads.

    Args:
        outputs: Logits of each head.
        labels: `(B, T, 6)` in [0, 1], NaN for padding and where unknown.
        weights: `(B, T)` weight of each slice.
        heads: `(B, H)`, 1 for heads that learn from a series, else 0.
        recipe: The weights of the parts of the loss.
        smoothing: See `ichx.training.losses.weighted_loss`.
        studies: `(B, 6)` labels of the studies or series themselves, NaN where unknown; None if only slices have any.
    """
    known = ~labels.isnan()
    target = labels.nan_to_num(0.0)
    smoothed = target * (1 - smoothing) + smoothing / 2 if smoothing > 0 else target
    of_labels = torch.tensor(LABEL_WEIGHTS, dtype=torch.float32, device=labels.device)
    of_labels = of_labels / of_labels.sum()
    of_slices = weights[..., None] * known * of_labels
    of_heads = heads.T / len(heads)
    both = (outputs.slices, *outputs.auxiliary)
    slices = torch.stack([(_losses(logits, smoothed) * of_slices).sum(dim=(2, 3)) for logits in both]).mean(dim=0)

    # Whether any slice has a label is known if one has it, or if all are known.
    padding = weights[..., None] == 0
    largest = torch.where(padding, 0.0, target).amax(dim=1)
    decided = (known | padding).all(dim=1) | (largest > 0.5)
    if studies is not None:
        labelled = ~studies.isnan()
        largest, decided = torch.where(labelled, studies, largest), decided | labelled
    of_series = decided * of_labels
    series = (_losses(outputs.series, largest) * of_series).sum(dim=2)
    maximum = outputs.slices.masked_fill(padding, -1e4).amax(dim=2)
    mil = (_losses(maximum, largest) * of_series).sum(dim=2)

    total = slices + recipe.study_weight * series + recipe.mil_weight * mil
    of_each = (total * of_heads).sum(dim=1)
    loss = of_each.sum()
    return loss - (loss - of_each.mean()).detach()


def _losses(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the binary cross-entropy of `logits` `(H, ...)` with `target` `(...)`."""
    return nn.functional.binary_cross_entropy_with_logits(logits.float(), target.expand_as(logits), reduction="none")
