"""Feature tables: their values, and what happens if their computation is interrupted or their weights change."""

import json
import shutil
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from ichx.datasets.dataset import load_version
from ichx.errors import NotReadyError, StorageError, UnsupportedError
from ichx.evaluation.feature_files import features_file, read_features
from ichx.evaluation.feature_tables import FeatureTable, manifest_path, table_bytes
from ichx.experiments.member_features import TableRequest, ensure_tables, find_table, plan_tables
from ichx.experiments.run import run_experiment
from ichx.files import sha256_file
from ichx.locks import file_lock
from ichx.plugins import Registry
from ichx.project import Project
from ichx.training.callbacks import Callbacks
from ichx.training.run_options import RunOptions
from ichx.training.stop_request import RunStopped, StopRequest

pytestmark = pytest.mark.slow


class Notes(Callbacks):
    """Keeps notes and the number of rows when phases were reported; may request a stop."""

    def __init__(self, stop: StopRequest | None = None) -> None:
        self.notes, self.done, self.stop = list[str](), list[int](), stop

    def note(self, message: str) -> None:
        self.notes.append(message)

    def phase(self, name: str, done: int, total: int) -> None:
        self.done.append(done)
        if self.stop is not None and name.startswith("features"):
            self.stop.signal = 15


def request(project: Project, experiment: int = 1, fold: int = 0, dataset: str = "ph") -> TableRequest:
    return TableRequest(experiment, fold, project.store.version(dataset).id)


def table(project: Project, wanted: TableRequest) -> FeatureTable:
    return ensure_tables(project, [wanted])[wanted]


def test_tables_have_the_features_of_all_slices(project: Project) -> None:
    run_experiment(project, 1, folds=[0], options=RunOptions(save_features=True))
    for dataset, role in (("ph", "oof"), ("ph-test", "test")):
        wanted = request(project, dataset=dataset)
        found = table(project, wanted)
        slices = load_version(project.workspace, project.store.version(dataset)).slices
        values = found.open()
        assert values.shape == (len(slices), found.width)
        [prediction] = [p for p in project.store.predictions(1, role=role, view="identity") if p.fold == 0]
        saved = read_features(features_file(project.workspace.root / prediction.path))
        rows = pd.Index(slices["slice_id"]).get_indexer(pd.Index(saved.slice_ids))
        # Other batches than in the run: the last digit of float16 may differ.
        np.testing.assert_allclose(values[rows].astype(float), saved.values.astype(float), rtol=2e-3, atol=2e-3)
        assert np.abs(values[found.valid]).max(axis=1).min() > 0  # the training rows too
        assert found.digest == sha256_file(found.path)
        [record] = [t for t in project.store.feature_tables(1) if t.version_id == wanted.version_id]
        assert (record.slices, record.width, record.digest) == (len(slices), found.width, found.digest)
        assert project.workspace.root / record.path == found.path
    assert plan_tables(project, [wanted]).missing == {}


def test_an_interrupted_table_equals_one_that_was_not(project: Project) -> None:
    wanted = request(project)
    complete = table(project, wanted)
    before, folder = complete.path.read_bytes(), complete.path.parent
    shutil.rmtree(folder)
    stop = StopRequest()
    with pytest.raises(RunStopped):
        ensure_tables(project, [wanted], callbacks=Notes(stop), stop=stop)
    assert not complete.path.exists()
    assert find_table(project, wanted) is None
    done = json.loads(complete.path.with_suffix(".progress").read_text())["done"]
    assert 0 < done < complete.valid.sum()
    notes = Notes()
    again = ensure_tables(project, [wanted], callbacks=notes)[wanted]
    assert again.path.read_bytes() == before
    assert min(notes.done) > done // 64 * 64
    assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".lock", ".npy"]


def test_a_table_of_other_weights_is_computed_again(project: Project) -> None:
    wanted = request(project)
    first = table(project, wanted)
    weights = project.workspace.experiment_files(1).fold(0).weights
    shutil.copy(project.workspace.experiment_files(1).fold(1).weights, weights)
    assert find_table(project, wanted) is None
    second = table(project, wanted)
    assert second.digest != first.digest
    assert second.source == replace(first.source, weights=sha256_file(weights))
    assert [t.digest for t in project.store.feature_tables(1)] == [second.digest]
    weights.unlink()
    with pytest.raises(NotReadyError, match="Fold 0 of experiment 1"):
        plan_tables(project, [wanted])


def test_a_table_of_another_precision_is_computed_again(project: Project) -> None:
    wanted = request(project)
    first = table(project, wanted)
    manifest = json.loads(manifest_path(first.path).read_text())
    assert manifest["source"]["precision"] == "fp32"
    manifest["source"]["precision"] = "bf16"
    manifest_path(first.path).write_text(json.dumps(manifest))
    assert find_table(project, wanted) is None
    assert list(plan_tables(project, [wanted]).missing) == [wanted]
    assert table(project, wanted) == first


def test_a_table_that_another_process_computes_is_waited_for_last(project: Project) -> None:
    first, second = request(project), request(project, fold=1)
    complete = table(project, first)
    digest = complete.digest
    kept = complete.path.read_bytes(), manifest_path(complete.path).read_bytes()
    complete.path.unlink()
    notes = Notes()
    with file_lock(complete.path.with_suffix(".lock")) as _:
        thread = threading.Thread(target=ensure_tables, args=(project, [first, second]), kwargs={"callbacks": notes})
        thread.start()
        while find_table(project, second) is None:
            assert thread.is_alive()
        assert not complete.path.with_suffix(".part").exists()
        manifest_path(complete.path).write_bytes(kept[1])
        complete.path.write_bytes(kept[0])
    thread.join()
    assert find_table(project, first) is not None
    assert {t.fold: t.digest for t in project.store.feature_tables(1)}[0] == digest
    assert notes.notes[0].startswith("2 feature tables")


def test_the_size_is_compared_with_the_disk_before_anything_is_computed(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [request(project, fold=fold) for fold in (0, 1)]
    plan = plan_tables(project, requests)
    [(slices, width)] = set(plan.missing.values())
    assert (slices, plan.nbytes) == (project.store.version("ph").slices, 2 * table_bytes(slices, width))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=plan.nbytes - 1))
    with pytest.raises(StorageError, match=f"{slices:,} x {width:,}"):
        ensure_tables(project, requests)
    assert not project.workspace.experiment_files(1).features_folder.exists()


class Closed(nn.Module):
    """A network that does not name its last layer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)).repeat(1, 2)


def test_a_network_without_pooled_features_is_refused(project: Project) -> None:
    plugin = replace(project.registry.get("tiny_resnet"), build=lambda recipe, pretrained: Closed())
    closed = Project(project.workspace, project.store, Registry({"tiny_resnet": plugin}, ()))
    with pytest.raises(UnsupportedError, match="Closed"):
        plan_tables(closed, [request(closed)])
