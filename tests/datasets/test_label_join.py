"""Joining labels of slices, series, studies, patients and folders to a dataset."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from dicom_files import write_study

from ichx.datasets.add import AddReport, AddRequest, add_dataset
from ichx.datasets.dataset import load_dataset
from ichx.datasets.label_table import LabelTable, derive_labels
from ichx.datasets.study_labels import study_labels_of
from ichx.errors import IchxError, InvalidInputError
from ichx.labels import ANY, LABELS
from ichx.project import Project
from ichx.store import open_store
from ichx.workspace import init_workspace

NAN = float("nan")
NEGATIVE, POSITIVE = [0.0] * 6, [0, 0, 0, 0, 1, 1]


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    workspace = init_workspace(tmp_path / "workspace")
    with open_store(workspace) as store:
        yield Project(workspace, store)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for patient in range(4):
        write_study(tmp_path / f"files/p{patient}/study", str(patient), 3)
    return tmp_path / "files"


def table(values: dict[str, list[float]], kind: str = "StudyInstanceUID", level: str | None = "study") -> LabelTable:
    return LabelTable(np.array(list(values), object), np.array(list(values.values()), np.float32), level, kind)


def add(project: Project, files: Path, *tables: LabelTable, **options) -> AddReport:
    return add_dataset(project, AddRequest("cohort", files, label_tables=tables, **{"folds": 2} | options))


def labels(project: Project, label: str = ANY) -> dict[str, list[float]]:
    """Return the labels of the slices by the folder of their patient."""
    slices = load_dataset(project, "cohort").slices
    by_patient = slices.groupby(slices["file"].str.split("/").str[0])[label]
    return {str(name): values.tolist() for name, values in by_patient}


def problem(project: Project, files: Path, *tables: LabelTable) -> IchxError:
    with pytest.raises(InvalidInputError) as caught:
        add(project, files, *tables)
    assert not project.store.datasets()
    return caught.value


def test_negative_study_labels_its_slices_and_positive_one_does_not(project: Project, files: Path) -> None:
    report = add(project, files, table({"ID_study0": NEGATIVE, "ID_study1": POSITIVE, "ID_study2": NEGATIVE}))
    found = labels(project)
    assert found["p0"] == found["p2"] == [0, 0, 0]
    assert np.isnan(found["p1"]).all()
    assert np.isnan(found["p3"]).all()
    slices = load_dataset(project, "cohort").slices
    of_study = study_labels_of(slices)
    assert of_study is not None
    patients = slices["file"].str.split("/").str[0]
    assert of_study[patients == "p1"].tolist() == [POSITIVE] * 3
    assert np.isnan(of_study[patients == "p3"]).all()
    assert labels(project, "epidural")["p1"] == [0, 0, 0]  # the study is negative for this label
    counts = report.version.summary["label_counts"]
    assert counts["level"] == "study"
    assert counts["slices"]["any"] == {"known": 6, "positive": 0, "unknown": 6}
    assert counts["groups"]["any"] == {"known": 3, "positive": 1, "unknown": 0}
    assert report.version.summary["defects"] == {}
    assert report.version.summary["prevalences"]["any"] is None
    assert report.version.summary["prevalences"]["epidural"] == 0


def test_version_depends_on_the_labels_of_studies(project: Project, files: Path) -> None:
    first = add(project, files, table({"ID_study0": NEGATIVE, "ID_study1": POSITIVE}))
    assert not add(project, files, table({"ID_study1": POSITIVE, "ID_study0": NEGATIVE})).created
    unknown = add(project, files, table({"ID_study0": NEGATIVE, "ID_study1": [0, 0, 0, 0, NAN, 1]}))
    assert unknown.created
    assert unknown.version.label_digest != first.version.label_digest


@pytest.mark.parametrize(
    ("kind", "level", "ids"),
    [
        ("PatientID", "patient", ("0", "1")),
        ("SeriesInstanceUID", "series", ("ID_series0", "ID_series1")),
        ("folder", None, ("p0", "p1")),
        ("folder", "study", ("p0/study", "P1\\STUDY\\")),
    ],
)
def test_ids_of_groups(project: Project, files: Path, kind: str, level: str | None, ids: tuple[str, str]) -> None:
    report = add(project, files, table(dict(zip(ids, (NEGATIVE, POSITIVE), strict=True)), kind, level))
    assert labels(project)["p0"] == [0, 0, 0]
    assert np.isnan(labels(project)["p1"]).all()
    assert report.version.summary["labels_by"] == kind


def test_files_are_slices_if_each_id_is_one_slice(project: Project, files: Path) -> None:
    names = sorted(path.name for path in (files / "p0/study").iterdir())
    add(project, files, table({names[0]: POSITIVE, names[1]: NEGATIVE}, "file", None), folds=0)
    assert sorted(labels(project)["p0"]) == [0, 1]
    assert load_dataset(project, "cohort").version.summary["defects"] == {"no_label": 10}


def test_partial_labels_of_slices(project: Project, files: Path) -> None:
    slice_ids = write_study(files / "p9", "9", 4)
    rows = [[NAN, NAN, NAN, NAN, 1, NAN], [NAN] * 5 + [0.0], [NAN] * 4 + [0, NAN], POSITIVE]
    report = add(project, files, table(dict(zip(slice_ids, rows, strict=True)), "SOPInstanceUID", "slice"))
    data = load_dataset(project, "cohort").slices.set_index("slice_id").loc[slice_ids, list(LABELS)]
    assert data[ANY].tolist()[:2] == [1, 0]
    assert np.isnan(data[ANY].iloc[2])
    assert data.iloc[1].tolist() == NEGATIVE
    assert np.isnan(data["epidural"].iloc[0])
    assert report.version.defects == 0
    assert report.version.summary["label_counts"]["slices"]["subdural"] == {"known": 4, "positive": 2, "unknown": 12}


def test_what_follows_from_known_labels() -> None:
    given = [[NAN, 1, NAN, NAN, NAN, NAN], [NAN] * 5 + [0], [0, 0, 0, 0, 0, NAN], [0, 0, 0, 0, 0.5, NAN], [NAN] * 6]
    derived = derive_labels(np.array(given, np.float32))
    assert derived[0, 5] == 1
    assert np.isnan(derived[0, 0])
    assert derived[1].tolist() == NEGATIVE
    assert derived[2, 5] == 0
    assert derived[3, 5] == 0.5
    assert np.isnan(derived[4]).all()


def test_tables_complement_each_other(project: Project, files: Path) -> None:
    slice_ids = write_study(files / "p9", "9", 3)
    add(
        project,
        files,
        table({slice_ids[0]: POSITIVE}, "SOPInstanceUID", "slice"),
        table({"ID_study9": POSITIVE, "ID_study0": NEGATIVE}),
    )
    assert sorted(labels(project)["p9"])[0] == 1
    assert labels(project)["p0"] == [0, 0, 0]


def test_contradictions(project: Project, files: Path) -> None:
    slice_ids = write_study(files / "p9", "9", 2)
    of_slices = table(dict.fromkeys(slice_ids, POSITIVE), "SOPInstanceUID", "slice")
    assert "2 slices" in problem(project, files, of_slices, table({"ID_study9": NEGATIVE})).problem
    of_slices = table(dict.fromkeys(slice_ids, NEGATIVE), "SOPInstanceUID", "slice")
    assert "subdural" in problem(project, files, of_slices, table({"ID_study9": POSITIVE})).problem


def test_ids_that_match_nothing_or_several(project: Project, files: Path) -> None:
    found = problem(project, files, table({"1.2.3": POSITIVE}))
    assert "'1.2.3'" in found.problem
    assert "'ID_study0'" in found.problem
    write_study(files / "p0/later", "0", 2, start=50, StudyInstanceUID="ID_second", SeriesInstanceUID="ID_s2")
    assert "2 studies" in problem(project, files, table({"0": POSITIVE}, "PatientID", "study")).problem
    both = {"p0/later": POSITIVE, "p0": NEGATIVE}
    assert "several ids: p0" in problem(project, files, table(both, "folder", None)).problem.replace(
        "p0/later and ", ""
    )


def test_positive_patient_with_several_studies_is_unknown(project: Project, files: Path) -> None:
    write_study(files / "p0/later", "0", 2, start=50, StudyInstanceUID="ID_second", SeriesInstanceUID="ID_s2")
    report = add(project, files, table({"0": POSITIVE, "1": NEGATIVE}, "PatientID", "patient"))
    of_study = study_labels_of(load_dataset(project, "cohort").slices)
    assert of_study is not None
    assert not (of_study > 0).any()
    assert any("1 positive patient" in warning for warning in report.warnings)


def test_disagreeing_ids_of_a_study(project: Project, files: Path) -> None:
    write_study(files / "p0/second", "0", 2, start=50, SeriesInstanceUID="ID_s2")
    given = {"p0/study": POSITIVE, "p0/second": NEGATIVE, "p1": NEGATIVE}
    assert "p0/second and p0/study" in problem(project, files, table(given, "folder", "study")).problem
    add(project, files, table(given, "folder", "series"))
    found = labels(project)["p0"]
    assert sorted(found)[:2] == [0, 0]
    assert np.isnan(found).sum() == 3
