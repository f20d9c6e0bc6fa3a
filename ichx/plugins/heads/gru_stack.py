"""`gru_stack`: a small recurrent network, and a second one that corrects it from a wider view of the logits."""

import torch
from torch import nn

from ichx.labels import LABELS
from ichx.plugins.contract import SequenceBatch, SequenceLogits, SequenceWidths
from ichx.plugins.heads.inputs import Channels
from ichx.plugins.heads.layers import AttentionPool, HeadConvolution, HeadLinear, largest, mean_logits
from ichx.plugins.heads.recurrent import HeadRecurrence
from ichx.recipe import Recipe

DILATIONS = (1, 2, 4)


class GruStack(nn.Module):
    """1 x 1 convolutions and a BiGRU; then dilated convolutions over its logits and the members', and a second BiGRU.

    Both outputs and their mean, which is predicted, are supervised. The second one starts as the first one.
    """

    def __init__(self, recipe: Recipe, widths: SequenceWidths) -> None:
        super().__init__()
        given = recipe.sequence
        assert given is not None
        heads, width, labels = widths.heads, given.width, len(LABELS)
        self.residual = given.residual
        self.channels = Channels(given, widths)
        self.dropout = nn.Dropout(given.dropout)
        self.first, self.second = HeadLinear(heads, self.channels.width, width), HeadLinear(heads, width, width)
        recurrent = [HeadRecurrence("gru", heads, 2 * width if at else width, width) for at in range(given.layers)]
        self.recurrent = nn.ModuleList(recurrent)
        self.head = HeadLinear(heads, 2 * width, labels, zero=given.residual)
        convolutions = [HeadConvolution(heads, self._stacked(widths), width, DILATIONS[0])]
        convolutions += [HeadConvolution(heads, width, width, dilation) for dilation in DILATIONS[1:]]
        self.convolutions = nn.ModuleList(convolutions)
        self.corrector = HeadRecurrence("gru", heads, width, width)
        self.correction = HeadLinear(heads, 2 * width, labels, zero=True)
        self.pool = AttentionPool(heads, 4 * width, labels, zero=True)

    @staticmethod
    def _stacked(widths: SequenceWidths) -> int:
        return len(LABELS) * (1 + widths.members)

    def forward(self, batch: SequenceBatch) -> SequenceLogits:
        """See `SequenceLogits`."""
        mask = batch.mask[..., None]
        x = nn.functional.gelu(self.first(self.channels(batch)))
        x = nn.functional.gelu(self.second(self.dropout(x)))
        for layer in self.recurrent:
            x = layer(self.dropout(x), mask)
        x = self.dropout(x)
        logits = self.head(x)
        if self.residual:
            logits = logits + mean_logits(batch.logits)
        members = batch.logits.flatten(2).expand(len(logits), -1, -1, -1)
        y = torch.cat([logits, members], dim=-1)
        for convolution in self.convolutions:
            y = nn.functional.gelu(convolution(y, mask))
        y = self.dropout(self.corrector(self.dropout(y), mask))
        corrected = logits + self.correction(y)
        slices = (logits + corrected) / 2
        series = largest(slices.detach(), mask) + self.pool(torch.cat([x, y], dim=-1), mask)
        return SequenceLogits(slices, series, (logits, corrected))
