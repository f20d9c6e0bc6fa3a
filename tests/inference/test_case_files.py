"""Ids behind hashes, and files of evaluated slices and studies."""

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dicom_files import write_study

from ichx.datasets.add import AddRequest, add_dataset
from ichx.errors import ChangedDataError
from ichx.evaluation.metric import weighted_row_losses
from ichx.experiments.callbacks import RunCallbacks
from ichx.inference.evaluate import EvaluatedSlices, evaluate_slices
from ichx.inference.evaluation_files import case_tables, hashed_ids, real_ids, write_cases
from ichx.inference.file_catalog import HASHED
from ichx.inference.predict import FileOutputs, FilePredictions, predict_files
from ichx.inference.prediction_files import write_id_map
from ichx.inference.ready_model import ready_experiment
from ichx.inference.trained import InferenceOptions
from ichx.labels import LABELS
from ichx.plugins import load_registry
from ichx.project import Project
from ichx.store import open_store
from ichx.workspace import open_workspace

pytestmark = pytest.mark.slow

OPTIONS = InferenceOptions(folds=[0], device="cpu")
PATIENTS = ("a", "b", "c")


def no_progress(done: int, total: int) -> None:
    """Ignore the progress."""


@pytest.fixture
def project(trained_copy: Path) -> Iterator[Project]:
    workspace = open_workspace(trained_copy)
    with open_store(workspace) as store:
        yield Project(workspace, store, load_registry())


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Return three labelled studies of 4 slices."""
    lines = ["ID,Label"]
    for patient in PATIENTS:
        for index, slice_id in enumerate(write_study(tmp_path / "files", patient, 4)):
            lines += [f"{slice_id}_{label},{int(index == 1 and label in ('any', 'subdural'))}" for label in LABELS]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    return tmp_path / "files"


def evaluated(project: Project, files: Path, *, keep_ids: bool = False) -> EvaluatedSlices:
    request = AddRequest("other", files, labels=files.with_name("labels.csv"), keep_ids=keep_ids, folds=2)
    add_dataset(project, request)
    model = ready_experiment(project, 2, OPTIONS, print)
    return evaluate_slices(project, model, "other", callbacks=RunCallbacks())[1]


def predicted(project: Project, files: Path, outputs: FileOutputs) -> FilePredictions:
    model = ready_experiment(project, 2, OPTIONS, print)
    return predict_files(project, model, files, callbacks=RunCallbacks(), outputs=outputs)


def test_predictions_with_ids_equal_those_with_hashes(project: Project, files: Path, tmp_path: Path) -> None:
    hashed = predicted(project, files, FileOutputs(id_map=True))
    kept = predicted(project, files, FileOutputs(keep_ids=True))
    assert kept.id_map is None
    assert kept.studies["patient"].tolist() == list(PATIENTS)
    assert kept.studies["study"].tolist() == [f"ID_study{patient}" for patient in PATIENTS]
    assert kept.series["series"].tolist() == [f"ID_series{patient}" for patient in PATIENTS]
    assert hashed.id_map is not None
    for kind in HASHED:
        ids = hashed.id_map[hashed.id_map["kind"] == kind].set_index("hash")["id"]
        assert len(ids) == len(PATIENTS)
        assert hashed.slices[kind].map(ids).tolist() == kept.slices[kind].tolist()
    columns = [name for name in kept.slices if name not in HASHED]
    pd.testing.assert_frame_equal(hashed.slices[columns], kept.slices[columns])
    write_id_map(tmp_path / "ids.csv", hashed.id_map)
    assert stat.S_IMODE((tmp_path / "ids.csv").stat().st_mode) == 0o600
    assert len(pd.read_csv(tmp_path / "ids.csv")) == 3 * len(PATIENTS)


@pytest.mark.parametrize("keep_ids", [False, True])
def test_ids_of_evaluated_slices(project: Project, files: Path, keep_ids: bool) -> None:
    """A dataset may contain ids or hashes; the choice of the output does not depend on it."""
    slices = evaluated(project, files, keep_ids=keep_ids)
    ids, hashes = real_ids(slices, no_progress), hashed_ids(project.workspace, slices)
    assert ids["patient"].unique().tolist() == list(PATIENTS)
    assert ids["study"].unique().tolist() == [f"ID_study{patient}" for patient in PATIENTS]
    reference = predicted(project, files, FileOutputs()).slices.set_index("slice_id")
    for kind in HASHED:
        assert hashes[kind].tolist() == reference.loc[slices.slices["slice_id"], kind].tolist()


def test_ids_of_changed_files_are_refused(project: Project, files: Path) -> None:
    slices = evaluated(project, files)
    gone = slices.slices["file"].iloc[2]
    (files / gone).unlink()
    with pytest.raises(ChangedDataError, match=f"1 file .*{gone}"):
        real_ids(slices, no_progress)


@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
def test_files_of_cases(project: Project, files: Path, tmp_path: Path, suffix: str) -> None:
    slices = evaluated(project, files)
    tables = case_tables(slices, real_ids(slices, no_progress), "max")
    written = write_cases(tmp_path / f"cases{suffix}", tables)
    names = ["cases.json"] if suffix == ".json" else [f"cases{suffix}", f"cases.studies{suffix}"]
    assert [path.name for path in written] == names
    if suffix == ".json":
        content = json.loads(written[0].read_text())
        found, studies = pd.DataFrame(content["slices"]), pd.DataFrame(content["studies"])
    else:
        found, studies = (pd.read_csv(p) if suffix == ".csv" else pd.read_parquet(p) for p in written)
    assert (found["loss"].diff().dropna() <= 0).all()
    truth, p = found[[f"true_{name}" for name in LABELS]].to_numpy(), found[list(LABELS)].to_numpy()
    np.testing.assert_allclose(found["loss"], weighted_row_losses(truth, p))
    rows = pd.Series(range(len(slices.rows)), index=slices.slices["slice_id"])[found["slice_id"]]
    np.testing.assert_allclose(p, slices.probabilities[rows])
    np.testing.assert_allclose(truth, slices.labels[rows])
    assert sorted(studies["patient"]) == list(PATIENTS)
    assert studies["slices"].tolist() == [4, 4, 4]
    for row in studies.to_dict("records"):
        own = found[found["study"] == row["study"]]
        assert (row["any"], row["true_any"], row["true_epidural"]) == (pytest.approx(own["any"].max()), 1, 0)
