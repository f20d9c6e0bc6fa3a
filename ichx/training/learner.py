"""A network that learns: one step at a time, and the state that a checkpoint needs to continue."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from ichx.errors import ConflictError
from ichx.recipe import Recipe
from ichx.training.compilation import Forward, StepExecutor
from ichx.training.feed import Inputs, SliceInputs
from ichx.training.last_epochs import LastEpochs
from ichx.training.losses import share_of_known
from ichx.training.memory import MicroBatcher
from ichx.training.mixup import draw_mix
from ichx.training.network_head import train_all, train_head
from ichx.training.optimizers import make_optimizer, take_step
from ichx.training.recomputation import recompute_activations
from ichx.training.runtime import Runtime, unwrap
from ichx.training.schedules import learning_rate
from ichx.training.weight_average import WeightAverage


class Learner:
    """A network with its optimizer and weight average.

    The result of a step depends on these, the batch and the step's position only.
    """

    def __init__(
        self,
        recipe: Recipe,
        fold: int,
        model: nn.Module,
        runtime: Runtime,
        note: Callable[[str], None],
        compiler: str | None = None,
    ) -> None:
        """Prepare `model` for training; the first stage begins.

        Args:
            recipe: The recipe of the training.
            fold: Part of the address of random draws.
            model: The network; it is moved to the device.
            runtime: Device, precision and processes.
            note: Receives what the hardware makes necessary.
            compiler: Backend of torch.compile, or None; see `StepExecutor`.
        """
        self.recipe, self.fold, self.runtime = recipe, fold, runtime
        recompute_activations(model, recipe)
        self.model = runtime.prepare(model, sync_bn=recipe.model.sync_bn)
        batcher = MicroBatcher(note, alone=runtime.group.size == 1)
        self.executor = StepExecutor(self.model, note, compiler, batcher, runtime.group)
        self._head_only = False
        decay = recipe.ema.decay
        self.average = WeightAverage(self._own, decay) if decay > 0 else None
        self.last = LastEpochs(recipe)
        self._trainable = {name for name, parameter in self._own.named_parameters() if parameter.requires_grad}
        self.begin_stage(0)

    def begin_stage(self, index: int) -> None:
        """Begin a stage: with a new optimizer and the current weights."""
        self._stage = index
        self.executor.renew()  # a stage may have other batches
        small = self.recipe.sequence is not None
        self.optimizer = make_optimizer(self.recipe.optimizer, self.recipe.stage[index], self._own, fused=small)

    def begin_epoch(self, epoch: int) -> None:
        """Prepare for `epoch` (from 0) of the stage: train the head only, or all of the network."""
        head_only = epoch < self.recipe.stage[self._stage].freeze
        if head_only:
            train_head(self._own, self._trainable)
        else:
            train_all(self._own, self._trainable)
        if head_only != self._head_only:
            self.executor.renew()
        self._head_only = head_only

    def end_epoch(self, number: int) -> None:
        """Take the weights after epoch `number` of all stages, from 0; call the network's `end_epoch` if it has one."""
        self.last.end_epoch(self._own, number)
        end_epoch = getattr(self._own, "end_epoch", None)
        if end_epoch is not None:
            end_epoch(number)

    def step(self, inputs: Inputs, epoch: int, number: int, total: int, share: float = 1.0) -> torch.Tensor:
        """Learn from a batch; return its loss, still on the device.

        Random draws are addressed by the step's position, so that a resumed run draws the same.

        Args:
            inputs: The batch, of which each of several processes has a part.
            epoch: Epoch of the stage, from 0.
            number: Step of the epoch, from 0.
            total: Steps of the epoch.
            share: Size of this process's part relative to an even part; it makes the mean gradient that of the batch.
        """
        address = (self.recipe.seed, self.fold, self._stage, epoch, number)
        rank = self.runtime.group.rank
        rate = learning_rate(self.recipe.stage[self._stage], epoch, number / total)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("scale", 1.0)
        seed = address_seed(*address, rank) if rank else address_seed(*address)
        loss = self._backward(self._mixed(inputs, address), share, seed)
        take_step(self.optimizer, self._own, self.recipe.optimizer.clip, self.runtime.scaler)
        if self.average is not None:
            self.average.update()
        return loss

    def _mixed(self, inputs: Inputs, address: tuple[int, ...]) -> Inputs:
        """Return `inputs` after mixup or CutMix, as drawn at `address`."""
        mix = draw_mix(self.recipe.augmentation, self.recipe.input.pixels, *address)
        if mix is None or not isinstance(inputs, SliceInputs):
            return inputs
        masks = tuple(part for _, masks in inputs.masks for part in mix.masks(masks))
        labels = mix.labels(inputs.labels)
        share = None if inputs.known_share is None else share_of_known(labels)  # known if those of both slices are
        return SliceInputs(mix.images(inputs.images), labels, masks, inputs.negative_share, share)

    def _backward(self, inputs: Inputs, share: float, seed: int) -> torch.Tensor:
        """Compute the gradients of the batch's loss, times `share`; return the loss, on the device.

        If memory is short or the recipe accumulates gradients, the batch is split; parts are weighted by their rows.
        Gradients are the same, except for batch normalization, the losses of masks and studies, and dropout, which see
        a part at a time. The slices of a labelled study stay together where they fit.
        """
        count, stage = len(inputs), self.recipe.stage[self._stage]

        def attempt(network: Forward, parts: list[slice]) -> torch.Tensor:
            torch.manual_seed(seed)
            self.optimizer.zero_grad(set_to_none=True)
            losses = []
            for part in parts:
                with self.runtime.accumulate(self.model, last=part.stop == count):
                    loss = self._loss(network, inputs.part(part))
                    loss = loss if len(parts) == 1 else loss * ((part.stop - part.start) / count)
                    self.runtime.backward(loss if share == 1.0 else loss * share)
                losses.append(loss.detach())
            return losses[0] if len(parts) == 1 else torch.stack(losses).sum()

        # As many parts in all processes, of which some have a slice less: batch norms may be synchronized in each.
        self.executor.batcher.least = min(self.recipe.accumulate, int(count / share + 0.001))
        grouped = isinstance(inputs, SliceInputs) and inputs.groups is not None and stage.sampling == "grouped"
        self.executor.batcher.unit = stage.per_study if grouped else 1
        return self.executor.run(count, attempt)

    def _loss(self, network: Forward, inputs: Inputs) -> torch.Tensor:
        """Return the loss of `inputs`."""
        with self.runtime.autocast():
            outputs = inputs.forward(network)
        return inputs.loss(outputs, self.recipe)

    @property
    def network(self) -> nn.Module:
        """The network that predicts: the average of the weights if there is one."""
        if self.last.complete and self.last.mean is not None:
            return self.last.mean
        return self._own if self.average is None else self.average.module

    @property
    def final_network(self) -> nn.Module:
        """The network that predicts after the training: that of the last epochs if their predictions are averaged."""
        return self.last.mean_network(self.network)

    def weights(self) -> dict[str, Any]:
        """Return a copy of the current weights and their average, in main memory."""
        average = {} if self.average is None else self.average.state()
        copied: dict[str, Any] = _to_cpu({"model": self._own.state_dict(), "average": average})
        return copied

    def set_weights(self, weights: dict[str, Any]) -> None:
        """Restore `weights` as returned by `weights()`."""
        self._own.load_state_dict(weights["model"])
        if self.average is not None:
            self.average.restore(weights["average"])

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs to continue with the next step as if there had been no interruption."""
        scaler = self.runtime.scaler
        return {
            "model": self._own.state_dict(),
            "average": {} if self.average is None else self.average.state(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else {},
            "last_epochs": self.last.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state` within the current stage; other entries are ignored.

        Raises:
            ConflictError: The optimizer groups the network's layers in another way.
        """
        try:
            self.optimizer.load_state_dict(state["optimizer"])
        except ValueError as error:
            raise ConflictError(
                f"The checkpoint belongs to an optimizer with other layers: {error}.",
                "Finish the fold with the version of ichx that began it, or remove its checkpoints.",
            ) from error
        self.set_weights(state)
        self.last.restore(state.get("last_epochs", {}), self._own)  # checkpoints of 0.1 have none
        if self.runtime.scaler is not None and state["scaler"]:
            self.runtime.scaler.load_state_dict(state["scaler"])

    @property
    def _own(self) -> nn.Module:
        """The network that is trained, without wrapper."""
        return unwrap(self.model)


def address_seed(*address: int) -> int:
    """Return the 63-bit seed at `address`."""
    return int(np.random.SeedSequence(address).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _to_cpu(state: Any) -> Any:
    """Return a copy of `state` with all tensors, also in nested dictionaries, in main memory."""
    if isinstance(state, dict):
        return {name: _to_cpu(value) for name, value in state.items()}
    return state.detach().to("cpu", copy=True) if isinstance(state, torch.Tensor) else state
