"""Scores on a labelled dataset that an experiment was not made on, and datasets that are refused."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ichx.datasets.add import AddRequest, add_dataset
from ichx.datasets.dataset import load_dataset
from ichx.errors import ChangedDataError, ConflictError, IchxError, NotReadyError
from ichx.evaluation.evaluation_count import count_evaluations
from ichx.evaluation.metric import score
from ichx.evaluation.scores import study_scores
from ichx.experiments.callbacks import RunCallbacks
from ichx.inference.evaluate import Evaluation, evaluate_slices
from ichx.inference.predict import predict_files
from ichx.inference.ready_model import ready_experiment
from ichx.inference.trained import InferenceOptions
from ichx.labels import LABELS
from ichx.phantom.dicom_files import PhantomFiles, write_phantom
from ichx.plugins import load_registry
from ichx.project import Project
from ichx.store import Store, open_store
from ichx.workspace import Workspace, open_workspace

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> PhantomFiles:
    """Return 6 other labelled patients on disk."""
    return write_phantom(
        tmp_path_factory.mktemp("other") / "files", patients=6, seed=2, size=64, prevalence={"any": 0.5}
    )


@pytest.fixture
def place(trained_copy: Path, other: PhantomFiles, tmp_path: Path) -> Iterator[tuple[Workspace, Store, Path]]:
    """Return the trained workspace with the other patients as its dataset `other`, and the folder of these."""
    files = tmp_path / "other"
    shutil.copytree(other.train, files)
    workspace = open_workspace(trained_copy)
    with open_store(workspace) as store:
        add_dataset(Project(workspace, store), AddRequest("other", files, labels=other.train_labels))
        yield workspace, store, files


def evaluated(workspace: Workspace, store: Store, dataset: str = "other", **options: Any) -> Evaluation:
    wanted = InferenceOptions(
        tta=options.pop("tta", "none"),
        folds=options.pop("folds", None),
        device="cpu",
        precision=options.pop("precision", "auto"),
    )
    project = Project(workspace, store, load_registry())
    model = ready_experiment(project, 2, wanted, print)
    return evaluate_slices(project, model, dataset, callbacks=RunCallbacks(), **options)[0]


def test_scores_follow_from_the_predictions(place: tuple[Workspace, Store, Path]) -> None:
    workspace, store, files = place
    found = evaluated(workspace, store, tta="hflip", pooling="noisy_or")
    project = Project(workspace, store, load_registry())
    model = ready_experiment(project, 2, InferenceOptions("hflip"), print)
    predicted = predict_files(project, model, files, callbacks=RunCallbacks()).slices
    truth = load_dataset(Project(workspace, store), "other").slices.set_index("slice_id").loc[predicted["slice_id"]]
    labels, made = truth[list(LABELS)].to_numpy(float), predicted[list(LABELS)].to_numpy(float)
    assert found.slices.scores.log_loss == pytest.approx(score(labels, made), abs=1e-6)
    assert (found.slices.log_loss.low, found.slices.log_loss.high) == (None, None)  # of 6 patients
    assert "6 patients" in str(found.slices.log_loss.undefined)
    studies = study_scores(labels, made, truth["study"].to_numpy(), "noisy_or")
    assert found.studies.scores.log_loss == pytest.approx(studies.log_loss, abs=1e-6)
    assert (found.slices.patients, found.left_out, list(found.folds), found.dataset_version) == (6, 0, [0, 1], 1)
    stored = store.predictions(2, version_id=store.version("other").id)
    assert [(p.fold, p.view, p.role) for p in stored] == [
        (fold, view, "evaluation") for view in ("hflip", "identity") for fold in (0, 1)
    ]


def test_stored_predictions_are_reused(place: tuple[Workspace, Store, Path]) -> None:
    """With neither pixels nor a cache left, the stored predictions give the same scores; a new view needs the files."""
    workspace, store, files = place
    first = evaluated(workspace, store, folds=[0])
    shutil.rmtree(files)
    shutil.rmtree(workspace.cache_dir)
    assert evaluated(workspace, store, folds=[0]) == first
    with pytest.raises(IchxError, match=str(files)):
        evaluated(workspace, store, folds=[0], tta="hflip")
    with pytest.raises(IchxError, match=str(files)):
        evaluated(workspace, store)
    stored = workspace.root / store.predictions(2, role="evaluation")[0].path
    shutil.copy(workspace.experiment_dir(2) / "fold-0" / "oof-identity.parquet", stored)
    with pytest.raises(ChangedDataError, match="other"):
        evaluated(workspace, store, folds=[0])


def test_a_requested_precision_is_predicted_once(place: tuple[Workspace, Store, Path]) -> None:
    workspace, store, files = place
    first = evaluated(workspace, store, folds=[0])
    half = evaluated(workspace, store, folds=[0], precision="bf16")
    assert (first.precision, half.precision) == ("fp32", "bf16")
    assert first.folds[0] != half.folds[0]
    shutil.rmtree(files)
    shutil.rmtree(workspace.cache_dir)
    assert evaluated(workspace, store, folds=[0], precision="bf16") == half
    assert evaluated(workspace, store, folds=[0]) == half, "any stored precision is accepted by default"
    with pytest.raises(IchxError, match=str(files)):
        evaluated(workspace, store, folds=[0], precision="fp32")


@pytest.mark.parametrize("keep_ids", [False, True])
def test_patients_that_were_trained_on_are_refused(
    place: tuple[Workspace, Store, Path], phantom: PhantomFiles, other: PhantomFiles, tmp_path: Path, keep_ids: bool
) -> None:
    """Matched whether the other dataset keeps hashes or ids; new patients among them do not hide them."""
    workspace, store, files = place
    own = load_dataset(Project(workspace, store), "ph").slices
    one = own["patient"].iloc[0]
    for file in own["file"][own["patient"] == one]:
        shutil.copy(phantom.train / file, files / file)
    labels = pd.concat([pd.read_csv(phantom.train_labels), pd.read_csv(other.train_labels)])
    labels.to_csv(tmp_path / "labels.csv", index=False)
    add_dataset(
        Project(workspace, store), AddRequest("mixed", files, labels=tmp_path / "labels.csv", keep_ids=keep_ids)
    )
    count = int((own["patient"] == one).sum())
    with pytest.raises(ConflictError, match=f"1 patient.*{count} slices") as caught:
        evaluated(workspace, store, "mixed")
    assert str(one) in caught.value.problem
    assert not store.predictions(2, version_id=store.version("mixed").id)
    marked = evaluated(workspace, store, "mixed", overlap="mark")
    assert (marked.overlap, marked.slices.patients, "overlap" in marked.marks) == (1, 7, True)
    without = evaluated(workspace, store, "mixed", overlap="exclude")
    assert (without.overlap, without.left_out, "overlap" in without.marks) == (1, 0, False)
    alone = evaluated(workspace, store)
    assert without.slices.scores.log_loss == pytest.approx(alone.slices.scores.log_loss, abs=1e-6)
    assert (alone.overlap, without.slices.scores.count) == (0, alone.slices.scores.count)


def test_slices_that_were_trained_on_are_refused_under_another_patient_id(
    place: tuple[Workspace, Store, Path], phantom: PhantomFiles, tmp_path: Path
) -> None:
    import pydicom

    workspace, store, _ = place
    for path in sorted(phantom.train.iterdir()):
        dataset = pydicom.dcmread(path)
        dataset.PatientID = f"renamed-{dataset.PatientID}"
        (tmp_path / "renamed").mkdir(exist_ok=True)
        dataset.save_as(tmp_path / "renamed" / path.name)
    add_dataset(Project(workspace, store), AddRequest("renamed", tmp_path / "renamed", labels=phantom.train_labels))
    own, theirs = (load_dataset(Project(workspace, store), name).slices for name in ("ph", "renamed"))
    assert not set(own["patient"]) & set(theirs["patient"])
    for overlap in ("refuse", "exclude"):
        with pytest.raises(ConflictError, match=f"8 patients.*{len(theirs)} slices"):
            evaluated(workspace, store, "renamed", overlap=overlap)


def test_a_test_set_has_no_labels(place: tuple[Workspace, Store, Path]) -> None:
    workspace, store, _ = place
    with pytest.raises(NotReadyError, match="ph-test"):
        evaluated(workspace, store, "ph-test")
    with pytest.raises(ConflictError, match="8 patients"):
        evaluated(workspace, store, "ph")


def test_slices_that_cannot_be_decoded_are_counted(place: tuple[Workspace, Store, Path], other: PhantomFiles) -> None:
    import pydicom

    workspace, store, files = place
    path = sorted(files.iterdir())[0]
    dataset = pydicom.dcmread(path)
    dataset.PixelData = np.zeros(dataset.Rows * dataset.Columns, np.uint16).tobytes()
    dataset.save_as(path)
    add_dataset(Project(workspace, store), AddRequest("other", files, labels=other.train_labels))
    found = evaluated(workspace, store)
    assert (found.dataset_version, found.left_out) == (2, 1)
    assert found.slices.scores.count == store.version("other").slices - 1


def test_each_evaluation_is_counted(place: tuple[Workspace, Store, Path]) -> None:
    workspace, store, _ = place
    for tta in ("none", "hflip", "none"):
        evaluated(workspace, store, tta=tta)
    first, _, third = store.evaluations("other")
    assert (first.experiment, first.ensemble, first.version, first.command) == (2, None, 1, "evaluate")
    assert (first.labels, first.predictions, first.score) == (third.labels, third.predictions, third.score)
    counted = count_evaluations(Project(workspace, store), "other")
    assert (counted.evaluations, counted.predictions) == (3, 2)
    assert count_evaluations(Project(workspace, store), "absent", first.labels).evaluations == 3
