"""`gru`: a bidirectional GRU over the features of slices."""

import torch
from torch import nn

from ichx.plugins.contract import PLACES, SequenceBatch, SequenceLogits, SequenceWidths
from ichx.plugins.heads.inputs import Channels
from ichx.plugins.heads.layers import HeadLinear
from ichx.plugins.heads.outputs import Outputs
from ichx.plugins.heads.recurrent import HeadRecurrence
from ichx.recipe import Recipe


class Gru(nn.Module):
    """A linear layer of twice the width, to which the place in the series is added again, and BiGRUs."""

    def __init__(self, recipe: Recipe, widths: SequenceWidths) -> None:
        super().__init__()
        given = recipe.sequence
        assert given is not None
        self.channels, double = Channels(given, widths), 2 * given.width
        self.dropout = nn.Dropout(given.dropout)
        self.linear = HeadLinear(widths.heads, self.channels.width, double)
        sizes = [double + PLACES] + [double] * (given.layers - 1)
        self.layers = nn.ModuleList(HeadRecurrence("gru", widths.heads, size, given.width) for size in sizes)
        self.outputs = Outputs(given, widths, double)

    def forward(self, batch: SequenceBatch) -> SequenceLogits:
        """See `SequenceLogits`."""
        x = self.dropout(nn.functional.gelu(self.linear(self.channels(batch))))
        x = torch.cat([x, batch.place.expand(len(x), -1, -1, -1)], dim=-1)
        for layer in self.layers:
            x = self.dropout(layer(x, batch.mask[..., None]))
        logits: SequenceLogits = self.outputs(x, batch)
        return logits
