"""A run with views, averages and sampling other than the defaults, and the commands that read its predictions."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors
from conftest import SHORT, Program

from ichx.datasets.dataset import load_version
from ichx.evaluation.ensemble_file import read_model
from ichx.evaluation.metric import score
from ichx.evaluation.predictions import read_predictions
from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.experiments.run import run_experiment
from ichx.labels import LABELS
from ichx.phantom.dicom_files import PhantomFiles
from ichx.plugins import load_registry
from ichx.project import Project
from ichx.store import open_store
from ichx.training.run_options import RunOptions
from ichx.workspace import open_workspace

VIEWS = ("identity", "hflip", "right2", "scale110")
SETTINGS = (
    f"prediction.views={json.dumps(VIEWS)}",
    "prediction.average_last=2",
    "accumulate=2",
    "augmentation.policy=each",
    "augmentation.crop_area=0.3",
    "augmentation.gamma=0.5",
    "stage.balanced.epochs=1",
    "stage.rebalanced.epochs=1",
    "stage.balanced.prior_correction=true",
    "stage.rebalanced.sampling=labels",
    "stage.full.sampling=studies",
    "stage.full.per_study=3",
    "stage.full.epochs=2",
    "precision=fp32",
)


@pytest.fixture(scope="module")
def run_root(dataset_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a workspace with one finished experiment, to be read only."""
    root = Path(shutil.copytree(dataset_root, tmp_path_factory.mktemp("views") / "workspace"))
    workspace, registry = open_workspace(root), load_registry()
    with open_store(workspace) as store:
        request = ExperimentRequest(plugin="tiny_resnet", size=32, settings=SETTINGS)
        number = new_experiment(store, registry, request).number
        run_experiment(Project(workspace, store, registry), number, options=RunOptions(device="cpu", workers=0))
    return root


@pytest.fixture
def root(run_root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run_root, tmp_path / "workspace"))


def logits(root: Path, fold: int, name: str) -> np.ndarray:
    return read_predictions(root / "experiments" / "1" / f"fold-{fold}" / f"{name}.parquet").logits.astype(np.float64)


def test_every_view_is_predicted_and_averaged(root: Path, ichx: Program) -> None:
    found = {view: logits(root, 0, f"oof-{view}") for view in VIEWS}
    assert len({values.tobytes() for values in found.values()}) == 4
    scores = {}
    for tta, views in (("none", VIEWS[:1]), ("hflip", VIEWS[:2]), ("all", VIEWS)):
        card = json.loads(ichx("scores", 1, "--tta", tta, "--json", cwd=root).out)
        table = [read_oof_of(root, views, fold) for fold in (0, 1)]
        assert card["slices"]["scores"]["log_loss"] == pytest.approx(pooled(root, table), rel=1e-9)
        scores[tta] = card["slices"]["scores"]["log_loss"]
    assert len(set(scores.values())) == 3
    shown = ichx("exp", "show", 1, cwd=root)
    assert "with 4 views" in shown.out
    with open_store(open_workspace(root)) as store:
        assert store.experiment(1).score_tta == pytest.approx(scores["all"], rel=1e-12)
    assert ichx("audit", 1, cwd=root).code == 0, "the recorded score of all views is recomputed"


def read_oof_of(root: Path, views: tuple[str, ...], fold: int) -> pd.DataFrame:
    path = root / "experiments" / "1" / f"fold-{fold}" / "oof-identity.parquet"
    mean = np.mean([logits(root, fold, f"oof-{view}") for view in views], axis=0)
    return pd.DataFrame(1 / (1 + np.exp(-mean)), index=list(read_predictions(path).slice_ids), columns=list(LABELS))


def pooled(root: Path, tables: list[pd.DataFrame]) -> float:
    workspace = open_workspace(root)
    with open_store(workspace) as store:
        slices = load_version(workspace, store.version("ph")).slices.set_index("slice_id")
    table = pd.concat(tables)
    return score(slices.loc[table.index, list(LABELS)].to_numpy(np.float64), table.to_numpy())


def test_new_files_get_the_predictions_of_the_test_set(
    root: Path, phantom: PhantomFiles, ichx: Program, tmp_path: Path
) -> None:
    done = ichx("predict", 1, phantom.test, "--tta", "all", "--device", "cpu", "--out", tmp_path / "x.csv", cwd=root)
    assert done.code == 0, done.err
    assert "tta all" in done.err
    table = pd.read_csv(tmp_path / "x.csv").set_index("slice_id")
    path = root / "experiments" / "1" / "fold-0" / "test-ph-test-v1-identity.parquet"
    ids = read_predictions(path).slice_ids
    mean = np.mean([logits(root, fold, f"test-ph-test-v1-{view}") for fold in (0, 1) for view in VIEWS], axis=0)
    np.testing.assert_allclose(table.loc[ids, list(LABELS)].to_numpy(), 1 / (1 + np.exp(-mean)), atol=2e-6)
    assert ichx("evaluate", 1, "--dataset", "ph", "--tta", "all", "--device", "cpu", cwd=root).code in (0, 1)


def test_it_is_blended_with_an_experiment_of_two_views(root: Path, ichx: Program) -> None:
    words = [f"--set={setting}" for setting in SHORT]
    assert ichx("exp", "new", "--plugin", "tiny_byobnet", "--size", 32, *words, cwd=root).code == 0
    assert ichx("run", 2, "--device", "cpu", cwd=root).code == 0
    for tta in ("hflip", "all"):
        done = ichx("ensemble", "--members", "1,2", "--tta", tta, "--method", "mean", "--json", cwd=root)
        assert done.code == 0, done.err
        with open_store(open_workspace(root)) as store:
            ensemble = store.ensembles()[-1]
            assert ensemble.tta == tta
            first = next(m for m in read_model(open_workspace(root), ensemble).members if m.experiment == 1)
        assert {name.split("/")[1] for name in first.predictions} == set(VIEWS if tta == "all" else VIEWS[:2])
        assert ichx("audit", "--ensemble", ensemble.number, cwd=root).code == 0


def test_the_export_has_its_networks_and_names_its_views(root: Path, ichx: Program) -> None:
    done = ichx("export", 1, "--format", "safetensors", "--fold", 0, "--json", cwd=root)
    assert done.code == 0, done.err
    (path,) = (
        path for path in (root / "experiments" / "1").rglob("*.safetensors") if path.name != "weights.safetensors"
    )
    with safetensors.safe_open(path, "np") as file:
        assert json.loads(file.metadata()["views"]) == list(VIEWS)
        assert {name.split(".")[1] for name in file.keys()} == {"0", "1"}  # noqa: SIM118 (no mapping)


def test_the_archive_keeps_all_views(run_root: Path, dataset_copy: Path, ichx: Program, tmp_path: Path) -> None:
    assert ichx("exp", "export", 1, tmp_path / "one.zip", "--weights", cwd=run_root).code == 0
    moved = dataset_copy
    done = ichx("exp", "import", tmp_path / "one.zip", cwd=moved)
    assert done.code == 0, done.err
    assert ichx("audit", 1, cwd=moved).code == 0
    again = ichx("run", 1, "--device", "cpu", cwd=moved)
    assert (again.code, "loss" in again.err) == (0, False), "nothing is left to train"


def test_the_report_has_heat_maps_and_names_the_views(root: Path, ichx: Program) -> None:
    done = ichx("report", 1, cwd=root)
    assert done.code == 0, done.err
    page = next((root / "experiments" / "1").glob("*.html")).read_text(encoding="utf-8")
    assert "with 4 views" in page
    assert "identity, hflip, right2, scale110" in page
    assert "No heat maps" not in page


def test_a_sequence_reads_the_mean_of_all_views(root: Path, ichx: Program) -> None:
    done = ichx("exp", "new", "--plugin", "gru", "--members", "1", "--set", "stage.full.epochs=1", cwd=root)
    assert done.code == 0, done.err
    done = ichx("run", 2, "--device", "cpu", cwd=root)
    assert done.code == 0, done.err
    assert "with 1 view" in done.out


def test_the_dry_run_counts_views_and_networks(root: Path, ichx: Program) -> None:
    assert ichx("exp", "clone", 1, cwd=root).code == 0
    done = ichx("run", 2, "--dry-run", "--device", "cpu", "--json", cwd=root)
    assert done.code == 0, done.err
    assert json.loads(done.out)
