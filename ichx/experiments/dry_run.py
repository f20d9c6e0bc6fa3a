"""Dry runs: time, memory and disk that a run would need, from a short measurement on a sample of its slices.

The measurement uses the cache, loader, training step and prediction of a run, in a temporary folder. The workspace and
the store stay as they are.
"""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ichx.cache.build import CachePlan, ensure_cache, plan_caches
from ichx.cache.hu_cache import Cache
from ichx.cache.requests import recipe_spec
from ichx.datasets.dataset import LoadedDataset, load_version
from ichx.datasets.patient_subset import EXCLUDED
from ichx.errors import NotReadyError, UnsupportedError
from ichx.evaluation.choices import VIEWS
from ichx.experiments.fold_status import finished_folds, missing_tests, unpredicted_folds
from ichx.experiments.prepare import training_data
from ichx.labels import ANY
from ichx.loading.sampling import EpochAddress, epoch_rows
from ichx.recipe import Recipe
from ichx.recipe_text import from_toml
from ichx.store import require_network
from ichx.training.checkpoint_files import checkpoints
from ichx.training.device import Hardware, choose_hardware, isolated_torch_settings, loader_workers
from ichx.training.feed import EpochPlan, Rows
from ichx.training.learner import Learner
from ichx.training.memory import peak_gb, reset_peak
from ichx.training.prediction import Predictor
from ichx.training.run_options import RunOptions
from ichx.training.runtime import Runtime
from ichx.training.slice_feed import SliceFeed
from ichx.worker_pool import worker_count

if TYPE_CHECKING:
    from ichx.plugins import Plugin
    from ichx.project import Project
    from ichx.store import Experiment

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
class _Cost:
    """Costs of one slice in seconds and bytes, and of the network in bytes."""

    step: float
    predict: float
    memory: int
    weights: int
    checkpoint: int


def dry_run(
    project: "Project",
    number: int,
    *,
    folds: Sequence[int] | None = None,
    options: RunOptions | None = None,
    subset: float | None = None,
) -> RunEstimate:
    """Return what `run_experiment` would need.

    Args:
        project: The open project.
        number: The experiment.
        folds: The folds to run; None for all.
        options: Device and loader.
        subset: Share of the patients of a quick look at the experiment.

    Raises:
        NotFoundError: The experiment or a fold does not exist.
        NotReadyError: The dataset has no slice that can be decoded.
        IchxError: The network cannot be built or does not fit into memory.
    """
    options = options or RunOptions()
    experiment = project.store.experiment(number)
    require_network(experiment, "run it")
    experiment.check_folds(folds or ())
    if experiment.members:
        raise UnsupportedError(
            f"Experiment {number} reads the outputs of experiments {', '.join(map(str, experiment.members))}, which "
            "--dry-run cannot measure.",
            "Estimate its members instead; a network over series trains in minutes.",
        )
    trained = finished_folds(project, number) | unpredicted_folds(project, number)
    if subset is not None:
        experiment, trained = replace(experiment, subset=subset), set()
    wanted = tuple(range(experiment.folds) if folds is None else folds)
    train = tuple(fold for fold in wanted if fold not in trained)
    recipe, plugin = from_toml(experiment.recipe), project.registry.get(experiment.plugin)
    hardware = choose_hardware(options.device, recipe.precision, recipe.input.pixels)
    data, fold_of = training_data(project, experiment, recipe)
    tests = {v.id: v for fold in wanted for v in missing_tests(project, experiment, fold)}
    test_data = [load_version(project.workspace, version) for version in tests.values()]
    cache_dir = project.workspace.cache_dir
    plans = [plan_caches(cache_dir, d.version.dataset, d.slices, [recipe_spec(recipe)])[0] for d in (data, *test_data)]
    missing = sum(_missing(plan) for plan in plans)
    with _sample(data, plans[0]) as (part, cache, seconds, nbytes):
        cost = _measure(plugin, recipe, _feed(part, cache, recipe, plugin, hardware, options), hardware)
    positive = data.slices[ANY].to_numpy() > 0.5
    steps = validated = epochs = predicted = 0
    for fold in train:
        inside = np.flatnonzero((fold_of != fold) & (fold_of != EXCLUDED))
        own = int((fold_of == fold).sum())
        left = _rows_of_epochs(recipe, positive, inside, fold)[_epochs_done(project, experiment, fold, subset) :]
        epochs, steps, validated = epochs + len(left), steps + sum(left), validated + own * len(left)
        predicted += own * (len(VIEWS) - 1)  # the last validation is the first view
    on_tests = sum(len(d.slices) for d in test_data) * len(wanted) * len(VIEWS)
    rows = on_tests + sum(int((fold_of == fold).sum()) for fold in train) * len(VIEWS)
    return RunEstimate(
        experiment=number,
        name=experiment.name,
        subset=experiment.subset,
        hardware=str(hardware),
        folds=train,
        epochs=epochs,
        cache_slices=missing,
        cache_seconds=missing * seconds / worker_count(None, max(sum(len(plan.missing) for plan in plans), 1)),
        cache_bytes=round(missing * nbytes),
        train_seconds=steps * cost.step + validated * cost.predict,
        predict_seconds=(predicted + on_tests) * cost.predict,
        memory_bytes=cost.memory,
        memory_total=_memory_total(hardware.device),
        experiment_bytes=len(train) * cost.weights + bool(train) * CHECKPOINTS * cost.checkpoint + rows * ROW_BYTES,
        cache_free=_free(cache_dir),
        experiment_free=_free(project.workspace.experiments_dir),
    )


def _missing(plan: CachePlan) -> int:
    """Return the number of slices that the cache of `plan` lacks."""
    return 0 if plan.complete else plan.n * len(plan.missing) // plan.shards


@contextlib.contextmanager
def _sample(data: LoadedDataset, plan: CachePlan) -> Iterator[tuple[LoadedDataset, Cache, float, float]]:
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


def _feed(
    part: LoadedDataset, cache: Cache, recipe: Recipe, plugin: "Plugin", hardware: Hardware, options: RunOptions
) -> SliceFeed:
    """Return the feed of a run, with batches that a measurement can afford on this device."""
    batch = recipe.batch if hardware.device.type == "cuda" else min(recipe.batch, CPU_BATCH)
    rows = np.flatnonzero(cache.valid)
    return SliceFeed(
        cache,
        part.slices,
        replace(recipe, batch=batch),
        workers=loader_workers(hardware, options.workers),
        build_augmentation=plugin.build_augmentation,
        training_rows=rows,
        validation_rows=rows,
    )


def _measure(plugin: "Plugin", recipe: Recipe, feed: SliceFeed, hardware: Hardware) -> _Cost:
    """Return the costs of training and prediction, measured on `feed`."""
    batch = feed.recipe.batch
    with isolated_torch_settings(hardware):
        runtime = Runtime(hardware, unused_parameters=True)
        learner = Learner(recipe, 0, plugin.build(recipe, False), runtime, lambda message: None)
        reset_peak(hardware.device)
        rows = np.resize(feed.training_rows, batch * (STEPS + 1))
        activations, step = _time_steps(learner, feed, EpochPlan(0, 0, rows, batch))
        predictor, network = Predictor(runtime), learner.network
        rows = feed.validation_rows[: 2 * batch]
        predictor.logits(network, feed, rows[:1])
        began = time.perf_counter()
        predictor.logits(network, feed, rows)  # ends on the CPU, so that the device has finished
        predict = (time.perf_counter() - began) / len(rows)
        peak = round(peak_gb(hardware.device) * 1e9) + activations * (recipe.batch - batch)
        return _Cost(step, predict, peak, _nbytes(network.state_dict()), _nbytes(learner.state()))


def _time_steps(learner: Learner, feed: SliceFeed, plan: EpochPlan) -> tuple[int, float]:
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


def _batches(feed: SliceFeed, plan: EpochPlan) -> Generator[Any, None, None]:
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


def _rows_of_epochs(recipe: Recipe, positive: npt.NDArray[np.bool_], inside: Rows, fold: int) -> list[int]:
    """Return how many slices each epoch of a fold trains on."""
    return [
        len(epoch_rows(positive, inside, stage.sampling, EpochAddress(recipe.seed, fold, index, 0)))
        for index, stage in enumerate(recipe.stage)
        for _ in range(stage.epochs)
    ]


def _epochs_done(project: "Project", experiment: "Experiment", fold: int, subset: float | None) -> int:
    """Return the epochs from which a run resumes the fold."""
    if subset is not None or not checkpoints(project.workspace.experiment_files(experiment.number).fold(fold).folder):
        return 0
    return max((run.epochs_done for run in project.store.runs(experiment.number, fold)), default=0)


def _nbytes(state: Any) -> int:
    """Return the bytes of all tensors in nested containers."""
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    values = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return sum(map(_nbytes, values))


def _memory_total(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _free(folder: Path) -> int:
    """Return the free bytes on the disk of `folder`, which may not exist yet."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(existing).free
