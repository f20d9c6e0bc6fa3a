"""`--save features`: beside each prediction of a run the pooled features of the same pass, or of a later one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SHORT
from torch import nn

from ichx.errors import ChangedDataError, CorruptFileError, UnsupportedError
from ichx.evaluation.feature_files import Features, features_file, read_features
from ichx.evaluation.predictions import read_predictions
from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.experiments.run import run_experiment
from ichx.plugins import Registry, load_registry
from ichx.project import Project
from ichx.recipe import Recipe
from ichx.store import Experiment, Store, open_store
from ichx.training.run_options import RunOptions
from ichx.workspace import Workspace, open_workspace

pytestmark = pytest.mark.slow

SAVING = RunOptions(save_features=True)


def kept(workspace: Workspace, store: Store, experiment: Experiment) -> dict[str, Features]:
    """Return the features by the prediction they stand beside, after a look at their slice ids."""
    found = {}
    for prediction in store.predictions(experiment.number):
        path = workspace.root / prediction.path
        features = read_features(features_file(path))
        assert features.slice_ids.tolist() == read_predictions(path).slice_ids.tolist()
        assert np.isfinite(features.values).all()
        found[prediction.path] = features
    return found


def test_features_saved_by_a_run_equal_those_saved_later(dataset_copy: Path) -> None:
    workspace, registry = open_workspace(dataset_copy), load_registry()
    with open_store(workspace) as store:
        first, second = (
            new_experiment(store, registry, ExperimentRequest(plugin="tiny_fine_thin", size=32, settings=SHORT))
            for _ in range(2)
        )
        run_experiment(Project(workspace, store, registry), first.number, options=SAVING)
        at_once = kept(workspace, store, first)
        assert len(at_once) == 8  # OOF and test set, two views, two folds
        assert {features.values.shape[1] for features in at_once.values()} == {96}

        run_experiment(Project(workspace, store, registry), second.number)
        assert not list(workspace.experiment_dir(second.number).rglob("*features*"))
        before = [(p.path, p.digest) for p in store.predictions(second.number)]
        report = run_experiment(Project(workspace, store, registry), second.number, options=SAVING)
        assert report.trained == ()
        assert [(p.path, p.digest) for p in store.predictions(second.number)] == before
        later = kept(workspace, store, second)
        for path, features in at_once.items():
            same = later[path.replace("experiments/1/", "experiments/2/", 1)]
            np.testing.assert_array_equal(same.values, features.values)
        # The predictions are what they would have been without.
        for prediction in store.predictions(first.number):
            path = workspace.root / prediction.path
            twin = workspace.root / prediction.path.replace("experiments/1/", "experiments/2/", 1)
            np.testing.assert_array_equal(read_predictions(path).logits, read_predictions(twin).logits)
        runs = len(store.runs(second.number))
        run_experiment(Project(workspace, store, registry), second.number, options=SAVING)
        assert len(store.runs(second.number)) == runs, "nothing is left to do"


class Closed(nn.Module):
    """A network that does not say what its last layer is."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(x.mean((2, 3)))
        return logits


def build_closed(recipe: Recipe, pretrained: bool) -> nn.Module:
    return Closed()


def test_a_network_without_a_last_layer_is_refused_before_it_is_trained(dataset_copy: Path) -> None:
    workspace, registry = open_workspace(dataset_copy), load_registry()
    closed = Registry({"tiny_fine": replace(registry.get("tiny_fine"), build=build_closed)}, ())
    with open_store(workspace) as store:
        made = new_experiment(store, closed, ExperimentRequest(plugin="tiny_fine", size=32, settings=SHORT))
        with pytest.raises(UnsupportedError, match="Closed"):
            run_experiment(Project(workspace, store, closed), made.number, options=SAVING)
        assert store.history(made.number, 0) == []
        assert run_experiment(Project(workspace, store, closed), made.number).trained == (0, 1)


def test_invalid_feature_files(tmp_path: Path) -> None:
    with pytest.raises(ChangedDataError, match=r"absent\.parquet"):
        read_features(tmp_path / "absent.parquet")
    (tmp_path / "text.parquet").write_text("features")
    with pytest.raises(CorruptFileError, match=r"text\.parquet"):
        read_features(tmp_path / "text.parquet")
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(CorruptFileError, match=r"folder\.parquet"):
        read_features(tmp_path / "folder.parquet")
