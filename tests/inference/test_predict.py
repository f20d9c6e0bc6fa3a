"""Files of no dataset: their slices go the way that training's went, and nothing of them vanishes."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import SHORT, clean_environment
from dicom_files import write_ct
from zip_files import zip_folder

from ichx.cache.build import ensure_cache
from ichx.cache.hu_cache import Cache
from ichx.cache.recipe_caches import recipe_spec
from ichx.datasets.catalog import build_catalog, usable_slices
from ichx.datasets.dataset import load_dataset, load_version
from ichx.datasets.ingest import scan_source
from ichx.errors import (
    ChangedDataError,
    IchxError,
    InvalidInputError,
    NotFoundError,
    NotReadyError,
    UnsupportedError,
)
from ichx.evaluation.choices import Average, Tta
from ichx.evaluation.ensemble_submissions import predict_test
from ichx.evaluation.feature_files import read_features
from ichx.evaluation.metric import probabilities
from ichx.evaluation.predictions import read_predictions
from ichx.experiments.callbacks import RunCallbacks
from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.experiments.run import run_experiment
from ichx.inference import member_predictions as inference
from ichx.inference.export import ExportRequest, export_experiment
from ichx.inference.member_predictions import split_at_series
from ichx.inference.predict import FileOutputs, FilePredictions, predict_files
from ichx.inference.ready_model import ready_experiment
from ichx.inference.scratch import PREFIX, scratch_folder
from ichx.inference.trained import InferenceOptions, find_trained, open_networks, training_warnings
from ichx.labels import LABELS
from ichx.phantom.dicom_files import PhantomFiles
from ichx.plugins import load_registry
from ichx.project import Project
from ichx.recipe_text import from_toml
from ichx.store import Store, open_store
from ichx.training.run_options import RunOptions
from ichx.training.weights import load_exactly
from ichx.workspace import Workspace, open_workspace

pytestmark = pytest.mark.slow

Place = tuple[Workspace, Store]


class Notes(RunCallbacks):
    """Keeps the events."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def own_scratch_folders(place: Place) -> list[Path]:
    """Return the scratch folders of this process: other workers of the suite may have some in a shared workspace."""
    return list(place[0].cache_dir.glob(f"{PREFIX}{os.getpid()}-*"))


@pytest.fixture
def trained(trained_root: Path) -> Iterator[Place]:
    workspace = open_workspace(trained_root)
    with open_store(workspace) as store:
        yield workspace, store


def predicted(
    place: Place, source: Path, number: int = 2, features: Path | None = None, **options: Any
) -> FilePredictions:
    project = Project(*place, load_registry())
    model = ready_experiment(project, number, InferenceOptions(**options), print)
    found = predict_files(project, model, source, callbacks=RunCallbacks(), outputs=FileOutputs(features=features))
    assert not own_scratch_folders(place)
    return found


def by_id(found: FilePredictions) -> pd.DataFrame:
    return found.slices[found.slices["defect"].isna()].set_index("slice_id")[list(LABELS)]


@pytest.mark.parametrize("fold", [0, 1])
@pytest.mark.parametrize("view", ["none", "hflip"])
def test_a_fold_predicts_its_part_of_the_training_files_as_it_did_out_of_fold(
    trained: Place, phantom: PhantomFiles, fold: int, view: str
) -> None:
    """Not to the bit: slices stand in other batches, and a batch of another size is summed in another order."""
    found = by_id(predicted(trained, phantom.train, folds=[fold], tta=view))
    workspace, _ = trained
    folder = workspace.experiment_dir(2) / f"fold-{fold}"
    names = ["identity"] if view == "none" else ["identity", "hflip"]
    kept = [read_predictions(folder / f"oof-{name}.parquet") for name in names]
    expected = probabilities(np.mean([one.logits for one in kept], axis=0, dtype=np.float64))
    assert len(found) > len(expected) > 50
    np.testing.assert_allclose(found.loc[list(kept[0].slice_ids)], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("centre", ["none", "slice", "series"])
def test_pixels_of_a_chunk_equal_those_of_the_training_cache(
    trained: Place, phantom: PhantomFiles, tmp_path: Path, centre: str
) -> None:
    """To the bit, with a series' centre as well: a portion holds whole series."""
    workspace, store = trained
    data = load_dataset(Project(workspace, store), "ph")
    spec = recipe_spec(from_toml(store.experiment(2).recipe))
    spec = type(spec)(spec.size, centre, spec.resize)
    whole = ensure_cache(tmp_path / "whole", "ph", data.source, data.slices, spec)
    catalog, _ = build_catalog(scan_source(phantom.train), workspace.privacy_key())
    slices = usable_slices(catalog)
    assert slices["slice_id"].tolist() == data.slices["slice_id"].tolist()
    parts = list(split_at_series(slices, 70))
    assert len(parts) > 2
    for start, stop in parts:
        part = slices.iloc[start:stop].reset_index(drop=True)
        cache: Cache = ensure_cache(tmp_path / "part", "files", phantom.train, part, spec)
        for row in range(stop - start):
            np.testing.assert_array_equal(cache.read(row), whole.read(start + row))


def test_chunks_are_complete_series() -> None:
    slices = pd.DataFrame({"study": "s", "series": [*"aaabbcdddddddde"]})
    assert list(split_at_series(slices, 4)) == [(0, 3), (3, 6), (6, 14), (14, 15)]
    assert list(split_at_series(slices, 100)) == [(0, 15)]
    assert list(split_at_series(slices.iloc[:0], 4)) == []
    assert list(split_at_series(pd.DataFrame({"study": [*"aabb"], "series": "x"}), 1)) == [(0, 2), (2, 4)]
    # a series that stands at two places is never cut
    assert list(split_at_series(pd.DataFrame({"study": "s", "series": [*"abacc"]}), 1)) == [(0, 3), (3, 5)]


def test_chunks_do_not_change_the_result(
    trained: Place, phantom: PhantomFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert phantom.test is not None
    whole = predicted(trained, phantom.test, tta="hflip")
    monkeypatch.setattr(inference, "CHUNK", 1)
    parted = predicted(trained, phantom.test, tta="hflip")
    pd.testing.assert_frame_equal(parted.slices, whole.slices, rtol=0, atol=1e-6)
    pd.testing.assert_frame_equal(parted.studies, whole.studies, rtol=0, atol=1e-6)


def test_files_of_a_test_set_get_what_the_run_predicted_for_it(trained: Place, phantom: PhantomFiles) -> None:
    workspace, store = trained
    assert phantom.test is not None
    cases: list[tuple[Tta, Average]] = [("none", "logit"), ("hflip", "logit"), ("hflip", "probability")]
    for tta, average in cases:
        ids, expected = predict_test(
            Project(workspace, store), store.experiment(2), store.version("ph-test"), tta, average=average
        )
        found = predicted(trained, phantom.test, tta=tta, average=average)
        assert (found.folds, found.predicted, found.defects) == ((0, 1), len(ids), {})
        np.testing.assert_allclose(by_id(found).loc[list(ids)], expected, rtol=0, atol=1e-6)


def test_a_study_is_as_suspicious_as_its_most_suspicious_slice(trained: Place, phantom: PhantomFiles) -> None:
    assert phantom.test is not None
    found = predicted(trained, phantom.test)
    catalog = load_dataset(Project(*trained), "ph-test").slices.set_index("slice_id")
    assert found.studies["study"].tolist() == list(dict.fromkeys(found.slices["study"]))
    for study in found.studies.to_dict("records"):
        slices = found.slices[found.slices["study"] == study["study"]].reset_index(drop=True)
        assert (study["slices"], study["left_out"]) == (len(slices), 0)
        for label in LABELS:
            assert study[label] == slices[label].max()
        most = slices.iloc[int(slices["any"].to_numpy().argmax())]
        assert study["suspicious_slice_id"] == most["slice_id"]
        assert study["suspicious_order"] == most["order"]
        for _, row in slices.iterrows():
            known = catalog.loc[row["slice_id"]]
            assert (row["patient"], row["series"], row["order"]) == (known["patient"], known["series"], known["order"])
            assert row["position"] == known["position"]


def test_a_zip_a_folder_in_it_and_a_file_alone(trained: Place, phantom: PhantomFiles, tmp_path: Path) -> None:
    assert phantom.test is not None
    plain = predicted(trained, phantom.test)
    archive = zip_folder(phantom.test, tmp_path / "a.zip", "new/")
    for source in (archive, archive / "new"):
        packed = predicted(trained, source)
        columns = [name for name in packed.slices if name != "file"]
        pd.testing.assert_frame_equal(packed.slices[columns], plain.slices[columns])
    name = plain.slices["slice_id"][3]
    alone = predicted(trained, phantom.test / f"{name}.dcm")
    assert alone.slices["slice_id"].tolist() == [name]
    np.testing.assert_allclose(by_id(alone), by_id(plain).loc[[name]], rtol=0, atol=1e-6)


def test_unusable_files_are_listed_with_their_reason(trained: Place, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    for name in ("a", "b"):
        write_ct(folder / f"{name}.dcm")
    write_ct(folder / "c.dcm", stored=np.full((32, 32), 7, np.uint16))  # only decoding shows it
    write_ct(folder / "d.dcm", SOPInstanceUID="ID_a")
    write_ct(folder / "e.dcm", Modality="MR")
    (folder / "notes.txt").write_text("two heads")
    found = predicted(trained, folder)
    rows = found.slices.set_index("file")
    defects = {file: None if pd.isna(reason) else reason for file, reason in rows["defect"].items()}
    assert defects == {
        "a.dcm": None,
        "b.dcm": None,
        "c.dcm": "constant_image",
        "d.dcm": "duplicate_instance",
        "e.dcm": "not_ct",
        "notes.txt": "not_dicom",
    }
    empty = rows.loc[["c.dcm", "d.dcm", "e.dcm", "notes.txt"], list(LABELS)]
    assert empty.isna().all(axis=None)
    assert rows.loc[["a.dcm", "b.dcm"], list(LABELS)].notna().all(axis=None)
    assert found.defects == {"constant_image": 1, "duplicate_instance": 1, "not_ct": 1, "not_dicom": 1}
    assert found.predicted == 2
    (study,) = found.studies.to_dict("records")
    assert (study["slices"], study["left_out"]) == (5, 3)


def test_a_source_without_readable_slices_is_an_error(trained: Place, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "none/notes.txt").write_text("no head")
    write_ct(tmp_path / "flat/a.dcm", stored=np.full((32, 32), 7, np.uint16))
    for folder, problem in (("none", "none"), ("flat", r"constant_image \(1\)")):
        with pytest.raises(IchxError, match=problem):
            predicted(trained, tmp_path / folder)
    assert not own_scratch_folders(trained)


@pytest.fixture(scope="module")
def half_root(trained_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the trained workspace whose experiment 4 trained one fold in bf16, with a test set."""
    root = Path(shutil.copytree(trained_root, tmp_path_factory.mktemp("half") / "workspace"))
    workspace, registry = open_workspace(root), load_registry()
    with open_store(workspace) as store:
        request = ExperimentRequest(plugin="tiny_fine", size=32, settings=(*SHORT[:-1], "precision=bf16"))
        number = new_experiment(store, registry, request).number
        run_experiment(Project(workspace, store, registry), number, folds=[0], options=RunOptions(device="cpu"))
        assert number == 4
    return root


def test_a_cpu_predicts_in_fp32_by_default(half_root: Path, phantom: PhantomFiles, tmp_path: Path) -> None:
    """Predictions equal the exported network's, which is in fp32, although the training was in bf16."""
    runtime = pytest.importorskip("onnxruntime")
    workspace, registry = open_workspace(half_root), load_registry()
    assert phantom.test is not None
    with open_store(workspace) as store:
        project = Project(workspace, store, registry)
        default, half = (
            predicted((workspace, store), phantom.test, 4, device="cpu", precision=precision)
            for precision in ("auto", "bf16")
        )
        export_experiment(project, 4, ExportRequest("onnx", out=tmp_path / "net.onnx"), callbacks=RunCallbacks())
        recipe = from_toml(store.experiment(4).recipe)
        data = load_dataset(project, "ph-test")
        kept = read_predictions(
            next(workspace.root / p.path for p in store.predictions(4, role="test", view="identity"))
        )
    cache = ensure_cache(tmp_path / "cache", "ph-test", data.source, data.slices, recipe_spec(recipe))
    hu = np.stack([cache.read(row) for row in range(len(data.slices))]).astype(np.float32)
    session = runtime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    windows = data.slices[["window_centre", "window_width"]].to_numpy(np.float32)
    (exported,) = session.run(["probabilities"], {"hu": hu, "windows": windows})
    ids = data.slices["slice_id"].tolist()
    np.testing.assert_allclose(by_id(default).loc[ids], exported, rtol=0, atol=1e-5)
    assert np.abs(by_id(half).loc[ids].to_numpy() - exported).max() > 1e-5
    np.testing.assert_allclose(by_id(half).loc[list(kept.slice_ids)], probabilities(kept.logits), rtol=0, atol=2e-3)
    assert (default.precision, half.precision) == ("fp32", "bf16")


def test_a_cpu_predicts_what_was_trained_in_fp16(trained: Place, phantom: PhantomFiles) -> None:
    assert phantom.test is not None
    workspace, store = trained
    registry = load_registry()
    found = find_trained(Project(workspace, store, registry), 2)
    half = replace(found, recipe=replace(found.recipe, precision="fp16"))
    with open_networks(half, InferenceOptions(device="cpu"), lambda note: None) as networks:
        assert networks.hardware.precision == "fp32"
    with (
        pytest.raises(UnsupportedError, match="fp16"),
        open_networks(half, InferenceOptions(device="cpu", precision="fp16"), lambda note: None),
    ):
        pass


def test_folds_that_cannot_predict(trained_copy: Path, phantom: PhantomFiles) -> None:
    workspace = open_workspace(trained_copy)
    registry = load_registry()
    assert phantom.test is not None
    with open_store(workspace) as store:
        place = workspace, store
        new = new_experiment(store, registry, ExperimentRequest(plugin="tiny_resnet", size=32, settings=SHORT)).number
        with pytest.raises(NotReadyError, match=str(new)) as caught:
            predicted(place, phantom.test, new)
        assert f"ichx run {new}" in caught.value.remedy
        run_experiment(Project(workspace, store, registry), new, folds=[1])
        with pytest.raises(NotReadyError, match=f"0 of experiment {new}"):
            predicted(place, phantom.test, new, folds=[0])
        with pytest.raises(NotFoundError, match="2"):
            predicted(place, phantom.test, new, folds=[2])
        watch = Notes()
        project = Project(workspace, store, registry)
        model = ready_experiment(project, new, None, watch.note)
        found = predict_files(project, model, phantom.test, callbacks=watch)
        assert found.folds == (1,)
        assert f"experiment {new} predicts with 1 of 2 folds: 1" in watch.notes
        weights = workspace.experiment_dir(new) / "fold-1" / "weights.safetensors"
        weights.unlink()
        with pytest.raises(ChangedDataError, match=str(weights)):
            predicted(place, phantom.test, new)
        with pytest.raises(InvalidInputError, match="vflip"):
            predicted(place, phantom.test, 1, tta="vflip")


@pytest.mark.parametrize("plugin", ["tiny_resnet", "tiny_fine"])
def test_features_are_the_input_of_the_last_layer(
    trained_copy: Path, phantom: PhantomFiles, tmp_path: Path, plugin: str
) -> None:
    workspace, registry = open_workspace(trained_copy), load_registry()
    assert phantom.test is not None
    with open_store(workspace) as store:
        made = new_experiment(store, registry, ExperimentRequest(plugin=plugin, size=32, settings=SHORT))
        run_experiment(Project(workspace, store, registry), made.number, folds=[0])
        beside = tmp_path / "new.csv"
        found = predicted((workspace, store), phantom.test, made.number, tta="hflip", features=beside)
    model = registry.get(plugin).build(from_toml(made.recipe), False)
    load_exactly(model, workspace.experiment_dir(made.number) / "fold-0" / "weights.safetensors")
    head: Any = model.get_classifier()  # type: ignore[operator]
    weight, bias = head.weight.detach().numpy(), head.bias.detach().numpy()
    of_views = []
    for view in ("identity", "hflip"):
        features = read_features(tmp_path / f"new-fold-0-{view}-features.parquet")
        assert features.values.dtype == np.float16
        assert features.values.shape == (found.predicted, weight.shape[1])
        assert features.slice_ids.tolist() == by_id(found).index.tolist()
        of_views.append(probabilities(features.values.astype(np.float32) @ weight.T + bias))
    np.testing.assert_allclose(np.mean(of_views, axis=0), by_id(found), rtol=0, atol=2e-3)


KILLED = """
import os, signal, sys
from pathlib import Path
from ichx.inference.scratch import scratch_folder
with scratch_folder(Path(sys.argv[1])) as folder:
    (folder / "00000.shard").write_bytes(bytes(1000))
    print(folder, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_files_of_a_killed_process_are_removed_by_the_next(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], env=clean_environment(), capture_output=True, text=True
    )
    left = Path(done.stdout.strip())
    assert (left / "00000.shard").exists()
    with scratch_folder(tmp_path) as first:
        assert not left.exists()
        with scratch_folder(tmp_path) as second:
            assert first.exists(), "its process lives"
            assert first != second
    assert not list(tmp_path.iterdir())


def test_an_error_removes_the_scratch_folder_too(trained: Place, phantom: PhantomFiles, tmp_path: Path) -> None:
    """Files that are gone after their headers were read."""
    assert phantom.test is not None
    shutil.copytree(phantom.test, tmp_path / "files")

    class Removing(RunCallbacks):
        def note(self, message: str) -> None:
            for file in (tmp_path / "files").iterdir():
                file.unlink()

    project, watch = Project(*trained, load_registry()), Removing()
    with pytest.raises(IchxError, match=str(tmp_path)):
        predict_files(project, ready_experiment(project, 2, None, watch.note), tmp_path / "files", callbacks=watch)
    assert not own_scratch_folders(trained)


def test_slices_of_the_training_are_counted(project: Project, phantom: PhantomFiles) -> None:
    experiment = project.store.experiment(1)
    slices = load_version(project.workspace, project.store.version("ph")).slices
    (warning,) = training_warnings(project, experiment, slices.iloc[5:15])
    assert "10 of 10 slices" in warning
    assert str(slices["slice_id"].iloc[5]) in warning
    mixed = slices.iloc[:3].assign(slice_id=["new-1", slices["slice_id"].iloc[1], "new-2"])
    assert "1 of 3 slices" in training_warnings(project, experiment, mixed)[0]
    test = load_version(project.workspace, project.store.version("ph-test")).slices
    assert training_warnings(project, experiment, test) == []
