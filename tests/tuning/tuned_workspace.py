"""Fixtures: a workspace with a small phantom dataset, and an experiment of a tiny model to tune."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from built_once import built_once
from scripted_engine import SEARCHES

from ichx.datasets.add import AddRequest, add_dataset
from ichx.experiments.register import draft
from ichx.phantom.dicom_files import write_phantom
from ichx.plugins import load_registry
from ichx.project import Project
from ichx.recipe_text import apply_settings, from_toml
from ichx.store import Experiment, Store, open_store
from ichx.tuning.space import Space, parse_space
from ichx.workspace import Workspace, init_workspace, open_workspace


@pytest.fixture(scope="module")
def dataset_workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a workspace with a small labelled dataset in two folds."""

    def build(folder: Path) -> Path:
        workspace = init_workspace(folder / "workspace")
        files = write_phantom(folder / "phantom", patients=4, seed=1, size=64)
        request = AddRequest("phantom", files.train, labels=files.train_labels, folds=2)
        with open_store(workspace) as store:
            add_dataset(Project(workspace, store), request)
        return workspace.root

    return built_once(tmp_path_factory, "tuned", build)


@pytest.fixture
def workspace(dataset_workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    """Return a copy of it that commands find, in which a study never waits."""
    root = shutil.copytree(dataset_workspace, tmp_path / "workspace")
    monkeypatch.setenv("ICHX_WORKSPACE", str(root))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # so small a model is slower with more
    monkeypatch.setattr("ichx.jobs.scheduler.TICK_SECONDS", 0.001)
    monkeypatch.setattr("ichx.jobs.scheduler.FOLLOW_SECONDS", 0.0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield open_workspace(root)
    torch.set_num_threads(threads)


@pytest.fixture
def project(workspace: Workspace) -> Iterator[Project]:
    with open_store(workspace) as store:
        yield Project(workspace, store)


@pytest.fixture
def store(project: Project) -> Store:
    return project.store


@pytest.fixture
def parent(store: Store) -> Experiment:
    recipe = load_registry().get("tiny_byobnet").recipe
    short = [f"stage.{stage.name}.{value}" for stage in recipe.stage for value in ("epochs=1", "milestones=[]")]
    recipe = apply_settings(recipe, [*short, "input.size=64", "input.crop=0"])
    return store.add_experiments([draft(recipe, store.version("phantom"), name="short")])[0]


@pytest.fixture
def space(parent: Experiment) -> Space:
    return parse_space(SEARCHES, from_toml(parent.recipe))
