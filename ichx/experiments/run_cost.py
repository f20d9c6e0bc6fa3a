"""Costs of a run, measured: what a dry run reports, and the measurement of a network's training and prediction steps.

The measurement uses the cache, loader, training step and prediction of a run, in a temporary folder.
"""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import nn

from ichx.cache.build import CachePlan, ensure_cache
from ichx.cache.hu_cache import Cache
from ichx.datasets.dataset import LoadedDataset
from ichx.errors import NotReadyError
from ichx.recipe import Recipe
from ichx.sequences.feed import SequenceFeed
from ichx.training.device import Hardware, isolated_torch_settings, loader_workers
from ichx.training.feed import EpochPlan, Rows
from ichx.training.learner import Learner
from ichx.training.memory import peak_gb, reset_peak
from ichx.training.network_measure import tensor_bytes
from ichx.training.prediction import Predictor
from ichx.training.run_options import RunOptions
from ichx.training.runtime import Runtime
from ichx.training.slice_feed import SliceFeed

if TYPE_CHECKING:
    from ichx.plugins import Plugin

SAMPLE: Final = 96
"""Slices that are decoded."""
NEIGHBOURS: Final = 8
"""Adjacent slices of the sample that are read together, as in a run."""
CPU_BATCH: Final = 4
"""Images per measured step on a CPU, where a step of 64 takes a minute."""
STEP_SECONDS: Final = 5.0
"""Time after which no further step is measured."""
STEPS: Final = 10
ROW_BYTES: Final = 60
"""Bytes per slice of a prediction file."""
Feed = SliceFeed | SequenceFeed
CHECKPOINTS: Final = 2
"""Checkpoints that a fold keeps while it is trained."""


@dataclass(frozen=True)
class RunEstimate:
    """What a run would need. Times are in seconds, sizes in bytes."""

    experiment: int
    name: str
    subset: float
    hardware: str
    folds: tuple[int, ...]
    """Folds that would be trained."""
    epochs: int
    """Epochs of all folds together."""
    cache_slices: int
    """Slices to cache, of the training set and its test sets."""
    cache_seconds: float
    cache_bytes: int
    train_seconds: float
    """Training and validation of all folds, one after another."""
    predict_seconds: float
    """OOF and test predictions."""
    memory_bytes: int
    """Peak on the device; on a CPU that of the process without loader processes."""
    memory_total: int
    """Memory of the device, or of the machine."""
    experiment_bytes: int
    """Weights and predictions, and checkpoints while a fold is trained."""
    cache_free: int
    """Free bytes on the disk of the cache."""
    experiment_free: int

    @property
    def seconds(self) -> float:
        """The complete run."""
        return self.cache_seconds + self.train_seconds + self.predict_seconds


@dataclass(frozen=True)
class RunCost:
    """Costs of one slice, or series, in seconds and bytes, and of the network in bytes."""

    step: float
    predict: float
    memory: int
    weights: int
    checkpoint: int


@contextlib.contextmanager
def sample_cache(data: LoadedDataset, plan: CachePlan) -> Iterator[tuple[LoadedDataset, Cache, float, float]]:
    """Yield a sample of `data` with its cache, and the seconds and bytes that a slice of it took."""
    groups = np.array_split(np.arange(len(data.slices)), max(min(SAMPLE, len(data.slices)) // NEIGHBOURS, 1))
    rows = np.concatenate([group[:NEIGHBOURS] for group in groups])
    part = replace(data, slices=data.slices.iloc[rows].reset_index(drop=True))
    with tempfile.TemporaryDirectory(prefix="ichx-dry-run-") as folder:
        began = time.perf_counter()
        cache = ensure_cache(Path(folder), "sample", data.source, part.slices, plan.spec, processes=1)
        seconds = (time.perf_counter() - began) / len(rows)
        if not cache.valid.any():
            raise NotReadyError(
                f"No slice of a sample of {len(rows)} can be decoded.", f"Run `ichx data show {data.version.dataset}`."
            )
        yield part, cache, seconds, cache.nbytes / len(rows)


def sample_feed(
    part: LoadedDataset, cache: Cache, recipe: Recipe, plugin: "Plugin", hardware: Hardware, options: RunOptions
) -> SliceFeed:
    """Return the feed of a run on images, with batches that a measurement can afford on this device."""
    batch = recipe.batch if hardware.device.type == "cuda" else min(recipe.batch, CPU_BATCH)
    rows = np.flatnonzero(cache.valid)
    return SliceFeed(
        cache,
        part.slices,
        replace(recipe, batch=batch),
        workers=loader_workers(hardware, options.workers, recipe, lambda note: None),
        build_augmentation=plugin.build_augmentation,
        training_rows=rows,
        validation_rows=rows,
    )


def measure_cost(build: Callable[[], nn.Module], recipe: Recipe, feed: Feed, batch: int, hardware: Hardware) -> RunCost:
    """Return the costs of training and prediction.

    Args:
        build: Returns the network.
        recipe: Its recipe.
        feed: Training and validation data.
        batch: Rows of a measured step.
        hardware: The device.
    """
    with isolated_torch_settings(hardware):
        runtime = Runtime(hardware, unused_parameters=True)
        learner = Learner(recipe, 0, build(), runtime, lambda message: None)
        reset_peak(hardware.device)
        rows = np.resize(feed.training_rows, batch * (STEPS + 1))
        activations, step = _time_steps(learner, feed, EpochPlan(0, 0, rows, batch))
        predict = prediction_seconds(learner.network, runtime, feed, feed.validation_rows[: 2 * batch])
        peak = round(peak_gb(hardware.device) * 1e9) + activations * (recipe.batch - batch)
        return RunCost(step, predict, peak, tensor_bytes(learner.network.state_dict()), tensor_bytes(learner.state()))


def prediction_seconds(network: nn.Module, runtime: Runtime, feed: Feed, rows: Rows) -> float:
    """Return the seconds per row of predicting `rows`."""
    predictor = Predictor(runtime)
    predictor.logits(network, feed, rows[:1])
    began = time.perf_counter()
    predictor.logits(network, feed, rows)  # ends on the CPU, so that the device has finished
    return (time.perf_counter() - began) / len(rows)


def _time_steps(learner: Learner, feed: Feed, plan: EpochPlan) -> tuple[int, float]:
    """Return the bytes that backpropagation keeps per image, and the seconds per image of a step with its loading."""
    device, learned = learner.runtime.device, 0
    learner.begin_epoch(learner.recipe.stage[0].freeze)  # the first epoch that trains all layers
    with contextlib.closing(_batches(feed, plan)) as batches:
        with _saved_bytes(learner.network) as saved:
            learner.step(feed.inputs(next(batches), device), 0, 0, plan.total).item()
        began = time.perf_counter()
        for number, batch in enumerate(batches, start=1):
            learner.step(feed.inputs(batch, device), 0, number, plan.total).item()
            learned += len(batch.rows)
            if time.perf_counter() - began > STEP_SECONDS:
                break
        return sum(saved.values()) // plan.size, (time.perf_counter() - began) / learned


def _batches(feed: Feed, plan: EpochPlan) -> Generator[Any, None, None]:
    yield from feed.training_batches(plan)


@contextlib.contextmanager
def _saved_bytes(network: nn.Module) -> Iterator[dict[int, int]]:
    """Yield the bytes of each storage that is kept for the backward pass, except parameters, by its address."""
    own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    found: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield found


def memory_total(device: torch.device) -> int:
    """Return the memory of the device, or of the machine for a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def free_bytes(folder: Path) -> int:
    """Return the free bytes on the disk of `folder`, which may not exist yet."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(existing).free
