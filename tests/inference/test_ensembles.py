"""An ensemble predicts new files and datasets as it predicted its test sets."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Program

from ichx.datasets.add import AddRequest, add_dataset
from ichx.datasets.dataset import load_dataset
from ichx.errors import ChangedDataError, ConflictError, UnsupportedError
from ichx.evaluation.choices import Average
from ichx.evaluation.ensemble import EnsembleRequest, make_ensemble
from ichx.evaluation.metric import score
from ichx.evaluation.predictions import read_predictions
from ichx.experiments.callbacks import RunCallbacks
from ichx.inference.evaluate import evaluate_slices
from ichx.inference.predict import FilePredictions, predict_files
from ichx.inference.ready_model import ready_ensemble
from ichx.inference.trained import InferenceOptions
from ichx.labels import LABELS
from ichx.phantom.dicom_files import PhantomFiles, write_phantom
from ichx.plugins import load_registry
from ichx.project import Project

pytestmark = pytest.mark.slow

OPTIONS = InferenceOptions(device="cpu", precision="fp32")


@pytest.fixture
def ready(project: Project) -> Project:
    return Project(project.workspace, project.store, load_registry())


def submitted(path: Path, ids: list[str]) -> np.ndarray:
    table = pd.read_csv(path).set_index("ID")["Label"]
    return np.array([[table[f"{name}_{label}"] for label in LABELS] for name in ids])


def predicted(project: Project, source: Path) -> FilePredictions:
    return predict_files(project, ready_ensemble(project, 1, OPTIONS), source, callbacks=RunCallbacks())


@pytest.mark.parametrize(
    ("average", "request_"),
    [
        ("logit", EnsembleRequest(top=3, method="stack", smooth=True)),
        ("logit", EnsembleRequest(members=(1, 3), method="logit", tta="none")),
        ("probability", EnsembleRequest(top=3, method="rank")),
    ],
)
def test_files_of_a_test_set_get_the_ensembles_predictions_of_it(
    ready: Project, phantom: PhantomFiles, average: Average, request_: EnsembleRequest
) -> None:
    report = make_ensemble(ready, dataclasses.replace(request_, average=average))
    assert phantom.test is not None
    found = predicted(ready, phantom.test)
    assert (found.ensemble, found.folds, found.tta, found.average) == (1, (0, 1), request_.tta, average)
    assert (found.precision, found.name, found.predicted) == ("fp32", "ensemble 1", phantom.test_slices)
    heaviest = max(report.ensemble.members, key=lambda m: m.weight)
    assert found.experiment == heaviest.experiment
    expected = submitted(ready.workspace.root / report.submissions[0].path, found.slices["slice_id"].tolist())
    np.testing.assert_allclose(found.slices[list(LABELS)], expected, rtol=0, atol=1e-6)


def test_slices_that_cannot_be_decoded_are_no_neighbours(ready: Project, phantom: PhantomFiles, tmp_path: Path) -> None:
    make_ensemble(ready, EnsembleRequest(members=(1, 2), method="stack", smooth=True))
    assert phantom.test is not None
    files = Path(shutil.copytree(phantom.test, tmp_path / "files"))
    whole = predicted(ready, files)
    row = whole.slices.iloc[3]
    broken = files / row["file"]
    broken.write_bytes(broken.read_bytes()[:-40])
    found = predicted(ready, files)
    assert found.slices["defect"].notna().sum() == 1
    (files / row["file"]).unlink()
    without = predicted(ready, files)
    good = found.slices[found.slices["defect"].isna()].set_index("slice_id")[list(LABELS)]
    expected = without.slices.set_index("slice_id").loc[good.index, list(LABELS)]
    np.testing.assert_allclose(good, expected, rtol=0, atol=1e-6)


def test_scores_on_another_dataset(ready: Project, tmp_path: Path) -> None:
    other = write_phantom(tmp_path / "other", patients=3, seed=2, size=64, prevalence={"any": 0.5})
    add_dataset(ready, AddRequest("other", other.train, labels=other.train_labels, folds=2))
    make_ensemble(ready, EnsembleRequest(members=(1, 2), method="mean"))
    model = ready_ensemble(ready, 1, OPTIONS)
    found, slices = evaluate_slices(ready, model, "other", callbacks=RunCallbacks())
    files = predicted(ready, other.train).slices.set_index("slice_id")
    truth = load_dataset(ready, "other").slices.set_index("slice_id").loc[files.index]
    labels = truth[list(LABELS)].to_numpy(float)
    expected = score(labels, files[list(LABELS)].to_numpy(float))
    assert found.slices.scores.log_loss == pytest.approx(expected, abs=1e-6)
    assert (found.ensemble, found.name, list(found.folds)) == (1, "ensemble 1", [0, 1])
    assert found.folds[0] != found.folds[1]
    assert len(slices.probabilities) == len(labels)
    stored = [p for number in (1, 2) for p in ready.store.predictions(number, role="evaluation")]
    assert len(stored) == 8, "two members, folds and views"
    shutil.rmtree(other.train)
    shutil.rmtree(ready.workspace.cache_dir)
    again, _ = evaluate_slices(ready, model, "other", callbacks=RunCallbacks())
    assert again == found
    with pytest.raises(ConflictError, match="ph is the dataset of experiment"):
        evaluate_slices(ready, model, "ph", callbacks=RunCallbacks())


def test_ensembles_that_cannot_predict(ready: Project) -> None:
    make_ensemble(ready, EnsembleRequest(members=(1, 2), method="mean"))
    weights = ready.workspace.experiment_files(2).fold(1).weights
    content = weights.read_bytes()
    weights.write_bytes(content + b" ")
    with pytest.raises(ChangedDataError, match="fold 1 of experiment 2 have changed"):
        ready_ensemble(ready, 1, OPTIONS)
    weights.unlink()
    with pytest.raises(ChangedDataError, match="fold 1 of experiment 2 are gone"):
        ready_ensemble(ready, 1, OPTIONS)
    weights.write_bytes(content)
    assert ready_ensemble(ready, 1, OPTIONS).folds == (0, 1)
    assert {number: list(t.weights) for number, t in ready_ensemble(ready, 1, OPTIONS).members.items()} == {
        0: [0, 1],
        1: [0, 1],
    }


def test_commands(ready: Project, phantom: PhantomFiles, tmp_path: Path, ichx: Program) -> None:
    assert phantom.test is not None
    report = make_ensemble(ready, EnsembleRequest(members=(1, 2), method="mean"))
    root, out, page = ready.workspace.root, tmp_path / "new.csv", tmp_path / "new.html"
    done = ichx("predict", "--ensemble", 1, phantom.test, "--out", out, "--report", page, cwd=root)
    assert done.code == 0, done.err
    assert "ensemble 1" in done.err
    table = pd.read_csv(out)
    expected = submitted(root / report.submissions[0].path, table["slice_id"].tolist())
    np.testing.assert_allclose(table[list(LABELS)], expected, rtol=0, atol=1e-6)
    assert "Predictions of ensemble 1" in page.read_text()

    ichx("predict", "--ensemble", 2, phantom.test, "--json", cwd=root).check_error("not_found", "2")
    for options in (("--tta", "hflip"), ("--fold", 0), ("--average", "logit"), ("--save", "features", "--out", out)):
        done = ichx("predict", "--ensemble", 1, phantom.test, *options, "--json", cwd=root)
        done.check_error("usage", str(options[0]), "--ensemble")
    ichx("predict", 1, phantom.test, "--ensemble", 1, "--json", cwd=root).check_error("usage", "--ensemble")
    ichx("predict", 1, "--json", cwd=root).check_error("usage", "PATH")
    ichx("evaluate", "--dataset", "ph", "--json", cwd=root).check_error("usage", "--ensemble")
    ichx("evaluate", 1, "--ensemble", 1, "--dataset", "ph", "--json", cwd=root).check_error("usage", "--ensemble")
    ichx("evaluate", "--ensemble", 1, "--dataset", "ph", "--json", cwd=root).check_error("conflict", "ph")


def test_an_external_member_cannot_predict_files(ready: Project) -> None:
    make_ensemble(ready, EnsembleRequest(members=(1, 2), method="mean"))
    import sqlite3

    with sqlite3.connect(ready.workspace.root / "db" / "ichx.db") as connection:
        connection.execute("UPDATE experiment SET external = 1 WHERE number = 2")
    connection.close()
    with pytest.raises(UnsupportedError, match="Experiment 2 "):
        ready_ensemble(ready, 1, OPTIONS)


def test_stored_logits_have_the_order_of_the_dataset(ready: Project) -> None:
    make_ensemble(ready, EnsembleRequest(members=(1, 2), method="mean"))
    oof = read_predictions(ready.workspace.ensemble_dir(1) / "oof.parquet")
    assert oof.slice_ids.tolist() == load_dataset(ready, "ph").slices["slice_id"].tolist()
