"""Networks that predict the mean over the last epochs of a training, `prediction.average_last` of a recipe."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import nn

from ichx.recipe import Recipe

PREFIX: Final = "networks."


class MeanNetwork(nn.Module):
    """Several networks of one architecture; its outputs are the means of theirs."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        """Take `networks` in the order of their epochs; the last one is the newest."""
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """Return the mean of the outputs; of each output if there are several."""
        outputs = [network(*inputs, **options) for network in self.networks]
        if isinstance(outputs[0], tuple):
            return tuple(torch.stack(values).mean(dim=0) for values in zip(*outputs, strict=True))
        return torch.stack(outputs).mean(dim=0)

    def get_classifier(self) -> nn.Module | None:
        """Return the last layer of the newest network, whose input are the pooled features."""
        classifier = getattr(self.networks[-1], "get_classifier", None)
        layer: nn.Module | None = classifier() if callable(classifier) else None
        return layer


def trained_network(recipe: Recipe, build: Callable[[Recipe, bool], nn.Module]) -> nn.Module:
    """Return the network that a trained fold of `recipe` predicts with, of random weights; `build` is the plugin's."""
    count = recipe.prediction.average_last
    return build(recipe, False) if count == 1 else MeanNetwork([build(recipe, False) for _ in range(count)])


def parts_of(network: nn.Module) -> list[nn.Module]:
    """Return the networks whose mean `network` predicts, the newest last; `network` itself if it is one."""
    return list(network.networks) if isinstance(network, MeanNetwork) else [network]


def newest_weights(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors of the newest network of a file, without prefix; all of them if it has only one network."""
    numbers = {name.split(".")[1] for name in tensors if name.startswith(PREFIX)}
    if not numbers or not all(name.startswith(PREFIX) for name in tensors) or not all(n.isdigit() for n in numbers):
        return dict(tensors)
    newest = f"{PREFIX}{max(map(int, numbers))}."
    return {name.removeprefix(newest): value for name, value in tensors.items() if name.startswith(newest)}
