"""Feature tables of experiments, computed on demand from the weights of their folds.

The format of the files is in `ichx.evaluation.feature_tables`. A table can be computed again at any time, so it is in
no archive, and `ichx gc` deletes those that no sequence experiment reads.
"""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ichx.datasets.dataset import load_version
from ichx.errors import ChangedDataError, NotReadyError, StorageError
from ichx.evaluation.feature_tables import FeatureSource, FeatureTable, TableWriter, part_path, read_table, table_bytes
from ichx.experiments.prepare import open_cache
from ichx.files import sha256_file, write_error
from ichx.locks import file_lock
from ichx.recipe_text import from_toml
from ichx.store import FeatureTableDraft
from ichx.text import format_bytes, format_count
from ichx.training.callbacks import Callbacks
from ichx.training.control import Control
from ichx.training.device import Hardware, choose_inference_hardware, isolated_torch_settings, loader_workers
from ichx.training.mean_network import trained_network
from ichx.training.pooled_features import capture_features
from ichx.training.prediction import PredictionTask, Predictor
from ichx.training.run_options import INFERENCE_BATCH
from ichx.training.runtime import Runtime
from ichx.training.slice_feed import SliceFeed
from ichx.training.stop_request import StopRequest
from ichx.training.weights import load_exactly

if TYPE_CHECKING:
    from pathlib import Path

    from ichx.project import Project
    from ichx.recipe import Recipe


@dataclass(frozen=True, order=True)
class TableRequest:
    """A feature table that is needed."""

    experiment: int
    fold: int
    version_id: int
    """The dataset version whose slices it has."""
    view: str = "identity"


@dataclass(frozen=True)
class TablePlan:
    """Requested tables, and what the missing ones take on the disk."""

    found: Mapping[TableRequest, FeatureTable]
    missing: Mapping[TableRequest, tuple[int, int]]
    """Slices and width of each."""
    free: int
    """Free bytes on the disk of the experiments."""
    saved: int = 0
    """Bytes of unfinished tables, which are continued."""

    @property
    def nbytes(self) -> int:
        """Bytes that the missing tables still take."""
        return max(sum(table_bytes(*shape) for shape in self.missing.values()) - self.saved, 0)

    def __str__(self) -> str:
        shapes = sorted({f"{slices:,} x {width:,}" for slices, width in self.missing.values()})
        count = format_count(len(self.missing), "feature table")
        return f"{count} of {', '.join(shapes)}: {format_bytes(self.nbytes)} of {format_bytes(self.free)} free"

    def check_space(self) -> None:
        """Raise `StorageError` if the missing tables do not fit on the disk."""
        if self.nbytes > self.free:
            raise StorageError(
                f"The disk is too small for {self}.",
                "Free some space (`ichx gc` lists what nothing needs), or use `--inputs logits`.",
            )


@dataclass(frozen=True)
class TableOptions:
    """How tables are computed."""

    device: str = "auto"
    workers: int | None = None


def table_path(project: "Project", request: TableRequest) -> "Path":
    """Return the path of a table."""
    version = project.store.version_by_id(request.version_id)
    files = project.workspace.experiment_files(request.experiment)
    return files.features(request.fold, request.view, version.dataset, version.number)


def find_table(project: "Project", request: TableRequest, options: TableOptions | None = None) -> FeatureTable | None:
    """Return the table if it is complete and would be the same now.

    Its experiment, weights and slices have not changed since, and the device of `options` has its precision.
    """
    table = read_table(table_path(project, request))
    if table is None:
        return None
    recipe = from_toml(project.store.experiment(request.experiment).recipe)
    current = table_source(project, request, _hardware(recipe, options or TableOptions()).precision)
    return table if table.source == current else None


def _hardware(recipe: "Recipe", options: TableOptions) -> Hardware:
    """Return the device and precision of the network of `recipe`."""
    return choose_inference_hardware(options.device, "auto", recipe.precision, recipe.input.pixels)


def table_source(project: "Project", request: TableRequest, precision: str) -> FeatureSource:
    """Return what a table depends on, with the current digests.

    Raises:
        NotReadyError: The fold has no weights.
    """
    experiment = project.store.experiment(request.experiment)
    version = project.store.version_by_id(request.version_id)
    weights = project.workspace.experiment_files(experiment.number).fold(request.fold).weights
    try:
        digest = sha256_file(weights)
    except OSError as error:
        raise NotReadyError(
            f"Fold {request.fold} of experiment {experiment.number} has no weights: {error.strerror}, {weights}.",
            f"Train it: `ichx run {experiment.number} --fold {request.fold}`.",
        ) from error
    return FeatureSource(
        experiment=experiment.id,
        fold=request.fold,
        weights=digest,
        recipe=experiment.recipe_digest,
        folds=experiment.fold_digest,
        dataset=version.dataset,
        version=version.number,
        catalog=version.digest,
        view=request.view,
        precision=precision,
    )


def plan_tables(project: "Project", requests: Iterable[TableRequest], options: TableOptions | None = None) -> TablePlan:
    """Return which tables are missing, and their sizes. Computes nothing.

    Raises:
        NotReadyError: A fold has no weights.
        UnsupportedError: A network has no pooled features.
    """
    found, missing = dict[TableRequest, FeatureTable](), dict[TableRequest, tuple[int, int]]()
    widths, saved = dict[int, int](), 0
    for request in dict.fromkeys(requests):
        table = find_table(project, request, options)
        if table is not None:
            found[request] = table
            continue
        if request.experiment not in widths:
            widths[request.experiment] = feature_width(project, request.experiment)
        slices = project.store.version_by_id(request.version_id).slices
        missing[request] = (slices, widths[request.experiment])
        part = part_path(table_path(project, request))
        saved += 512 * part.stat().st_blocks if part.exists() else 0
    return TablePlan(found, missing, shutil.disk_usage(project.workspace.root).free, saved)


def feature_width(project: "Project", number: int) -> int:
    """Return the number of pooled features per slice. Raises `UnsupportedError` if the network has none."""
    recipe = from_toml(project.store.experiment(number).recipe)
    with torch.random.fork_rng(devices=[]):
        network = project.registry.get(recipe.plugin).build(recipe, False).eval()
    sink = _Width()
    with torch.inference_mode(), capture_features(network, np.array([""], object), sink):
        network(torch.zeros(1, recipe.input.channels, recipe.input.pixels, recipe.input.pixels))
    return sink.width


def ensure_tables(
    project: "Project",
    requests: Sequence[TableRequest],
    options: TableOptions | None = None,
    *,
    callbacks: Callbacks | None = None,
    stop: StopRequest | None = None,
) -> dict[TableRequest, FeatureTable]:
    """Return all tables; compute those that are missing, from where an earlier call was interrupted.

    Several processes may call this: each computes the tables that no other one computes, then waits for theirs.

    Args:
        project: The open project.
        requests: The tables.
        options: Device and loader.
        callbacks: Receives the size and the progress.
        stop: Interrupts the work; what is done is saved.

    Raises:
        NotReadyError: A fold has no weights.
        UnsupportedError: A network has no pooled features.
        StorageError: The disk is too small, or cannot be written.
        RunStopped: A stop was requested.
    """
    options, callbacks, stop = options or TableOptions(), callbacks or Callbacks(), stop or StopRequest()
    plan = plan_tables(project, requests, options)
    found = dict(plan.found)
    if plan.missing:
        callbacks.note(str(plan))
        plan.check_space()
        computing = _Computing(project, options, callbacks, stop)
        left = sorted(plan.missing)
        for wait in (False, True):
            busy = []
            for request in left:
                table = computing.table(request, plan.missing[request], wait=wait)
                if table is None:
                    busy.append(request)
                else:
                    found[request] = table
            left = busy
    return {request: found[request] for request in dict.fromkeys(requests)}


class _Width:
    """Learns the width of the features that it receives."""

    width = 0

    def add(self, slice_ids: npt.NDArray[np.object_], values: npt.NDArray[np.float16]) -> None:
        self.width = values.shape[1]


@dataclass
class _Computing:
    """Computes tables, with one network in memory at a time."""

    project: "Project"
    options: TableOptions
    callbacks: Callbacks
    stop: StopRequest

    def table(self, request: TableRequest, shape: tuple[int, int], *, wait: bool) -> FeatureTable | None:
        """Return a table, which is computed unless another process has done so; None while it does, without `wait`."""
        path = table_path(self.project, request)
        with ExitStack() as stack:
            try:
                stack.enter_context(file_lock(path.with_suffix(".lock"), wait=wait))
            except BlockingIOError:
                return None
            except OSError as error:
                raise write_error(path, "the features", error) from error
            table = find_table(self.project, request, self.options) or self._compute(request, path, shape)
            draft = FeatureTableDraft(
                experiment=request.experiment,
                fold=request.fold,
                version_id=request.version_id,
                view=request.view,
                path=path.relative_to(self.project.workspace.root).as_posix(),
                slices=table.slices,
                width=table.width,
                digest=table.digest,
            )
            if draft.digest not in {t.digest for t in self.project.store.feature_tables(request.experiment)}:
                self.project.store.add_feature_table(draft)
            return table

    def _compute(self, request: TableRequest, path: "Path", shape: tuple[int, int]) -> FeatureTable:
        project = self.project
        version = project.store.version_by_id(request.version_id)
        recipe = from_toml(project.store.experiment(request.experiment).recipe)
        data = load_version(project.workspace, version)
        with self.stop.interruptible():
            cache = open_cache(project.workspace, data, recipe, self.callbacks)
        hardware = _hardware(recipe, self.options)
        source = table_source(project, request, hardware.precision)
        rows = np.flatnonzero(cache.valid)
        phase = f"features of {version.dataset}, experiment {request.experiment}, fold {request.fold}"
        workers = loader_workers(hardware, self.options.workers, recipe, self.callbacks.note)
        feed = SliceFeed(cache, data.slices, recipe, workers)
        with (
            isolated_torch_settings(hardware),
            TableWriter(path, source, rows, shape, batch=INFERENCE_BATCH) as writer,
        ):
            before = writer.done

            def report(done: int) -> None:
                self.callbacks.phase(phase, before + done, len(rows))

            if before < len(rows):
                runtime = Runtime(hardware)
                network = self._network(recipe, request, runtime, source.weights)
                predictor = Predictor(runtime, Control(callbacks=self.callbacks, stop=self.stop))
                task = PredictionTask(request.view, features=writer, report=report)
                predictor.logits(network, feed, rows[before:], task)
            return writer.finish()

    def _network(self, recipe: "Recipe", request: TableRequest, runtime: Runtime, digest: str) -> nn.Module:
        """Return the network of the fold. Raises `ChangedDataError` if it is retrained at this moment."""
        network = runtime.prepare(trained_network(recipe, self.project.registry.get(recipe.plugin).build))
        weights = self.project.workspace.experiment_files(request.experiment).fold(request.fold).weights
        load_exactly(network, weights)
        if sha256_file(weights) != digest:
            raise ChangedDataError(
                f"The weights of fold {request.fold} of experiment {request.experiment} have just changed.",
                "Run the command again when that fold is trained.",
            )
        return network
