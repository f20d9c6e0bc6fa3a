"""Dry runs of sequence experiments: the heads are measured on the dataset's series, with zeros as the members' outputs.

So the members need not be trained. Missing feature tables count as prediction; the members' own runs do not count.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ichx.cache.mixture_cache import plan_dataset_caches
from ichx.cache.recipe_caches import recipe_spec
from ichx.datasets.dataset import load_version
from ichx.datasets.fold_numbers import TRAIN_ONLY
from ichx.datasets.patient_subset import EXCLUDED
from ichx.errors import NotReadyError
from ichx.evaluation.feature_tables import table_bytes
from ichx.evaluation.member_outputs import inputs_of
from ichx.experiments.callbacks import RunCallbacks
from ichx.experiments.fold_status import missing_tests
from ichx.experiments.member_features import TableOptions, TableRequest, feature_width, find_table
from ichx.experiments.prepared_series import PreparedSeries, prepare_series, sequence_data
from ichx.experiments.run_cost import (
    CHECKPOINTS,
    ROW_BYTES,
    RunEstimate,
    free_bytes,
    measure_cost,
    memory_total,
    prediction_seconds,
    sample_cache,
    sample_feed,
)
from ichx.labels import LABELS
from ichx.recipe_text import from_toml
from ichx.sequences.data import SequenceData
from ichx.sequences.feed import SequenceFeed
from ichx.sequences.network import build_network
from ichx.training.device import choose_hardware, choose_inference_hardware, isolated_torch_settings
from ichx.training.run_options import RunOptions
from ichx.training.runtime import Runtime

if TYPE_CHECKING:
    import pandas as pd

    from ichx.project import Project
    from ichx.store import Experiment

STUDY_BYTES = 2 * ROW_BYTES
"""Bytes per slice of a prediction file, which has the logits of the slice and of its study."""


def dry_run_sequence(
    project: "Project", experiment: "Experiment", wanted: Sequence[int], train: Sequence[int], options: RunOptions
) -> RunEstimate:
    """Return what a run of a sequence experiment would need; arguments and errors are those of `dry_run`.

    Args:
        project: The open project.
        experiment: The experiment, with the `subset` of a quick look.
        wanted: The folds to run.
        train: Those of them to train.
        options: Device and loader.
    """
    recipe = from_toml(experiment.recipe)
    hardware = choose_hardware(options.device, recipe.precision, recipe.input.pixels)
    tables = TableOptions(options.device, options.workers)
    prepared = prepare_series(project, experiment, RunCallbacks(), tables)
    widths = [feature_width(project, n) for n in experiment.members] if "features" in inputs_of(experiment) else []
    data = _zeros(prepared, prepared.data.slices, widths)
    of_series = np.array([prepared.folds[rows[0]] for rows in data.series])
    inside, steps, validated = of_series != EXCLUDED, 0, 0
    every = np.flatnonzero(inside)
    feed = SequenceFeed(data, recipe, training_series=every, validation_series=every)
    cost = measure_cost(
        lambda: build_network(prepared.plugin, recipe, data.widths(recipe)), recipe, feed, recipe.batch, hardware
    )
    for fold in train:
        # Slices of `TRAIN_ONLY` have no out-of-fold logits.
        known = inside & (of_series != TRAIN_ONLY) if "logits" in prepared.kinds else inside
        learnt = np.flatnonzero(known & (of_series != fold) if widths else known)
        of_fold = SequenceFeed(data, recipe, fold=fold, training_series=learnt)
        own = len(feed.rows(np.flatnonzero(of_series == fold)))
        for at, stage in enumerate(recipe.stage):
            steps += len(of_fold.epoch_rows(at, 0)) * stage.epochs
            validated += own * stage.epochs
    tests = [(fold, version) for fold in wanted for version in missing_tests(project, experiment, fold)]
    windows, rows = 0, sum(int((prepared.folds == fold).sum()) for fold in train)
    for _, version in tests:
        test = _zeros(prepared, load_version(project.workspace, version).slices, widths)
        windows, rows = windows + len(SequenceFeed(test, recipe).windows), rows + version.slices
    seconds, nbytes = 0.0, 0
    if widths:
        versions = [(fold, experiment.version_id) for fold in train] + [(fold, version.id) for fold, version in tests]
        seconds, nbytes = _missing_tables(
            prepared, versions, dict(zip(experiment.members, widths, strict=True)), options
        )
    return RunEstimate(
        experiment=experiment.number,
        name=experiment.name,
        subset=experiment.subset,
        hardware=str(hardware),
        folds=tuple(train),
        epochs=len(train) * recipe.epochs,
        cache_slices=0,
        cache_seconds=0.0,
        cache_bytes=0,
        train_seconds=steps * cost.step + validated * cost.predict,
        predict_seconds=windows * cost.predict + seconds,
        memory_bytes=cost.memory,
        memory_total=memory_total(hardware.device),
        experiment_bytes=len(train) * cost.weights
        + bool(train) * CHECKPOINTS * cost.checkpoint
        + rows * STUDY_BYTES
        + nbytes,
        cache_free=free_bytes(project.workspace.cache_dir),
        experiment_free=free_bytes(project.workspace.experiments_dir),
    )


def _zeros(prepared: PreparedSeries, slices: "pd.DataFrame", widths: Sequence[int]) -> SequenceData:
    """Return the series of `slices` with zeros as the members' outputs, which take no memory."""
    count = len(slices)
    features = [np.broadcast_to(np.zeros(1, np.float16), (count, width)) for width in widths]
    shape = (count, len(prepared.members), len(LABELS))
    logits = np.broadcast_to(np.zeros(1, np.float32), shape) if "logits" in prepared.kinds else None
    return sequence_data(slices, np.ones(count, bool), features, logits)


def _missing_tables(
    prepared: PreparedSeries, versions: Sequence[tuple[int, int]], widths: dict[int, int], options: RunOptions
) -> tuple[float, int]:
    """Return the seconds and bytes of the feature tables that are missing of `(fold, version)`."""
    project, seconds, nbytes = prepared.project, 0.0, 0
    for number, width in widths.items():
        slices = 0
        for fold, version in versions:
            try:
                found = find_table(project, TableRequest(number, fold, version), prepared.options)
            except NotReadyError:  # the member is not trained
                found = None
            if found is None:
                count = project.store.version_by_id(version).slices
                slices, nbytes = slices + count, nbytes + table_bytes(count, width)
        seconds += slices * _feature_seconds(prepared, number, options) if slices else 0.0
    return seconds, nbytes


def _feature_seconds(prepared: PreparedSeries, number: int, options: RunOptions) -> float:
    """Return the seconds per slice of predicting with a member's network."""
    project = prepared.project
    recipe = from_toml(project.store.experiment(number).recipe)
    plugin = project.registry.get(recipe.plugin)
    hardware = choose_inference_hardware(options.device, "auto", recipe.precision, recipe.input.pixels)
    data = prepared.data
    [plan] = plan_dataset_caches(project.workspace.cache_dir, data, [recipe_spec(recipe)])
    with sample_cache(data, plan) as (part, cache, _, _), isolated_torch_settings(hardware):
        feed, runtime = sample_feed(part, cache, recipe, plugin, hardware, options), Runtime(hardware)
        network = runtime.prepare(plugin.build(recipe, False))
        return prediction_seconds(network, runtime, feed, feed.validation_rows)
