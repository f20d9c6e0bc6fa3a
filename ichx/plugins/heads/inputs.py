"""The first layer of all networks over series: members' logits, features and places as channels."""

import torch
from torch import nn

from ichx.labels import LABELS
from ichx.plugins.contract import PLACES, SequenceBatch, SequenceWidths
from ichx.plugins.heads.layers import HeadLinear, with_differences
from ichx.recipe import SequenceRecipe


class Channels(nn.Module):
    """The inputs of a series as channels `(1 or H, B, T, width)`.

    Members' logits are as they are. Features of each slice are normalized and, with `sequence.projection`, reduced per
    member. With `sequence.differences` each of them is followed by its differences to both neighbours. The last
    channels are the place in the series.
    """

    def __init__(self, recipe: SequenceRecipe, widths: SequenceWidths) -> None:
        super().__init__()
        self.widths, self.differences = list(widths.features), recipe.differences
        self.projections = nn.ModuleList()
        width = sum(widths.features)
        if recipe.projection and widths.features:
            kind = HeadLinear if recipe.projection_kind == "linear" else Components
            heads = widths.heads if recipe.projection_kind == "linear" else 1
            self.projections.extend(kind(heads, given, recipe.projection) for given in widths.features)
            width = recipe.projection * len(widths.features)
        factor = 3 if recipe.differences else 1
        self.width = factor * (width + widths.members * len(LABELS)) + PLACES

    def forward(self, batch: SequenceBatch) -> torch.Tensor:
        """Return the channels of a batch; padding is 0."""
        parts = list[torch.Tensor]()
        if self.widths:
            members = torch.split(batch.features, self.widths, dim=-1)
            members = tuple(nn.functional.layer_norm(member, member.shape[-1:])[None] for member in members)
            if self.projections:
                members = tuple(layer(member) for layer, member in zip(self.projections, members, strict=True))
            parts += members
        if batch.logits.shape[2]:
            parts.append(batch.logits.flatten(2)[None])
        mask = batch.mask[..., None]
        parts = [part * mask for part in parts]
        if self.differences:
            parts = [with_differences(part, mask) for part in parts]
        parts.append(batch.place[None])
        heads = max(len(part) for part in parts)
        return torch.cat([part.expand(heads, -1, -1, -1) for part in parts], dim=-1)


class Components(nn.Module):
    """Principal components, the same for all heads; they are fitted before the training."""

    mean: torch.Tensor
    axes: torch.Tensor

    def __init__(self, heads: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("axes", torch.zeros(inputs, outputs))

    @torch.no_grad()
    def fit(self, rows: torch.Tensor) -> None:
        """Fit the components to `rows` `(n, inputs)`. There are no more than `inputs` of them, the others are zero."""
        self.mean.copy_(rows.mean(dim=0))
        centred = (rows - self.mean).double()
        variances, axes = torch.linalg.eigh(centred.T @ centred / len(rows))
        count = min(self.axes.shape)
        chosen, scale = axes.flip(1)[:, :count], variances.flip(0)[:count].mean().clamp(min=1e-12).sqrt()
        signs = chosen.gather(0, chosen.abs().argmax(dim=0, keepdim=True)).sign()  # an axis has no direction
        self.axes[:, :count] = (chosen * signs / scale).float()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the components of `x` `(1, B, T, inputs)`."""
        return (x - self.mean) @ self.axes
