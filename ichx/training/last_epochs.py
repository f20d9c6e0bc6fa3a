"""What a training keeps of its last epochs: the mean of their weights (SWA), or the weights of each.

Both belong to the checkpoint, and both ignore an epoch that is already counted: a run that resumes between the last
step of an epoch and its validation ends that epoch a second time.
"""

import copy
from typing import Any

import torch
from torch import nn

from ichx.recipe import Recipe
from ichx.training.mean_network import MeanNetwork


class LastEpochs:
    """The weights after the last epochs of a training, as its recipe needs them."""

    def __init__(self, recipe: Recipe) -> None:
        """Prepare to keep nothing, a mean or snapshots, as `recipe` wants it."""
        self._averaged_from = recipe.epochs - recipe.swa.epochs
        self._kept_from = recipe.epochs - recipe.prediction.average_last
        self._snapshots_wanted = recipe.prediction.average_last > 1
        self._end = recipe.epochs
        self.mean: nn.Module | None = None
        """The network whose weights are the mean; None before there are any."""
        self._averaged = 0
        self.statistics_done = False
        """Whether the batch-norm statistics of the mean are estimated."""
        self._snapshots: dict[int, dict[str, Any]] = {}

    @property
    def complete(self) -> bool:
        """Whether the mean has all of its epochs."""
        return self._averaged > 0 and self._averaged == self._end - self._averaged_from

    @torch.no_grad()
    def end_epoch(self, model: nn.Module, number: int) -> None:
        """Take the weights of `model` after epoch `number` of all stages, from 0, if they are wanted."""
        if number - self._averaged_from >= self._averaged:
            self._add(model)
        if self._snapshots_wanted and number >= self._kept_from:
            self._snapshots[number] = _copy(model.state_dict())

    def _add(self, model: nn.Module) -> None:
        self._averaged += 1
        if self.mean is None:
            self.mean = copy.deepcopy(model).eval().requires_grad_(False)
            return
        for own, new in zip(self.mean.state_dict().values(), model.state_dict().values(), strict=True):
            if own.is_floating_point():
                own.lerp_(new, 1 / self._averaged)
            else:
                own.copy_(new)

    def mean_network(self, model: nn.Module) -> nn.Module:
        """Return the network of the snapshots; `model` itself if none are kept."""
        if not self._snapshots_wanted:
            return model
        networks = []
        for _, weights in sorted(self._snapshots.items()):
            network = copy.deepcopy(model)
            network.load_state_dict(weights)
            networks.append(network.requires_grad_(False))
        return MeanNetwork(networks).eval()

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs; empty if nothing is kept."""
        if self.mean is None and not self._snapshots:
            return {}
        return {
            "mean": {} if self.mean is None else self.mean.state_dict(),
            "averaged": self._averaged,
            "statistics_done": self.statistics_done,
            "snapshots": {str(number): weights for number, weights in self._snapshots.items()},
        }

    def restore(self, state: dict[str, Any], model: nn.Module) -> None:
        """Continue from `state`; `model` is the network that is trained."""
        if not state:
            return
        self._averaged, self.statistics_done = state["averaged"], state["statistics_done"]
        self._snapshots = {int(number): weights for number, weights in state["snapshots"].items()}
        if state["mean"]:
            self.mean = copy.deepcopy(model).eval().requires_grad_(False)
            self.mean.load_state_dict(state["mean"])


def _copy(state: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of tensors in main memory."""
    return {name: value.detach().to("cpu", copy=True) for name, value in state.items()}
