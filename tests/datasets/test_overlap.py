"""Recognizing patients in several datasets of a workspace."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from dicom_files import write_ct

from ichx.datasets.add import AddReport, AddRequest, add_dataset
from ichx.datasets.catalog import hash_ids
from ichx.datasets.dataset import load_dataset
from ichx.datasets.label_sheet import SheetColumns
from ichx.datasets.overlap import IDENTITY_FILE, identity_keys, load_identity, matching_patients, matching_slices
from ichx.project import Project
from ichx.store import open_store
from ichx.workspace import init_workspace


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    workspace = init_workspace(tmp_path / "workspace")
    with open_store(workspace) as store:
        yield Project(workspace, store)


def add(project: Project, name: str, source: Path, **options: object) -> AddReport:
    return add_dataset(project, AddRequest(name, source, **options))  # type: ignore[arg-type]


def write(folder: Path, name: str, patient: str, study: str, **elements: object) -> None:
    ids = {"PatientID": patient, "StudyInstanceUID": study, "SeriesInstanceUID": f"{study}.1", "SOPInstanceUID": name}
    write_ct(folder / f"{name}.dcm", **(ids | elements))


def overlaps(report: AddReport) -> list[str]:
    return [text for text in report.warnings if "also in" in text]


@pytest.mark.parametrize("keep_ids", [False, True])
def test_patients_of_another_dataset_are_reported(project: Project, tmp_path: Path, keep_ids: bool) -> None:
    rsna, other = tmp_path / "rsna", tmp_path / "other"
    for number in range(4):
        write(rsna, f"a{number}", f"ID_0000000{number}", f"ID_000000000{number}")
    write(other, "b0", "ID_00000000", "ID_0000000000")  # the same patient and study
    write(other, "b1", "renamed", "ID_0000000001")  # the same study
    write(other, "b2", "ID_00000002", "another study")  # the same patient
    write(other, "b3", "new", "new study")
    write(other, "a3", "other ids", "and study")  # the same slice
    add(project, "rsna", rsna, keep_ids=keep_ids)
    report = add(project, "other", other)
    (line,) = overlaps(report)
    assert "4 of 5 patients are also in rsna" in line
    assert all(kind in line for kind in ("PatientID", "StudyInstanceUID", "SOPInstanceUID"))
    assert overlaps(add(project, "rsna", rsna, keep_ids=not keep_ids))[0].startswith(
        "4 of 4 patients are also in other"
    )


def test_patients_of_the_training_set_are_recognized_by_ids_of_publications(project: Project, tmp_path: Path) -> None:
    """The test set has no id of the training set in its headers, but the number of CQ500 in a folder."""
    write(tmp_path / "train" / "CQ500CT12 CQ500CT12", "a0", "anonymous 1", "1.2.3")
    (tmp_path / "labels.csv").write_text("SOPInstanceUID,any\na0,1\n")
    columns = SheetColumns("SOPInstanceUID")
    add(project, "train", tmp_path / "train", labels=tmp_path / "labels.csv", columns=columns, folds=0)
    write(tmp_path / "test" / "CQ500-CT-12", "b0", "renamed", "4.5.6")
    write(tmp_path / "test" / "CQ500-CT-13", "b1", "new", "7.8.9")
    (line,) = overlaps(add(project, "test", tmp_path / "test", test_of="train"))
    assert line.startswith("0 slices and 1 patient are also in train")


def test_versions_without_a_file_of_ids_are_compared(project: Project, tmp_path: Path) -> None:
    rsna, other = tmp_path / "rsna", tmp_path / "other"
    write(rsna, "a0", "ID_00000000", "ID_0000000000")
    write(rsna / "CQ500CT12 CQ500CT12" / "Unknown Study" / "CT", "a1", "x", "1.2.3.4.5")
    write(other, "b0", "ID_00000000", "other")
    write(other, "b1", "CQ500-CT-12", "1.2.3.4.6")
    version = add(project, "rsna", rsna).version
    (project.workspace.root / version.path / IDENTITY_FILE).unlink()
    (line,) = overlaps(add(project, "other", other))
    assert "2 of 2 patients are also in rsna (by PatientID, CQ500 number)" in line


def test_no_ids_are_stored(project: Project, tmp_path: Path) -> None:
    write(tmp_path / "files", "a0", "CQ500-CT-7", "1.2.826.0.1")
    version = add(project, "d", tmp_path / "files").version
    keys = load_identity(project.workspace, version)
    assert set(keys["kind"]) == {"patient", "study", "cq500"}
    assert keys["key"].str.fullmatch("[0-9a-f]{16}").all()
    assert b"1.2.826" not in (project.workspace.root / version.path / IDENTITY_FILE).read_bytes()


def test_placeholders_recognize_nobody(project: Project, tmp_path: Path) -> None:
    for name in ("one", "two"):
        for number in range(3):
            write(tmp_path / name, f"{name}{number}", "ANON", f"study {name} {number}")
    add(project, "one", tmp_path / "one", group_by="study")
    assert not overlaps(add(project, "two", tmp_path / "two", group_by="study"))


def table(files: list[str], patients: list[str], studies: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    scan = pd.DataFrame({"patient_id": patients, "study_id": studies})
    catalog = pd.DataFrame({"patient": [f"p{i}" for i in range(len(files))], "file": files, "defect": None})
    return scan, catalog


def test_names_of_published_volumes_are_ids_and_numbers_are_not() -> None:
    key = b"k" * 32
    bhsd = identity_keys(
        *table(
            ["images/ID_0123abcd_ID_0123456789.nii.gz", "images/ID_0123abce_ID_012345678a"], ["049", ""], ["049", ""]
        ),
        key,
    )
    rsna = identity_keys(*table(["x.dcm", "y.dcm"], ["ID_0123abcd", "z"], ["other", "ID_012345678a"]), key)
    assert set(matching_patients(bhsd, rsna)["patient"]) == {"p0", "p1"}
    ct_ich = identity_keys(*table(["ct_scans/049.nii"], ["049"], ["049"]), key)
    assert not len(ct_ich)
    cases = identity_keys(*table(["volumes/CQ500-CT-012/CT.nii"], [""], [""]), key)
    folders = identity_keys(*table(["CQ500CT12 CQ500CT12/Unknown Study/CT/0.dcm"], ["A"], ["B"]), key)
    assert matching_patients(cases, folders)["kind"].tolist() == ["cq500"]


def test_a_constant_study_uid_recognizes_nobody() -> None:
    scan, catalog = table([f"{i}.dcm" for i in range(7)], [f"id {i}" for i in range(7)], ["1.2.3.4.5"] * 7)
    assert set(identity_keys(scan, catalog, b"k")["kind"]) == {"patient"}


def test_slices_of_volumes_with_common_names_are_not_the_same() -> None:
    slices = pd.DataFrame(
        {"slice_id": ["049#001", "ID_01234567_ID_0123456789#001", "1.2.3"], "file": ["049.nii", "a.nii", "b"]}
    )
    assert matching_slices(slices, slices["slice_id"]).tolist() == [False, True, True]


def test_keys_join_the_catalog(project: Project, tmp_path: Path) -> None:
    write(tmp_path / "files", "a0", "patient 0", "1.2.3.4.5.6")
    version = add(project, "d", tmp_path / "files").version
    keys = load_identity(project.workspace, version)
    assert set(keys["patient"]) == set(load_dataset(project, "d").slices["patient"])
    expected = hash_ids(pd.Series(["1.2.3.4.5.6"]), project.workspace.privacy_key())[0]
    assert keys.set_index("kind")["key"]["study"] == expected
