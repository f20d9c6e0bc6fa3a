"""A dry run measures what a run needs and leaves no trace."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import safetensors
from conftest import SHORT, Program

from ichx.cache.build import find_cache
from ichx.cache.recipe_caches import recipe_spec
from ichx.datasets.dataset import load_dataset
from ichx.errors import NotFoundError
from ichx.experiments.dry_run import RunEstimate, dry_run
from ichx.experiments.member_features import feature_width
from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.experiments.register_sequence import new_sequence
from ichx.experiments.run import run_experiment
from ichx.plugins import load_registry
from ichx.project import Project
from ichx.recipe_text import from_toml
from ichx.store import open_store
from ichx.training.run_options import RunOptions
from ichx.workspace import open_workspace

pytestmark = pytest.mark.slow

CPU = RunOptions(device="cpu")


@pytest.fixture
def registered(dataset_copy: Path) -> Iterator[Project]:
    workspace = open_workspace(dataset_copy)
    with open_store(workspace) as store:
        project = Project(workspace, store, load_registry())
        new_experiment(store, project.registry, ExperimentRequest(plugin="tiny_resnet", size=32, settings=SHORT))
        yield project


def contents(root: Path) -> dict[str, int]:
    return {str(path): path.stat().st_size for path in sorted(root.rglob("*")) if "db" not in path.parts}


def check_plausible(estimate: RunEstimate) -> None:
    assert 0 < estimate.train_seconds < 600
    assert 0 < estimate.predict_seconds < 600
    assert 1e8 < estimate.memory_bytes < estimate.memory_total < 1e13
    assert estimate.seconds == estimate.cache_seconds + estimate.train_seconds + estimate.predict_seconds


def test_the_needs_of_a_run_are_those_that_it_has(registered: Project) -> None:
    before = contents(registered.workspace.root)
    estimate = dry_run(registered, 1, options=CPU)
    assert contents(registered.workspace.root) == before
    assert registered.store.runs(1) == []
    check_plausible(estimate)
    slices = [load_dataset(registered, name).slices for name in ("ph", "ph-test")]
    assert (estimate.folds, estimate.epochs) == ((0, 1), 6)
    assert estimate.cache_slices == sum(map(len, slices))
    assert estimate.cache_seconds > 0

    run_experiment(registered, 1, options=CPU)
    recipe = from_toml(registered.store.experiment(1).recipe)
    caches = [
        find_cache(registered.workspace.cache_dir, name, rows, recipe_spec(recipe))
        for name, rows in zip(("ph", "ph-test"), slices, strict=True)
    ]
    assert estimate.cache_bytes == pytest.approx(sum(cache.nbytes for cache in caches if cache), rel=0.1)
    folder = registered.workspace.experiment_dir(1)
    written = sum(path.stat().st_size for path in folder.rglob("*") if path.suffix in (".safetensors", ".parquet"))
    weights = sorted(folder.rglob("*.safetensors"))
    assert len(weights) == 2
    with safetensors.safe_open(weights[0], "np") as file:
        assert sum(file.get_tensor(name).nbytes for name in file.keys()) * 2 < estimate.experiment_bytes  # noqa: SIM118
    assert written < estimate.experiment_bytes < 10 * written  # checkpoints have been removed

    after = dry_run(registered, 1, options=CPU)
    assert (after.folds, after.epochs, after.cache_slices, after.cache_bytes, after.seconds) == ((), 0, 0, 0, 0.0)


def test_one_fold_or_a_part_of_the_patients_needs_less(registered: Project) -> None:
    everything = dry_run(registered, 1, options=CPU)
    fold = dry_run(registered, 1, folds=[1], options=CPU)
    assert (fold.folds, fold.epochs, fold.cache_slices) == ((1,), 3, everything.cache_slices)
    part = dry_run(registered, 1, options=CPU, subset=0.5)
    assert part.subset == 0.5
    assert part.cache_slices < everything.cache_slices / 2  # and no test set
    assert [e.number for e in registered.store.experiments(limit=None)] == [1]
    with pytest.raises(NotFoundError, match="no fold 2"):
        dry_run(registered, 1, folds=[2], options=CPU)


@pytest.mark.parametrize("plugin", ["tiny_fine_25d", "tiny_unet"])
def test_every_kind_of_network(registered: Project, plugin: str) -> None:
    made = new_experiment(
        registered.store,
        registered.registry,
        ExperimentRequest(plugin=plugin, size=32, settings=[*SHORT, "ema.decay=0.9", "stage.balanced.freeze=1"]),
    )
    check_plausible(dry_run(registered, made.number, options=CPU))


@pytest.mark.parametrize("inputs", [("logits",), ("features",)])
def test_a_sequence_experiment_before_and_after_its_run(project: Project, inputs: tuple[str, ...]) -> None:
    settings = ("stage.full.epochs=2", "sequence.width=8", "sequence.parts=2", "batch=4")
    request = ExperimentRequest(plugin="gru_stack", settings=settings)
    number = new_sequence(project, request, (1, 2), inputs)[0].number
    before = contents(project.workspace.root)
    estimate = dry_run(project, number, options=CPU)
    assert contents(project.workspace.root) == before
    check_plausible(estimate)
    assert (estimate.folds, estimate.epochs, estimate.cache_slices) == ((0, 1), 4, 0)
    assert dry_run(project, number, options=CPU, folds=[1]).epochs == 2
    assert dry_run(project, number, options=CPU, subset=0.5).experiment_bytes < estimate.experiment_bytes

    run_experiment(project, number, options=CPU)
    new = {name: size for name, size in contents(project.workspace.root).items() if name not in before}
    suffixes = (".safetensors", ".parquet", ".npy")
    written = sum(size for name, size in new.items() if name.endswith(suffixes))
    assert written < estimate.experiment_bytes < 10 * written
    tables = sum(size for name, size in new.items() if name.endswith(".npy"))
    assert (tables > 0) == (inputs == ("features",))
    assert estimate.experiment_bytes > tables
    after = dry_run(project, number, options=CPU)
    assert (after.folds, after.epochs, after.seconds) == ((), 0, 0.0)


def test_a_sequence_experiment_whose_members_are_not_trained(registered: Project) -> None:
    number = new_sequence(registered, ExperimentRequest(plugin="gru"), (1,))[0].number
    estimate = dry_run(registered, number, options=CPU)
    assert estimate.folds == (0, 1)
    widths = feature_width(registered, 1)
    slices = sum(len(load_dataset(registered, name).slices) for name in ("ph", "ph-test"))
    assert estimate.experiment_bytes > 2 * 2 * slices * widths


def test_the_command(ichx: Program, registered: Project) -> None:
    root = registered.workspace.root
    done = ichx("run", 1, "--dry-run", "--device", "cpu", cwd=root)
    assert done.code == 0, done.err
    for text in ("2 folds, 6 epochs", "memory", "free", "cpu, fp32"):
        assert text in done.out
    printed = ichx("run", 1, "--dry-run", "--fold", 0, "--subset", "0.5", "--json", "--device", "cpu", cwd=root)

    (found,) = json.loads(printed.out)
    assert found.keys() == {*asdict(dry_run(registered, 1, options=CPU)), "seconds"}
    assert (found["folds"], found["subset"]) == ([0], 0.5)
    assert registered.store.runs(1) == []
