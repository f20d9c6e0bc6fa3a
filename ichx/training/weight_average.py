"""Exponential moving average of a network's weights, which predicts better than the last step's."""

import copy
from typing import Any

import torch
from torch import nn

WARMUP_POWER = 2 / 3
"""How fast the decay rises: 0.9 after 32 updates, 0.99 after 1,000, 0.999 after 32,000."""


class WeightAverage:
    """A copy of a network whose weights follow those of the original.

    As timm's ModelEmaV3 with warm-up: all floating-point values of the state are averaged, including the statistics of
    batch norms, which belong to the averaged weights; integers are copied.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Begin as a copy of `model`, which is on its final device: the tensors to update are looked up once.

        Args:
            model: The network that is trained.
            decay: Share of the average that an update keeps after the warm-up.
        """
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0
        own, followed = (list(m.state_dict(keep_vars=True).values()) for m in (self.module, model))
        self._averages, self._followed = ([v for v in of if v.is_floating_point()] for of in (own, followed))
        self._copies, self._copied = ([v for v in of if not v.is_floating_point()] for of in (own, followed))

    @torch.no_grad()
    def update(self) -> None:
        """Add the current weights to the average; the first ones replace it."""
        self.updates += 1
        decay = min(self.decay, 1 - self.updates**-WARMUP_POWER)
        torch._foreach_lerp_(self._averages, self._followed, weight=1.0 - decay)
        if self._copies:
            torch._foreach_copy_(self._copies, self._copied)

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs."""
        return {"weights": self.module.state_dict(), "updates": self.updates}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self.module.load_state_dict(state["weights"])
        self.updates = state["updates"]
