"""Studies with bad files, missing slices or several series: no file is lost, nothing is pooled silently."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dicom_files import head, write_ct, write_study
from zip_files import zip_folder

from ichx.experiments.callbacks import RunCallbacks
from ichx.inference.predict import FilePredictions, predict_files
from ichx.inference.ready_model import ready_experiment
from ichx.inference.trained import InferenceOptions
from ichx.labels import ANY, LABELS
from ichx.plugins import load_registry
from ichx.project import Project
from ichx.store import open_store
from ichx.workspace import open_workspace

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(trained_root: Path) -> Iterator[Project]:
    workspace = open_workspace(trained_root)
    with open_store(workspace) as store:
        yield Project(workspace, store, load_registry())


def predicted(project: Project, source: Path) -> FilePredictions:
    model = ready_experiment(project, 2, InferenceOptions(folds=[0], device="cpu"), print)
    return predict_files(project, model, source, callbacks=RunCallbacks())


def break_files(folder: Path, ids: list[str]) -> dict[str, str]:
    """Damage some slices of a study and return their defects by id."""
    paths = [folder / f"{slice_id}.dcm" for slice_id in ids]
    elements = {"PatientID": "p", "StudyInstanceUID": "ID_studyp", "SeriesInstanceUID": "ID_seriesp"}
    paths[3].write_bytes(paths[3].read_bytes()[:-100])
    write_ct(paths[10], SOPInstanceUID=ids[10], PixelData=None, **elements)
    write_ct(paths[20], np.full((32, 32), 7, np.uint16), SOPInstanceUID=ids[20], **elements)
    content = paths[22].read_bytes()
    paths[22].write_bytes(content[: content.index(b"MONOCHROME2") + 4])
    write_ct(paths[24], SOPInstanceUID=ids[24], PhotometricInterpretation="MONOCHROME1", **elements)
    defects = {3: "truncated", 10: "no_pixels", 20: "constant_image", 22: "damaged_header", 24: "monochrome1"}
    return {ids[index]: reason for index, reason in defects.items()}


@pytest.mark.parametrize("packed", [False, True])
def test_refused_files_keep_their_ids_and_count_in_their_study(project: Project, tmp_path: Path, packed: bool) -> None:
    folder = tmp_path / "study"
    ids = write_study(folder, "p", 28)
    defects = break_files(folder, ids)
    (folder / "notes.txt").write_text("28 slices")
    found = predicted(project, zip_folder(folder, tmp_path / "a.zip") if packed else folder)
    (study,) = found.studies.to_dict("records")
    assert (study["slices"], study["left_out"], study["series"]) == (28, 5, 1)
    (series,) = found.series.to_dict("records")
    assert (series["slices"], series["left_out"], series["study"]) == (28, 5, study["study"])
    rows = found.slices[found.slices["file"] != "notes.txt"]
    assert sorted(rows["slice_id"]) == sorted(ids)
    assert (rows[["patient", "study", "series"]].nunique() == 1).all()
    assert {row.slice_id: row.defect for row in rows[rows["defect"].notna()].itertuples()} == defects
    assert found.slices[found.slices["file"] == "notes.txt"][["slice_id", "patient", "study"]].isna().all(axis=None)


def test_a_study_of_refused_files_only_is_listed(project: Project, tmp_path: Path) -> None:
    write_study(tmp_path / "a", "p", 3)
    write_study(tmp_path / "b", "q", 2, Modality="MR")
    write_ct(tmp_path / "b" / "c.dcm", SOPInstanceUID=None, StudyInstanceUID="ID_studyq", SeriesInstanceUID=None)
    found = predicted(project, tmp_path)
    good, bad = found.studies.to_dict("records")
    assert [(s["slices"], s["left_out"], s["series"]) for s in (good, bad)] == [(3, 0, 1), (3, 3, 0)]
    assert np.isnan([bad[label] for label in LABELS]).all()
    assert good["suspicious_slice_id"] in set(found.slices["slice_id"])
    assert pd.isna(bad["suspicious_slice_id"])


def test_missing_slices_and_repeated_positions_are_flagged(project: Project, tmp_path: Path) -> None:
    ids = write_study(tmp_path / "regular", "p", 20)
    regular = predicted(project, tmp_path / "regular")
    assert (regular.warnings, regular.studies["flags"].tolist()) == ((), [None])
    (tmp_path / "regular" / f"{ids[8]}.dcm").unlink()
    write_ct(
        tmp_path / "regular" / "again.dcm",
        SOPInstanceUID="ID_again",
        PatientID="p",
        StudyInstanceUID="ID_studyp",
        SeriesInstanceUID="ID_seriesp",
        ImagePositionPatient=[-120, -120, 75.0],
    )
    found = predicted(project, tmp_path / "regular")
    flags = found.slices.set_index("slice_id")["flags"].dropna().to_dict()
    assert flags.pop(ids[9]) == "gap"
    assert set(flags.values()) == {"same_place"}
    assert found.studies["flags"].tolist() == ["gap same_place"]
    assert [re.search("`(.*?)`", warning)[1] for warning in found.warnings] == ["gap", "same_place"]  # type: ignore[index]
    assert f"{ids[9]}.dcm" in found.warnings[0]


def test_several_series_of_a_study_are_reported_one_by_one(project: Project, tmp_path: Path) -> None:
    """E.g. a brain and a bone kernel of the same head."""
    brain = write_study(tmp_path / "brain", "p", 12)
    for index, slice_id in enumerate(brain):
        sharp = np.clip(head(seed=index) * 1.5, 0, 4000).astype(np.uint16)
        write_ct(
            tmp_path / "bone" / f"{slice_id}.dcm",
            sharp,
            SOPInstanceUID=f"{slice_id}.bone",
            PatientID="p",
            StudyInstanceUID="ID_studyp",
            SeriesInstanceUID="ID_bone",
            ImagePositionPatient=[-120, -120, 5.0 * index],
        )
    write_study(tmp_path / "other", "q", 4)
    found = predicted(project, tmp_path)
    assert found.studies["series"].tolist() == [2, 1]
    assert found.series["slices"].tolist() == [12, 12, 4]
    (warning,) = found.warnings
    assert f"{found.studies['study'][0]} (2 series)" in warning
    for row in found.series.to_dict("records"):
        own = found.slices[found.slices["series"] == row["series"]]
        assert row[ANY] == own[ANY].max()
        assert row["suspicious_slice_id"] == own["slice_id"].iloc[int(own[ANY].to_numpy().argmax())]
    assert found.studies[ANY][0] == found.series[ANY][:2].max()


def test_reading_assumptions_are_reported(project: Project, tmp_path: Path) -> None:
    hu = head(side=64).astype(np.int16) - 1024
    for index in range(3):
        missing = {"RescaleSlope": None, "RescaleIntercept": None} if index == 1 else {"RescaleIntercept": 0}
        place = {"ImagePositionPatient": [-120, -120, 5.0 * index], "WindowCenter": None if index == 2 else 40}
        write_ct(tmp_path / f"{index}.dcm", hu, SOPInstanceUID=f"ID_{index}", **missing, **place)
    write_ct(tmp_path / "9.dcm", SOPInstanceUID="ID_9", Modality="MR")
    found = predicted(project, tmp_path)
    rows = found.slices.set_index("slice_id")
    assert rows["flags"].dropna().to_dict() == {"ID_1": "rescale_missing", "ID_2": "window_missing"}
    assert found.studies["flags"].tolist() == ["rescale_missing window_missing"]
    assert [re.search("`(.*?)`", warning)[1] for warning in found.warnings] == ["rescale_missing", "window_missing"]  # type: ignore[index]
    assert "1.dcm" in found.warnings[0]
    assert (rows["defect"]["ID_9"], "MR" in rows["detail"]["ID_9"]) == ("not_ct", True)


def test_one_series_uid_in_two_studies(project: Project, tmp_path: Path) -> None:
    for patient in ("p", "q"):
        write_study(tmp_path / patient, patient, 3, SeriesInstanceUID="ID_one")
    found = predicted(project, tmp_path)
    assert found.series["study"].tolist() == found.studies["study"].tolist()
    assert found.series[["slices", "left_out"]].to_numpy().tolist() == [[3, 0], [3, 0]]
    assert found.series["suspicious_slice_id"].tolist() == found.studies["suspicious_slice_id"].tolist()
