"""`transformer`: attention between the slices of a series, which depends on their distances in mm."""

import torch
from torch import nn

from ichx.plugins.contract import SequenceBatch, SequenceLogits, SequenceWidths
from ichx.plugins.heads.inputs import Channels
from ichx.plugins.heads.layers import HeadLinear, HeadNorm
from ichx.plugins.heads.outputs import Outputs
from ichx.recipe import Recipe

ATTENTION_HEADS = 4
BOUNDS = (1.0, 3.0, 6.0, 9.0, 13.0, 18.0, 25.0, 35.0, 50.0, 70.0, 100.0)
"""Distances in mm at which the next class of distances begins, on either side."""


class AttentionBlock(nn.Module):
    """Attention and a feed-forward layer, each after a normalization (Xiong et al. 2020, arXiv 2002.04745).

    The bias of attention is learnt for each class of signed distances, as Raffel et al. 2020 (arXiv 1910.10683) learn
    it for distances in words.
    """

    def __init__(self, heads: int, width: int, dropout: float) -> None:
        super().__init__()
        self.first, self.second = HeadNorm(heads, width), HeadNorm(heads, width)
        self.query_key_value = HeadLinear(heads, width, 3 * width)
        self.joined = HeadLinear(heads, width, width)
        self.wide, self.narrow = HeadLinear(heads, width, 2 * width), HeadLinear(heads, 2 * width, width)
        self.bias = nn.Parameter(torch.zeros(2 * len(BOUNDS) + 1, heads * ATTENTION_HEADS))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor, classes: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return `(H, B, T, width)` for `x` of that shape.

        Args:
            x: The slices.
            classes: `(B, T, T)` class of the distance between two slices.
            mask: `(B, T)`, False for padding, which no slice attends to.
        """
        heads, batch, slices, width = x.shape
        parts = self.query_key_value(self.first(x)).view(heads * batch, slices, 3, ATTENTION_HEADS, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        bias = nn.functional.embedding(classes, self.bias).view(batch, slices, slices, heads, ATTENTION_HEADS)
        bias = bias.masked_fill(~mask[:, None, :, None, None], -torch.inf).permute(3, 0, 4, 1, 2).flatten(0, 1)
        found = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
        # a copy also where none is needed: strides differ between the kernels of attention, and an export keeps them
        found = found.transpose(1, 2).clone(memory_format=torch.contiguous_format)
        x = x + self.dropout(self.joined(found.view(heads, batch, slices, width)))
        wide = self.dropout(nn.functional.gelu(self.wide(self.second(x))))
        result: torch.Tensor = x + self.dropout(self.narrow(wide))
        return result


class Transformer(nn.Module):
    """A linear layer and some blocks."""

    def __init__(self, recipe: Recipe, widths: SequenceWidths) -> None:
        super().__init__()
        given = recipe.sequence
        assert given is not None
        width = -(-given.width // ATTENTION_HEADS) * ATTENTION_HEADS
        self.channels = Channels(given, widths)
        self.linear = HeadLinear(widths.heads, self.channels.width, width)
        self.blocks = nn.ModuleList(AttentionBlock(widths.heads, width, given.dropout) for _ in range(given.layers))
        self.norm = HeadNorm(widths.heads, width)
        self.outputs = Outputs(given, widths, width)

    def forward(self, batch: SequenceBatch) -> SequenceLogits:
        """See `SequenceLogits`."""
        distances = batch.position[:, None, :] - batch.position[:, :, None]
        bounds = torch.tensor(BOUNDS, device=distances.device)
        # From 0, the farthest before, over the slice itself in the middle to the farthest after.
        classes = len(BOUNDS) + torch.bucketize(distances.abs(), bounds, right=True) * distances.sign().long()
        x = self.linear(self.channels(batch))
        for block in self.blocks:
            x = block(x, classes, batch.mask)
        logits: SequenceLogits = self.outputs(self.norm(x), batch)
        return logits
