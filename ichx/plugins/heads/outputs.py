"""The last layer of networks over series: logits of slices and of the series."""

import torch
from torch import nn

from ichx.labels import LABELS
from ichx.plugins.contract import SequenceBatch, SequenceLogits, SequenceWidths
from ichx.plugins.heads.layers import AttentionPool, HeadLinear, largest, mean_logits
from ichx.recipe import SequenceRecipe


class Outputs(nn.Module):
    """Logits of the slices, and of the series: the largest of its slices plus what an attention head adds to it.

    What the attention head adds starts at zero. So do the logits of the slices with `sequence.residual`, which adds the
    members' mean logit to them.
    """

    def __init__(self, recipe: SequenceRecipe, widths: SequenceWidths, channels: int) -> None:
        super().__init__()
        self.residual = recipe.residual
        self.slices = HeadLinear(widths.heads, channels, len(LABELS), zero=recipe.residual)
        self.series = AttentionPool(widths.heads, channels, len(LABELS), zero=True)

    def forward(self, x: torch.Tensor, batch: SequenceBatch) -> SequenceLogits:
        """Return the logits for `x` `(H, B, T, channels)`."""
        mask = batch.mask[..., None]
        slices = self.slices(x)
        if self.residual:
            slices = slices + mean_logits(batch.logits)
        return SequenceLogits(slices, largest(slices.detach(), mask) + self.series(x, mask))
