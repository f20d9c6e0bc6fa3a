"""`lstm_delta`: stacked bidirectional LSTMs over the inputs of slices and their differences to both neighbours."""

import torch
from torch import nn

from ichx.plugins.contract import SequenceBatch, SequenceLogits, SequenceWidths
from ichx.plugins.heads.inputs import Channels
from ichx.plugins.heads.layers import HeadLinear
from ichx.plugins.heads.outputs import Outputs
from ichx.plugins.heads.recurrent import HeadRecurrence
from ichx.recipe import Recipe


class LstmDelta(nn.Module):
    """BiLSTMs whose states are added up, together with a linear layer of the states of each."""

    def __init__(self, recipe: Recipe, widths: SequenceWidths) -> None:
        super().__init__()
        given = recipe.sequence
        assert given is not None
        self.channels, double = Channels(given, widths), 2 * given.width
        self.dropout = nn.Dropout(given.dropout)
        sizes = [self.channels.width] + [double] * (given.layers - 1)
        self.layers = nn.ModuleList(HeadRecurrence("lstm", widths.heads, size, given.width) for size in sizes)
        self.linears = nn.ModuleList(HeadLinear(widths.heads, double, double) for _ in sizes)
        self.outputs = Outputs(given, widths, double)

    def forward(self, batch: SequenceBatch) -> SequenceLogits:
        """See `SequenceLogits`."""
        x = self.dropout(self.channels(batch))
        total = torch.zeros((), device=x.device)
        for layer, linear in zip(self.layers, self.linears, strict=True):
            x = layer(x, batch.mask[..., None])
            total = total + x + torch.relu(linear(x))
        logits: SequenceLogits = self.outputs(total, batch)
        return logits
