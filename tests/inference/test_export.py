"""Exported networks: the same predictions from HU, in other programs, at any batch, with all that one must know."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
from conftest import SHORT, clean_environment

from ichx.cache.build import find_cache
from ichx.cache.recipe_caches import recipe_spec
from ichx.datasets.dataset import load_dataset
from ichx.errors import InvalidInputError, StorageError, UnsupportedError
from ichx.evaluation.predictions import read_predictions
from ichx.experiments.callbacks import RunCallbacks
from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.experiments.run import run_experiment
from ichx.inference import export
from ichx.inference.export import ExportedNetwork, ExportRequest, export_experiment
from ichx.inference.export_slices import preprocessing, sample
from ichx.labels import LABELS
from ichx.plugins import load_registry
from ichx.project import Project
from ichx.recipe import InputRecipe
from ichx.recipe_text import from_toml
from ichx.store import Store, open_store
from ichx.training.run_options import RunOptions
from ichx.workspace import Workspace, open_workspace

pytestmark = pytest.mark.slow

Arrays = tuple[np.ndarray, np.ndarray]


@pytest.fixture
def trained(trained_root: Path) -> Iterator[tuple[Workspace, Store]]:
    workspace = open_workspace(trained_root)
    with open_store(workspace) as store:
        yield workspace, store


def exported(place: tuple[Workspace, Store], format: str, **options: Any) -> list[ExportedNetwork]:
    request = ExportRequest(format, **options)
    return export_experiment(Project(*place, load_registry()), 2, request, callbacks=RunCallbacks())


def onnx_runner(path: Path) -> Callable[[np.ndarray, np.ndarray], Arrays]:
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda hu, windows: tuple(session.run(["logits", "probabilities"], {"hu": hu, "windows": windows}))


def program_runner(path: Path) -> Callable[[np.ndarray, np.ndarray], Arrays]:
    module = torch.export.load(path).module()

    def run(hu: np.ndarray, windows: np.ndarray) -> Arrays:
        logits, probabilities = module(torch.from_numpy(hu), torch.from_numpy(windows))
        return logits.detach().numpy(), probabilities.detach().numpy()

    return run


@pytest.mark.parametrize(
    ("format", "suffix", "runner"), [("onnx", "onnx", onnx_runner), ("torch-export", "pt2", program_runner)]
)
def test_an_exported_fold_predicts_from_cached_hu_what_the_fold_predicted(
    trained: tuple[Workspace, Store],
    tmp_path: Path,
    format: str,
    suffix: str,
    runner: Callable[[Path], Callable[[np.ndarray, np.ndarray], Arrays]],
) -> None:
    if format == "onnx":
        pytest.importorskip("onnxruntime")
    workspace, store = trained
    (made,) = exported(trained, format, folds=[1], out=tmp_path / f"net.{suffix}")
    assert (made.fold, made.path, made.bytes) == (1, tmp_path / f"net.{suffix}", made.path.stat().st_size)
    assert made.difference <= 1e-6
    data = load_dataset(Project(workspace, store), "ph")
    cache = find_cache(workspace.cache_dir, "ph", data.slices, recipe_spec(from_toml(store.experiment(2).recipe)))
    assert cache is not None
    kept = read_predictions(workspace.experiment_dir(2) / "fold-1" / "oof-identity.parquet")
    rows = data.slices.reset_index().set_index("slice_id").loc[list(kept.slice_ids), "index"].to_numpy()
    windows = data.slices[["window_centre", "window_width"]].to_numpy(np.float32)[rows]
    hu = np.stack([cache.read(row) for row in rows.tolist()]).astype(np.float32)
    run = runner(made.path)
    for count in (1, 2, 17, len(rows)):
        logits, probabilities = run(hu[:count], windows[:count])
        np.testing.assert_allclose(logits, kept.logits[:count], rtol=0, atol=1e-4)
        np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-logits)), rtol=0, atol=1e-6)


def test_onnx_describes_inputs_and_outputs(trained: tuple[Workspace, Store], tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    exported(trained, "onnx", folds=[0], out=tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {
        "hu": ["batch", 32, 32],
        "windows": ["batch", 2],
        "logits": ["batch", 6],
        "probabilities": ["batch", 6],
    }
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(metadata["labels"]) == list(LABELS)
    assert json.loads(metadata["size"]) == 32
    assert metadata["recipe"] == trained[1].experiment(2).recipe
    assert any("Hounsfield" in step for step in json.loads(metadata["preprocessing"]))


def test_a_torch_export_has_the_same_description(trained: tuple[Workspace, Store], tmp_path: Path) -> None:
    exported(trained, "torch-export", folds=[0], out=tmp_path / "net.pt2")
    extra = {"ichx.json": ""}
    torch.export.load(tmp_path / "net.pt2", extra_files=extra)
    metadata = json.loads(extra["ichx.json"])
    assert (metadata["labels"], metadata["experiment"], metadata["fold"]) == (list(LABELS), 2, 0)


def test_exported_weights_have_their_recipe_and_start_another_experiment(trained_copy: Path, tmp_path: Path) -> None:
    workspace, registry = open_workspace(trained_copy), load_registry()
    with open_store(workspace) as store:
        (made,) = exported((workspace, store), "safetensors", folds=[0], out=tmp_path / "net.safetensors")
        with safetensors.safe_open(made.path, "pt") as file:
            metadata, names = file.metadata(), list(file.keys())
        recipe = from_toml(metadata["recipe"])
        assert (recipe.plugin, metadata["plugin"], json.loads(metadata["labels"])) == (
            "tiny_efficientnet",
            "tiny_efficientnet",
            list(LABELS),
        )
        new = new_experiment(
            store, registry, ExperimentRequest(plugin=recipe.plugin, size=recipe.input.size, settings=SHORT)
        )
        notes: list[str] = []

        class Notes(RunCallbacks):
            def note(self, message: str) -> None:
                notes.append(message)

        options = RunOptions(weights=made.path)
        run_experiment(Project(workspace, store, registry), new.number, folds=[0], options=options, callbacks=Notes())
        assert notes == [f"net.safetensors: {len(names)} of {len(names)} tensors loaded"]


def test_each_fold_is_one_file(trained_copy: Path, tmp_path: Path) -> None:
    workspace = open_workspace(trained_copy)
    with open_store(workspace) as store:
        home = exported((workspace, store), "safetensors")
        named = exported((workspace, store), "safetensors", out=tmp_path / "mine" / "net.safetensors")
    folder = workspace.experiment_dir(2) / "export"
    assert [f.path for f in home] == [folder / f"experiment-2-fold-{fold}.safetensors" for fold in (0, 1)]
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == [f.path.name for f in named]
    assert [f.path.name for f in named] == ["net-fold-0.safetensors", "net-fold-1.safetensors"]


def test_an_export_with_other_predictions_is_not_written(
    trained: tuple[Workspace, Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    (tmp_path / "net.safetensors").write_text("an earlier file")
    with pytest.raises(UnsupportedError, match="fold 0 as safetensors"):
        exported(trained, "safetensors", folds=[0], out=tmp_path / "net.safetensors")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["an earlier file"]


def test_an_unwritable_file_is_found_before_any_network_is_exported(
    trained: tuple[Workspace, Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[object] = []
    monkeypatch.setattr(export, "_export", lambda *arguments: done.append(arguments))
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file/net-fold-0\.safetensors"):
        exported(trained, "safetensors", out=tmp_path / "file" / "net.safetensors")
    (tmp_path / "net-fold-1.safetensors").mkdir()
    with pytest.raises(InvalidInputError, match=r"net-fold-1\.safetensors"):
        exported(trained, "safetensors", out=tmp_path / "net.safetensors")
    assert done == []


def test_invalid_requests(trained: tuple[Workspace, Store], tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="tflite"):
        exported(trained, "tflite")
    with pytest.raises(InvalidInputError, match="net.pt"):
        exported(trained, "onnx", out=tmp_path / "net.pt")


WITHOUT_ONNX = """
import sys
sys.modules["onnxscript"] = None
from ichx.cli.app import main
sys.argv = ["ichx", "export", "2"]
main()
"""


def test_missing_libraries_are_named_with_their_installation(trained_root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_ONNX], cwd=trained_root, env=clean_environment(), capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "onnxscript" in done.stderr
    assert "pip install 'ichx[export]'" in done.stderr


def test_preprocessing_follows_the_recipe() -> None:
    plain = preprocessing(InputRecipe(size=378, centre="none", resize="area"))
    assert not any("centroid" in step or "crop" in step for step in plain)
    assert "resize to 378 x 378, area (as OpenCV does), rounded to whole HU" in plain
    cropped = preprocessing(InputRecipe(size=256, crop=224, centre="series"))
    assert "crop the middle 224 x 224" in cropped
    assert any("median over the slices of the series" in step for step in cropped)
    hu, windows = sample(InputRecipe(size=256, crop=224))
    assert (hu.shape, windows.shape) == ((5, 224, 224), (5, 2))
    assert hu.min() < -900
    assert hu.max() > 500
