"""The network of a sequence recipe: a plugin's network, and the weights of its last epochs if these are averaged."""

import copy
from typing import Final

import numpy as np
import torch
from torch import nn

from ichx.loading.sampling import COMPONENTS, generator
from ichx.plugins.contract import Plugin, SequenceBatch, SequenceLogits, SequenceWidths
from ichx.plugins.heads.inputs import Components
from ichx.recipe import Recipe
from ichx.sequences.feed import SequenceFeed

COMPONENT_SLICES: Final = 20_000
"""Slices that principal components are fitted to, at most."""


class SequenceNetwork(nn.Module):
    """Heads of a plugin. With `sequence.average_last` above 1 it predicts the mean over its last epochs."""

    taken: torch.Tensor
    """Which snapshots exist, `(average_last,)`."""

    def __init__(self, heads: nn.Module, average_last: int = 1) -> None:
        super().__init__()
        self.network = heads
        self._names = {name: value.shape for name, value in heads.named_parameters()}
        self.snapshots: nn.Parameter | None = None
        if average_last > 1:
            size = sum(shape.numel() for shape in self._names.values())
            # No buffer: buffers are copied in each step.
            self.snapshots = nn.Parameter(torch.zeros(average_last, size), requires_grad=False)
            self.register_buffer("taken", torch.zeros(average_last, dtype=torch.bool))

    def forward(self, batch: SequenceBatch) -> SequenceLogits:
        """Return the logits of a batch, computed in float32: in half precision a recurrence gathers rounding errors."""
        with torch.autocast(batch.mask.device.type, enabled=False):
            return self._predicted(batch)

    def _predicted(self, batch: SequenceBatch) -> SequenceLogits:
        if self.training or self.snapshots is None or not self.taken.any():
            result: SequenceLogits = self.network(batch)
            return result
        found = [self._with_weights(weights, batch) for weights in self.snapshots[self.taken]]
        slices, series = (torch.stack(values).mean(dim=0) for values in zip(*(part[:2] for part in found), strict=True))
        return SequenceLogits(slices, series)

    @torch.no_grad()
    def end_epoch(self, number: int) -> None:
        """Keep the weights after epoch `number` of all stages, from 0; calling it twice changes nothing."""
        if self.snapshots is not None:
            at = number % len(self.snapshots)
            self.snapshots[at] = torch.cat([value.flatten() for value in self.network.parameters()])
            self.taken[at] = True

    def _with_weights(self, weights: torch.Tensor, batch: SequenceBatch) -> SequenceLogits:
        parts = torch.split(weights, [shape.numel() for shape in self._names.values()])
        named = {name: part.view(shape) for (name, shape), part in zip(self._names.items(), parts, strict=True)}
        result: SequenceLogits = torch.func.functional_call(self.network, named, (batch,))
        return result


def constant_networks(network: SequenceNetwork) -> list[nn.Module]:
    """Return networks of fixed weights whose mean `network` predicts: one for each snapshot, or its own."""
    if network.snapshots is None or not network.taken.any():
        return [network.network]
    found: list[nn.Module] = []
    for weights in network.snapshots[network.taken]:
        copied = copy.deepcopy(network.network)
        nn.utils.vector_to_parameters(weights, copied.parameters())
        found.append(copied)
    return found


def build_network(plugin: Plugin, recipe: Recipe, widths: SequenceWidths) -> SequenceNetwork:
    """Return the network of `recipe` with random weights, which torch's global generator draws."""
    assert plugin.build_sequence is not None
    assert recipe.sequence is not None
    return SequenceNetwork(plugin.build_sequence(recipe, widths), recipe.sequence.average_last)


def fit_components(network: SequenceNetwork, feed: SequenceFeed) -> None:
    """Fit the principal components of `sequence.projection_kind = "pca"` to the training slices of `feed`.

    Call this on a new network before `fit`; other networks stay as they are. The components of each member are scaled
    together, so that they have a variance of 1 in the mean.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, Components)]
    slices = feed.slices(feed.training_rows)
    if layers and len(slices) > COMPONENT_SLICES:
        rng = generator(COMPONENTS, feed.recipe.seed, feed.fold)
        slices = np.sort(rng.choice(slices, COMPONENT_SLICES, replace=False))
    for layer, features in zip(layers, feed.data.features, strict=False):
        rows = torch.from_numpy(np.asarray(features[slices], np.float32))
        layer.fit(nn.functional.layer_norm(rows, rows.shape[-1:]))
