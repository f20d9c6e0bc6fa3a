"""A network that sees neighbouring slices: trained, resumed, predicted and pictured, from the command line."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SHORT, Program

from ichx.evaluation.predictions import read_predictions
from ichx.experiments.callbacks import RunCallbacks
from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.experiments.run import run_experiment
from ichx.plugins import load_registry
from ichx.project import Project
from ichx.recipe_text import from_toml
from ichx.store import EpochRecord, open_store
from ichx.training.run_options import RunOptions
from ichx.training.weights import read_weights
from ichx.workspace import open_workspace

pytestmark = pytest.mark.slow

SETTINGS = (*SHORT, "augmentation.window_shift=5.0", "input.windows=[[80, 200]]")
FILES = ("oof-identity", "oof-hflip", "test-ph-test-v1-identity", "test-ph-test-v1-hflip")


@pytest.fixture(scope="module")
def stacked_root(dataset_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a workspace in which experiment 1 is trained without a worker, and fold 0 of 2, its twin, with two."""
    root = Path(shutil.copytree(dataset_root, tmp_path_factory.mktemp("stacked") / "workspace"))
    workspace, registry = open_workspace(root), load_registry()
    with open_store(workspace) as store:
        for workers, folds in ((0, None), (2, [0])):
            made = new_experiment(store, registry, ExperimentRequest(plugin="tiny_fine_25d", settings=SETTINGS))
            options = RunOptions(device="cpu", workers=workers)
            run_experiment(Project(workspace, store, registry), made.number, folds=folds, options=options)
    return root


def logits(root: Path, number: int, file: str) -> np.ndarray:
    return read_predictions(root / "experiments" / str(number) / "fold-0" / f"{file}.parquet").logits


def test_predictions_do_not_depend_on_the_workers(stacked_root: Path) -> None:
    for file in FILES:
        np.testing.assert_array_equal(logits(stacked_root, 1, file), logits(stacked_root, 2, file))
    assert not np.array_equal(logits(stacked_root, 1, "oof-identity"), logits(stacked_root, 1, "oof-hflip"))
    with open_store(open_workspace(stacked_root)) as store:
        experiment = store.experiment(1)
        assert experiment.state == "done"
        recipe = from_toml(experiment.recipe)
    weights = read_weights(stacked_root / "experiments" / "1" / "fold-0" / "weights.safetensors")
    assert weights["features.0.0.weight"].shape[1] == recipe.input.channels == 3


def test_every_command_that_reads_its_predictions_works(stacked_root: Path, tmp_path: Path, ichx: Program) -> None:
    root = Path(shutil.copytree(stacked_root, tmp_path / "workspace"))
    for arguments in (["scores", 1], ["audit", 1], ["exp", "show", 1], ["ensemble", "--members", "1,2"]):
        done = ichx(*arguments, cwd=root)
        assert done.code == 0, done.err
    for caches in ("with its cache", "decoded anew"):
        done = ichx("report", 1, cwd=root)
        assert done.code == 0, done.err
        (page,) = (root / "experiments" / "1").glob("*.html")
        text = page.read_text(encoding="utf-8")
        assert "Note: " not in text, caches
        assert "data:image/png" in text, "heat maps"
        assert "80 / 200" in text, "the one window"
        shutil.rmtree(root / "cache", ignore_errors=True)


class Stop(RunCallbacks):
    """Interrupts a run after its second epoch."""

    def __init__(self) -> None:
        self.epochs = 0

    def epoch_ended(self, record: EpochRecord) -> None:
        self.epochs += 1
        if self.epochs == 2:
            raise KeyboardInterrupt


def test_an_interrupted_run_ends_with_equal_weights(stacked_root: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(stacked_root, tmp_path / "workspace"))
    workspace, registry = open_workspace(root), load_registry()
    with open_store(workspace) as store:
        made = new_experiment(store, registry, ExperimentRequest(plugin="tiny_fine_25d", settings=SETTINGS))
        with pytest.raises(KeyboardInterrupt):
            run_experiment(Project(workspace, store, registry), made.number, folds=[0], callbacks=Stop())
        run_experiment(Project(workspace, store, registry), made.number, folds=[0])
        assert [run.state for run in store.runs(made.number)] == ["stopped", "done"]
    homes = [root / "experiments" / str(number) / "fold-0" for number in (1, made.number)]
    whole, resumed = (read_weights(home / "weights.safetensors") for home in homes)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    np.testing.assert_array_equal(logits(root, 1, "oof-hflip"), logits(root, made.number, "oof-hflip"))


@pytest.mark.parametrize(
    "settings",
    [
        ["input.windows=[[-1, -1], [80, 200], [600, 2800]]", "input.normalize=imagenet"],
        ["input.neighbours=2", "input.windows=[[40, 80]]", "input.centre=none", "input.size=48", "input.crop=0"],
    ],
)
def test_other_numbers_of_channels(dataset_copy: Path, ichx: Program, settings: list[str]) -> None:
    given = [f"--set={setting}" for setting in (*SHORT, *settings)]
    assert ichx("exp", "new", "--plugin", "tiny_fine_25d", *given, cwd=dataset_copy).code == 0
    done = ichx("run", 1, "--fold", 0, "--device", "cpu", cwd=dataset_copy)
    assert done.code == 0, done.err
    weights = read_weights(dataset_copy / "experiments" / "1" / "fold-0" / "weights.safetensors")
    assert weights["features.0.0.weight"].shape[1] == (5 if "neighbours" in settings[0] else 9)


def test_a_search_over_neighbours(dataset_copy: Path, ichx: Program) -> None:
    """Too many neighbours are refused where they are asked for, and not in the middle of a study."""
    given = [f"--set={setting}" for setting in SETTINGS]
    assert ichx("exp", "new", "--plugin", "tiny_fine_25d", *given, cwd=dataset_copy).code == 0
    refused = ichx("tune", 1, "--trials", 2, "--search", "input.neighbours=0..6", cwd=dataset_copy)
    assert refused.code == 1
    assert "between 0 and 4" in refused.err
    done = ichx("tune", 1, "--trials", 1, "--search", "input.neighbours=1..2", cwd=dataset_copy)
    assert done.code == 0, done.err
