"""Measures training and prediction of a network with synthetic images on the device: images per second, memory.

A CPU measures small batches, because a step of 64 images takes a minute, and extends their memory in proportion.
"""

import time
import weakref
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ichx.labels import LABELS
from ichx.plugins.measures import NetworkMeasure
from ichx.recipe import Recipe
from ichx.training.device import Hardware, isolated_torch_settings
from ichx.training.feed import SliceInputs
from ichx.training.learner import Learner
from ichx.training.memory import peak_gb, reset_peak
from ichx.training.run_options import INFERENCE_BATCH
from ichx.training.runtime import Runtime

CPU_BATCH: Final = 4
STEPS: Final = 10
STEP_SECONDS: Final = 10.0
"""Time after which no further step is measured."""


def measure_network(
    build: Callable[[], nn.Module], recipe: Recipe, hardware: Hardware, note: Callable[[str], None]
) -> NetworkMeasure:
    """Return the speed and memory of the network that `build` returns.

    Args:
        build: Returns the network of `recipe`.
        recipe: Its image size, batch, optimizer, precision.
        hardware: The device.
        note: Receives what the hardware makes necessary, e.g. smaller parts of a batch.

    Raises:
        ResourceError: A single image does not fit into memory.
    """
    cuda = hardware.device.type == "cuda"
    batch = recipe.batch if cuda else min(recipe.batch, CPU_BATCH)
    rows = INFERENCE_BATCH if cuda else CPU_BATCH
    with isolated_torch_settings(hardware):
        learner = Learner(recipe, 0, build(), Runtime(hardware, unused_parameters=True), note)
        measured = _Measured(learner)
        train_gb = measured.memory(measured.train, batch, recipe.batch)
        train_rate = measured.rate(measured.train, batch)
        learner.network.eval()
        predict_gb = measured.memory(measured.predict, rows, INFERENCE_BATCH)
        predict_rate = measured.rate(measured.predict, rows)
    return NetworkMeasure(
        device=str(hardware),
        batch=recipe.batch,
        measured_batch=batch,
        train_rate=train_rate,
        train_gb=train_gb,
        predict_batch=INFERENCE_BATCH,
        predict_rate=predict_rate,
        predict_gb=predict_gb,
    )


class _Measured:
    """Steps of a network on synthetic images."""

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self._device = learner.runtime.device
        self._image = learner.recipe.input
        self._inputs: dict[int, SliceInputs] = {}
        learner.begin_epoch(learner.recipe.stage[0].freeze)  # the first epoch that trains all layers

    def train(self, count: int) -> None:
        """Take a training step with `count` images."""
        self._learner.step(self._batch(count), 0, 0, 1)

    def predict(self, count: int) -> None:
        """Predict `count` images."""
        inputs = self._batch(count)
        with torch.inference_mode(), self._learner.runtime.autocast():
            inputs.predictions(inputs.forward(self._learner.network))

    def rate(self, work: Callable[[int], None], count: int) -> float:
        """Return the images per second of `work`, which has run before, called for `count` images at a time."""
        self._wait()
        began, done = time.perf_counter(), 0
        while done < STEPS and time.perf_counter() - began < STEP_SECONDS:
            work(count)
            self._wait()
            done += 1
        return done * count / (time.perf_counter() - began)

    def memory(self, work: Callable[[int], None], count: int, wanted: int) -> float:
        """Return the peak in GB of `work` with `wanted` images, extended from `count` and fewer on a CPU."""
        work(count)  # creates the state of the optimizer
        if self._device.type == "cuda":
            reset_peak(self._device)
            work(wanted)
            self._wait()
            return peak_gb(self._device)
        few = max(count // 2, 1)
        own = tensor_bytes(self._learner.state()) / 1e9
        peaks: dict[int, float] = {}
        for images in (few, count):
            self._batch(images)
            with _LiveBytes() as live:
                work(images)
            peaks[images] = own + live.peak / 1e9
        if count == few or wanted == count:
            return peaks[count]
        return peaks[count] + (wanted - count) * (peaks[count] - peaks[few]) / (count - few)

    def _batch(self, count: int) -> SliceInputs:
        if count not in self._inputs:
            edge = self._image.pixels
            images = torch.rand(count, self._image.channels, edge, edge, device=self._device)
            labels = (torch.rand(count, len(LABELS), device=self._device) < 0.2).float()
            self._inputs = {count: SliceInputs(images.contiguous(memory_format=torch.channels_last), labels)}
        return self._inputs[count]

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors that operations create, and their peak."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes, self.peak = 0, 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self.bytes += size
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self._release, size)

    def _release(self, size: int) -> None:
        self.bytes -= size


def tensor_bytes(state: Any) -> int:
    """Return the bytes of all tensors in nested containers."""
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    values = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return sum(map(tensor_bytes, values))
