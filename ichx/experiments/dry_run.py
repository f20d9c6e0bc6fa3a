"""Dry runs: time, memory and disk that a run would need, from a short measurement on a sample of its slices.

The measurement uses the cache, loader, training step and prediction of a run, in a temporary folder. The workspace and
the store stay as they are.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ichx.cache.mixture_cache import plan_dataset_caches
from ichx.cache.recipe_caches import recipe_spec
from ichx.datasets.dataset import load_version
from ichx.datasets.patient_subset import EXCLUDED
from ichx.evaluation.choices import views_of
from ichx.experiments.dry_run_series import dry_run_sequence
from ichx.experiments.fold_status import finished_folds, missing_tests, unpredicted_folds
from ichx.experiments.prepare import training_data
from ichx.experiments.run_cost import (
    CHECKPOINTS,
    ROW_BYTES,
    RunEstimate,
    free_bytes,
    measure_cost,
    memory_total,
    sample_cache,
    sample_feed,
)
from ichx.loading.sampling import EpochAddress, Population, sampled_rows
from ichx.recipe import Recipe
from ichx.recipe_text import from_toml
from ichx.store import require_network
from ichx.training.checkpoint_files import checkpoints
from ichx.training.device import choose_hardware
from ichx.training.feed import Rows
from ichx.training.run_options import RunOptions
from ichx.worker_pool import worker_count

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import Experiment


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
    trained = finished_folds(project, experiment) | unpredicted_folds(project, experiment)
    if subset is not None:
        experiment, trained = replace(experiment, subset=subset), set()
    wanted = tuple(range(experiment.folds) if folds is None else folds)
    train = tuple(fold for fold in wanted if fold not in trained)
    if experiment.members:
        return dry_run_sequence(project, experiment, wanted, train, options)
    recipe, plugin = from_toml(experiment.recipe), project.registry.get(experiment.plugin)
    hardware = choose_hardware(options.device, recipe.precision, recipe.input.pixels)
    data, fold_of = training_data(project, experiment, recipe)
    tests = {v.id: v for fold in wanted for v in missing_tests(project, experiment, fold)}
    test_data = [load_version(project.workspace, version) for version in tests.values()]
    cache_dir = project.workspace.cache_dir
    plans = [plan_dataset_caches(cache_dir, d, [recipe_spec(recipe)])[0] for d in (data, *test_data)]
    missing = sum(plan.missing_slices for plan in plans)
    with sample_cache(data, plans[0]) as (part, cache, seconds, nbytes):
        feed = sample_feed(part, cache, recipe, plugin, hardware, options)
        cost = measure_cost(lambda: plugin.build(recipe, False), recipe, feed, feed.recipe.batch, hardware)
    population = Population.of(data.slices, recipe.stage)
    views, networks = len(views_of(experiment)), recipe.prediction.average_last
    steps = validated = epochs = predicted = 0
    for fold in train:
        inside = np.flatnonzero((fold_of != fold) & (fold_of != EXCLUDED))
        own = int((fold_of == fold).sum())
        left = rows_of_epochs(recipe, population, inside, fold)[_epochs_done(project, experiment, fold, subset) :]
        shares = [stage.validated_share(epoch) for stage in recipe.stage for epoch in range(1, stage.epochs + 1)]
        epochs, steps = epochs + len(left), steps + sum(left)
        validated += round(own * sum(shares[len(shares) - len(left) :]))
        # The last validation is the first view, unless several networks predict together.
        predicted += own * (views * networks - (networks == 1))
    on_tests = sum(len(d.slices) for d in test_data) * len(wanted) * views
    rows = on_tests + sum(int((fold_of == fold).sum()) for fold in train) * views
    kept = bool(train) * CHECKPOINTS * (cost.checkpoint + (networks - 1) * cost.weights)
    return RunEstimate(
        experiment=number,
        name=experiment.name,
        subset=experiment.subset,
        hardware=str(hardware),
        folds=train,
        epochs=epochs,
        cache_slices=missing,
        cache_seconds=missing * seconds / worker_count(None, max(sum(plan.missing_shards for plan in plans), 1)),
        cache_bytes=round(missing * nbytes),
        train_seconds=steps * cost.step + validated * cost.predict,
        predict_seconds=(predicted + on_tests * networks) * cost.predict,
        memory_bytes=cost.memory,
        memory_total=memory_total(hardware.device),
        experiment_bytes=len(train) * networks * cost.weights + kept + rows * ROW_BYTES,
        cache_free=free_bytes(cache_dir),
        experiment_free=free_bytes(project.workspace.experiments_dir),
    )


def rows_of_epochs(recipe: Recipe, population: Population, inside: Rows, fold: int) -> list[int]:
    """Return how many slices each epoch of a fold trains on."""
    return [
        len(sampled_rows(population, inside, stage, EpochAddress(recipe.seed, fold, index, 0)))
        for index, stage in enumerate(recipe.stage)
        for _ in range(stage.epochs)
    ]


def _epochs_done(project: "Project", experiment: "Experiment", fold: int, subset: float | None) -> int:
    """Return the epochs from which a run resumes the fold."""
    if subset is not None or not checkpoints(project.workspace.experiment_files(experiment.number).fold(fold).folder):
        return 0
    return max((run.epochs_done for run in project.store.runs(experiment.number, fold)), default=0)
