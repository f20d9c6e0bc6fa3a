"""The network while it learns: one step at a time, and all that a checkpoint must hold to go on from it."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from ichx.recipe import Recipe
from ichx.training.mask_loss import mask_loss
from ichx.training.method import WindowStep, learning_rate, make_optimizer, weighted_loss

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ichx.data.loader import Batch


class Learner:
    """A network, its optimizer and its precision. What a step does depends on the weights, the batch and `at` only."""

    def __init__(self, recipe: Recipe, fold: int, model: nn.Module, accelerator: "Accelerator") -> None:
        """Take over `model`, as `prepared` returns it; `begin_stage` comes before the first step."""
        self.recipe, self.fold, self.model, self.accelerator = recipe, fold, model, accelerator
        self.window_step = WindowStep(recipe.input).to(accelerator.device)
        self._stage = 0
        self._raw: torch.optim.Optimizer | None = None
        self._optimizer: Any = None

    def begin_stage(self, index: int) -> None:
        """Go over to a stage: the optimizer starts anew, the weights go on."""
        self._stage = index
        self._raw = make_optimizer(self.recipe.optimizer, self.recipe.stage[index], self.model)
        self._optimizer = self.accelerator.prepare(self._raw)

    def step(self, batch: "Batch", epoch: int, number: int, total: int) -> torch.Tensor:
        """Learn from `batch`; return its loss, still on the device.

        It is number `number`, from 0, of the `total` of the stage's `epoch`, from 0. Random draws of the network are
        addressed by them: a run that is resumed here draws the same.
        """
        stage = self.recipe.stage[self._stage]
        torch.manual_seed(address_seed(self.recipe.seed, self.fold, self._stage, epoch, number))
        device = self.accelerator.device
        ahead = device.type == "cuda"  # from pinned memory; elsewhere a copy could see what the loader writes next
        hu, windows = batch.hu.to(device, non_blocking=ahead), batch.windows.to(device, non_blocking=ahead)
        labels = batch.labels.to(device, non_blocking=ahead)
        jitter = None if batch.jitter is None else batch.jitter.to(device, non_blocking=ahead)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(stage, epoch, number / total)
        images = self.window_step(hu, windows, jitter)
        if batch.masks is None:
            loss = weighted_loss(self.model(images), labels)
        else:
            logits, pixels = self.model(images, masks=True)
            of_masks = mask_loss(pixels, batch.masks.to(device, non_blocking=ahead))
            loss = weighted_loss(logits, labels) + self.recipe.model.mask_weight * of_masks
        self.accelerator.backward(loss)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    @property
    def network(self) -> nn.Module:
        """The network that predicts."""
        return self.model

    @property
    def bare(self) -> nn.Module:
        """The network that predicts, out of what the precision and the devices wrapped around it."""
        bare: nn.Module = self.accelerator.unwrap_model(self.network)
        return bare

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs to go on with the next step as if nothing had happened."""
        if self._raw is None:
            raise ValueError("no stage has begun")
        scaler = self.accelerator.scaler
        return {
            "model": self.accelerator.unwrap_model(self.model).state_dict(),
            "optimizer": self._raw.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else {},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`, within the stage that has begun; its other entries are left to the caller."""
        if self._raw is None:
            raise ValueError("no stage has begun")
        self.accelerator.unwrap_model(self.model).load_state_dict(state["model"])
        self._raw.load_state_dict(state["optimizer"])
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])


def prepared(accelerator: "Accelerator", model: nn.Module) -> nn.Module:
    """Return `model` on its device, with channels last, which is what convolutions compute in fastest."""
    ready: nn.Module = accelerator.prepare(model.to(memory_format=torch.channels_last))
    return ready


def address_seed(*address: int) -> int:
    """Return the 63-bit seed that belongs to `address`."""
    return int(np.random.SeedSequence(address).generate_state(1, np.uint64)[0] >> np.uint64(1))
