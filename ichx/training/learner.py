"""The network while it learns: one step at a time, and all that a checkpoint must hold to go on from it."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ichx.recipe import Recipe
from ichx.training.compilation import Execution, Forward
from ichx.training.ema import WeightAverage
from ichx.training.head import exact_head
from ichx.training.layer_numbers import train_head, train_whole
from ichx.training.mask_loss import mask_loss
from ichx.training.method import WindowStep, learning_rate, weighted_loss
from ichx.training.mixup import draw_mix
from ichx.training.optimizers import make_optimizer, take_step

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ichx.loading.loader import Batch


class Learner:
    """A network, its optimizer, its average. What a step does depends on them, the batch and the step's place only."""

    def __init__(
        self,
        recipe: Recipe,
        fold: int,
        model: nn.Module,
        accelerator: "Accelerator",
        note: Callable[[str], None],
        compiler: str | None = None,
    ) -> None:
        """Take over `model`, as `prepared` returns it; `begin_stage` comes before the first step.

        `note` is told what the hardware makes necessary; `compiler` is that of `Execution`.
        """
        self.recipe, self.fold, self.model, self.accelerator = recipe, fold, model, accelerator
        self.execution = Execution(model, note, compiler, alone=accelerator.num_processes == 1)
        self.window_step = WindowStep(recipe.input).to(accelerator.device)
        decay = recipe.ema.decay
        self.average = WeightAverage(accelerator.unwrap_model(model), decay) if decay > 0 else None
        self._learning = {name for name, parameter in self._own.named_parameters() if parameter.requires_grad}
        self._stage = 0
        self._optimizer: torch.optim.Optimizer | None = None

    def begin_stage(self, index: int) -> None:
        """Go over to a stage: the optimizer starts anew, the weights go on."""
        self._stage = index
        self._optimizer = make_optimizer(self.recipe.optimizer, self.recipe.stage[index], self._own)

    def begin_epoch(self, epoch: int) -> None:
        """Get ready to learn in the stage's `epoch`, from 0: with all of the network, or with its head alone."""
        if epoch < self.recipe.stage[self._stage].freeze:
            train_head(self._own, self._learning)
        else:
            train_whole(self._own, self._learning)

    def step(self, batch: "Batch", epoch: int, number: int, total: int, share: float = 1.0) -> torch.Tensor:
        """Learn from `batch`; return its loss, still on the device.

        It is number `number`, from 0, of the `total` of the stage's `epoch`, from 0. Random draws are addressed by
        them: a run that is resumed here draws the same. Of several processes each learns from a part of the batch, with
        the mean of their gradients: `share`, this part's by an even part's size, makes that the whole batch's.
        """
        optimizer, address = self._begun, (self.recipe.seed, self.fold, self._stage, epoch, number)
        others = [rank] if (rank := self.accelerator.process_index) else []
        rate = learning_rate(self.recipe.stage[self._stage], epoch, number / total)
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("scale", 1.0)
        loss = self._learn_from(self._inputs(batch, address), share, address_seed(*address, *others))
        take_step(optimizer, self._own, self.recipe.optimizer.clip, self.accelerator.scaler)
        if self.average is not None:
            self.average.update()
        return loss

    def _learn_from(self, inputs: "_Inputs", share: float, seed: int) -> torch.Tensor:
        """Leave the gradients of the batch's loss, `share` times, at the weights; return the loss, on the device.

        Where memory is short the batch is taken in parts, whose losses weigh as much as they have images: the gradients
        are the same, but for batch normalization and the loss of masks, which are a part's own, and draws of dropout.
        """
        count = len(inputs.images)

        def attempt(network: Forward, parts: list[slice]) -> torch.Tensor:
            torch.manual_seed(seed)
            self._begun.zero_grad(set_to_none=True)
            losses = []
            for part in parts:
                # other processes are waited for once in a batch, whatever its parts are
                last = part.stop == count
                with contextlib.nullcontext() if last else self.accelerator.no_sync(self.model):
                    loss = self._loss(network, inputs.part(part))
                    loss = loss if len(parts) == 1 else loss * ((part.stop - part.start) / count)
                    self.accelerator.backward(loss if share == 1.0 else loss * share)
                losses.append(loss.detach())
            return losses[0] if len(parts) == 1 else torch.stack(losses).sum()

        return self.execution.run(count, attempt)

    def _inputs(self, batch: "Batch", address: tuple[int, ...]) -> "_Inputs":
        """Return the windowed images of `batch` and what they are to teach, mixed as drawn at `address`."""
        device = self.accelerator.device
        ahead = device.type == "cuda"  # from pinned memory; elsewhere a copy could see what the loader writes next
        hu, windows = batch.hu.to(device, non_blocking=ahead), batch.windows.to(device, non_blocking=ahead)
        labels = batch.labels.to(device, non_blocking=ahead)
        jitter = None if batch.jitter is None else batch.jitter.to(device, non_blocking=ahead)
        masks = None if batch.masks is None else batch.masks.to(device, non_blocking=ahead)
        images = self.window_step.in_parts(hu, windows, jitter)
        mix = draw_mix(self.recipe.augmentation, self.recipe.input.pixels, *address)
        if mix is None:
            return _Inputs(images, labels, () if masks is None else ((1.0, masks),))
        return _Inputs(mix.images(images), mix.labels(labels), () if masks is None else mix.masks(masks))

    def _loss(self, network: Forward, inputs: "_Inputs") -> torch.Tensor:
        """Return the loss of the labels, and where there are masks of these as well."""
        smoothing = self.recipe.loss.label_smoothing
        if not inputs.masks:
            return weighted_loss(network(inputs.images), inputs.labels, smoothing)
        logits, pixels = network(inputs.images, masks=True)
        of_masks = torch.stack([share * mask_loss(pixels, masks) for share, masks in inputs.masks]).sum()
        return weighted_loss(logits, inputs.labels, smoothing) + self.recipe.model.mask_weight * of_masks

    @property
    def network(self) -> nn.Module:
        """The network that predicts, the average of the weights where there is one.

        It is without the wrapper that makes processes wait for each other's gradients.
        """
        if self.average is not None:
            return self.average.module
        return self.model.module if isinstance(self.model, DistributedDataParallel) else self.model

    @property
    def bare(self) -> nn.Module:
        """The network that predicts, out of what the precision and the devices wrapped around it."""
        bare: nn.Module = self.accelerator.unwrap_model(self.network)
        return bare

    def weights(self) -> dict[str, Any]:
        """Return the weights of this moment, those that learn and their average, in the processor's memory."""
        average = {} if self.average is None else self.average.state()
        copied: dict[str, Any] = _copied({"model": self._own.state_dict(), "average": average})
        return copied

    def set_weights(self, weights: dict[str, Any]) -> None:
        """Go back to `weights`, as `weights()` returned them."""
        self._own.load_state_dict(weights["model"])
        if self.average is not None:
            self.average.restore(weights["average"])

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs to go on with the next step as if nothing had happened."""
        scaler = self.accelerator.scaler
        return {
            "model": self._own.state_dict(),
            "average": {} if self.average is None else self.average.state(),
            "optimizer": self._begun.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else {},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`, within the stage that has begun; its other entries are left to the caller."""
        self._begun.load_state_dict(state["optimizer"])
        self.set_weights(state)
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    @property
    def _own(self) -> nn.Module:
        """The network that learns, with its parameters' own names."""
        own: nn.Module = self.accelerator.unwrap_model(self.model)
        return own

    @property
    def _begun(self) -> torch.optim.Optimizer:
        if self._optimizer is None:
            raise ValueError("no stage has begun")
        return self._optimizer


@dataclass(frozen=True)
class _Inputs:
    """`images` (N, C, H, W), `labels` (N, 6), and masks as in `Batch`, each with what its loss counts; none or some."""

    images: torch.Tensor
    labels: torch.Tensor
    masks: tuple[tuple[float, torch.Tensor], ...] = ()

    def part(self, part: slice) -> "_Inputs":
        """Return those of a part of the batch."""
        return _Inputs(self.images[part], self.labels[part], tuple((share, masks[part]) for share, masks in self.masks))


def prepared(accelerator: "Accelerator", model: nn.Module) -> nn.Module:
    """Return `model` on its device, with channels last, which is what convolutions compute in fastest.

    In mixed precision its last layer computes in float32, so that no logit is rounded.
    """
    if accelerator.mixed_precision != "no":
        exact_head(model)
    ready: nn.Module = accelerator.prepare(model.to(memory_format=torch.channels_last))
    return ready


def address_seed(*address: int) -> int:
    """Return the 63-bit seed that belongs to `address`."""
    return int(np.random.SeedSequence(address).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _copied(state: Any) -> Any:
    """Return `state` with every tensor, in dictionaries within it too, copied into the processor's memory."""
    if isinstance(state, dict):
        return {name: _copied(value) for name, value in state.items()}
    return state.detach().to("cpu", copy=True) if isinstance(state, torch.Tensor) else state
