"""Patients, studies and series of slices whose ids are missing, shared or placeholders."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dicom_files import write_study
from hypothesis import given, settings
from hypothesis import strategies as st

from ichx.datasets.add import AddRequest, add_dataset
from ichx.datasets.catalog import build_catalog, hash_ids, usable_slices
from ichx.datasets.dataset import load_dataset, load_folds
from ichx.datasets.fold_import import LeakyFoldsError, describe_folds, import_folds
from ichx.datasets.identity import MANY_PATIENTS, MANY_STUDIES, identify, of_known_patients
from ichx.datasets.ingest import scan_source
from ichx.errors import InvalidInputError, NotReadyError
from ichx.experiments.register import labelled_version
from ichx.labels import LABELS
from ichx.project import Project
from ichx.store import open_store
from ichx.workspace import init_workspace


def identified(*rows: tuple[str, str, str], group_by: str = "patient") -> tuple[pd.DataFrame, dict[str, int]]:
    """Return the ids and counts of slices 0, 1, ... with these PatientIDs, StudyInstanceUIDs and SeriesInstanceUIDs."""
    scan = pd.DataFrame(rows, columns=["patient_id", "study_id", "series_id"])
    scan.insert(0, "slice_id", [f"{n:04}" for n in range(len(scan))])
    return identify(scan, group_by)  # type: ignore[arg-type]


def groups(column: pd.Series) -> list[int]:
    return pd.factorize(column)[0].tolist()


def test_valid_ids_are_unchanged() -> None:
    ids, counts = identified(("p", "s", "a"), ("p", "s", "b"), ("p", "t", "c"), ("q", "u", "d"))
    assert ids["patient"].tolist() == ["p", "p", "p", "q"]
    assert ids["study"].tolist() == ["s", "s", "t", "u"]
    assert ids["series"].tolist() == ["a", "b", "c", "d"]
    assert ids["patient_id"].tolist() == [""] * 4
    assert not any(counts.values())


@pytest.mark.parametrize("other", ["UNKNOWN", "", "P", "p "])
def test_patients_that_share_a_study_are_one(other: str) -> None:
    ids, counts = identified(("p", "s", "a"), (other, "s", "a"), ("q", "t", "b"))
    assert ids["patient"].tolist() == ["p", "p", "q"]
    assert ids["patient_id"].tolist() == ["p", other or "study s", ""]
    assert (counts["joined_patients"], counts["joined_groups"]) == (2, 1)


def test_joining_is_transitive_and_does_not_depend_on_the_order_of_files() -> None:
    """p and q share a study, q and r a series; the patient of the first slice with a PatientID gives the name."""
    rows = [("", "s", "a"), ("q", "s", "a"), ("q", "t", "b"), ("r", "t", "b"), ("r", "u", "c"), ("x", "v", "d")]
    ids, counts = identified(*rows)
    assert ids["patient"].tolist() == ["q"] * 5 + ["x"]
    assert (counts["joined_patients"], counts["joined_groups"]) == (3, 1)
    scan = pd.DataFrame(rows, columns=["patient_id", "study_id", "series_id"])
    scan.insert(0, "slice_id", [f"{n:04}" for n in range(len(scan))])
    turned, _ = identify(scan.iloc[::-1])
    pd.testing.assert_frame_equal(turned.sort_index(), ids)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["", "p", "q", "r"]), st.sampled_from("stuvw"), st.sampled_from("abc"))))
def test_no_patient_shares_a_study_and_no_series_leaves_one(rows: list[tuple[str, str, str]]) -> None:
    ids, _ = identified(*rows)
    assert (ids.groupby("study")["patient"].nunique() <= 1).all()
    assert (ids.groupby("series")["study"].nunique() <= 1).all()
    own = ids["patient_id"].where(ids["patient_id"] != "", ids["patient"])
    assert (pd.DataFrame({"own": own, "patient": ids["patient"]}).groupby("own")["patient"].nunique() <= 1).all()


def test_one_series_uid_in_several_studies_is_several_series() -> None:
    rows = [(f"p{n}", f"s{n}", "1.2") for n in range(MANY_STUDIES + 1) for _ in range(2)]
    ids, counts = identified(*rows)
    assert groups(ids["series"]) == groups(ids["study"]) == groups(ids["patient"]) == [0, 0, 1, 1, 2, 2]
    assert (counts["shared_series"], counts["joined_patients"]) == (1, 0)


def test_a_series_in_two_studies_joins_their_patients() -> None:
    """The ids of a patient changed during the scan."""
    ids, counts = identified(("unknown", "s", "a"), ("p", "t", "a"))
    assert ids["patient"].nunique() == 1
    assert groups(ids["series"]) == [0, 1]
    assert (counts["shared_series"], counts["joined_patients"], counts["joined_groups"]) == (1, 2, 1)


def test_one_study_uid_of_many_patients_is_several_studies() -> None:
    ids, counts = identified(*[(f"p{n}", "1.2", "1.2.3") for n in range(MANY_PATIENTS + 1) for _ in range(2)])
    assert groups(ids["series"]) == groups(ids["study"]) == groups(ids["patient"])
    assert ids["study"].nunique() == MANY_PATIENTS + 1
    assert (counts["shared_studies"], counts["joined_patients"]) == (1, 0)


def test_missing_series_uids_are_one_series_per_study() -> None:
    rows = [("p", "s", ""), ("p", "s", ""), ("p", "s", "a"), ("q", "t", ""), ("q", "", ""), ("q", "", ""), ("", "", "")]
    ids, _ = identified(*rows)
    assert groups(ids["series"]) == [0, 0, 1, 2, 3, 3, 4]
    assert groups(ids["study"]) == [0, 0, 0, 1, 2, 2, 3]
    assert groups(ids["patient"]) == [0, 0, 0, 1, 1, 1, 2]


def test_grouping_by_study_ignores_patients() -> None:
    ids, counts = identified(*[("ANONYMOUS", f"s{n // 2}", f"a{n}") for n in range(6)], group_by="study")
    assert groups(ids["patient"]) == groups(ids["study"]) == [0, 0, 1, 1, 2, 2]
    assert not any(counts.values())


def test_a_patient_is_known_under_each_of_its_ids() -> None:
    """p and q share a study, so both count as p; datasets with q alone, or with q and r as one patient, know them."""
    joined, _ = identified(("p", "s", "a"), ("q", "s", "a"), ("x", "t", "b"))
    single, _ = identified(("q", "u", "c"), ("y", "v", "d"))
    others, _ = identified(("r", "w", "e"), ("q", "w", "e"), ("y", "v", "d"))
    assert of_known_patients(single, joined).tolist() == [True, False]
    assert of_known_patients(joined, single).tolist() == [True, True, False]
    assert of_known_patients(others, joined).tolist() == [True, True, False]


def test_studies_are_compared_where_one_dataset_is_grouped_by_study() -> None:
    rows = [("ANONYMOUS", "s", "a"), ("ANONYMOUS", "t", "b")]
    by_study, by_patient = identified(*rows, group_by="study")[0], identified(("p", "t", "c"), ("q", "u", "d"))[0]
    assert of_known_patients(by_patient, by_study).tolist() == [False, False]
    assert of_known_patients(by_patient, by_study, by_study=True).tolist() == [True, False]


def test_neighbours_stay_in_their_study(tmp_path: Path) -> None:
    """Each study has the same positions; without SeriesInstanceUIDs, its slices are one series."""
    for uid in ("1.2.3", None):
        folder = tmp_path / str(uid)
        for n in range(4):
            write_study(folder / str(n), str(n), 3, SeriesInstanceUID=uid)
        catalog, counts = build_catalog(scan_source(folder), b"key")
        slices = usable_slices(catalog)
        assert slices["order"].tolist() == [0, 1, 2] * 4
        assert slices["next"].tolist() == [1, 2, -1, 4, 5, -1, 7, 8, -1, 10, 11, -1]
        assert not slices["same_place"].any()
        assert counts["no_series_id"] == (0 if uid else 12)
        assert counts["shared_series"] == (1 if uid else 0)


def test_two_passes_in_one_series_are_flagged(tmp_path: Path) -> None:
    """Passes of one SeriesInstanceUID are not separated: their slices alternate, and `same_place` counts them."""
    for acquisition in (1, 2):
        for index in range(3):
            position = {"ImagePositionPatient": [-120, -120, 5.0 * index], "AcquisitionNumber": acquisition}
            write_study(tmp_path, "1", 1, start=10 * acquisition + index, **position)
    slices = usable_slices(build_catalog(scan_source(tmp_path), None)[0])
    assert slices["same_place"].tolist() == [False, True] * 3


@pytest.fixture
def project(tmp_path: Path):
    workspace = init_workspace(tmp_path / "workspace")
    with open_store(workspace) as store:
        yield Project(workspace, store)


def write_labels(path: Path, ids: list[str], every: int) -> Path:
    rows = [f"{slice_id}_{label},{n // every % 2}" for n, slice_id in enumerate(ids) for label in LABELS]
    path.write_text("ID,Label\n" + "\n".join(rows) + "\n")
    return path


def test_joined_patients_are_in_one_fold(tmp_path: Path, project: Project) -> None:
    """Each study has two PatientIDs: UNKNOWN and the real one, none and the real one, or another case."""
    ids = []
    for n in range(9):
        for half, patient in enumerate([[f"UNKNOWN{n}", "", f"p{n}"][n % 3], f"P{n}"]):
            same = {"StudyInstanceUID": f"1.{n}", "SeriesInstanceUID": f"1.{n}.1", "PatientID": patient}
            ids += write_study(tmp_path / "files" / f"{n}{half}", f"{n}{half}", 2, **same)
    labels = write_labels(tmp_path / "labels.csv", ids, 4)
    report = add_dataset(project, AddRequest("train", tmp_path / "files", labels=labels, folds=3))
    summary = report.version.summary
    assert (summary["joined_patients"], summary["joined_groups"], report.version.patients) == (18, 9, 9)
    assert any("18" in warning and "9" in warning for warning in report.warnings)
    slices = load_dataset(project, "train").slices
    folds = load_folds(project.workspace, report.version, report.version.folds[0], slices)
    assert pd.Series(folds).groupby(slices["study"]).nunique().max() == 1
    assert (slices["study"] == slices["series"].map(dict(zip(slices["series"], slices["study"], strict=True)))).all()
    assert [(a, b) for a, b in pairwise(groups(slices["series"])) if b - a not in (0, 1)] == []  # series are contiguous
    assert add_dataset(project, AddRequest("train", tmp_path / "files", labels=labels, folds=3)).created is False

    # The joined patients are also one patient for imported folds, by slice or by PatientID.
    path = tmp_path / "folds.csv"
    split = {slice_id: (n // 2) % 2 for n, slice_id in enumerate(ids)}
    path.write_text("slice_id,fold\n" + "".join(f"{i},{fold}\n" for i, fold in split.items()))
    with pytest.raises(LeakyFoldsError) as caught:
        import_folds(project, "train", path)
    assert len(caught.value.leaks) == 9
    patients = {p: n % 2 for n in range(9) if n % 3 != 1 for p in ([f"UNKNOWN{n}", "", f"p{n}"][n % 3], f"P{n}")}
    own = {f"P{n}": n % 2 for n in range(1, 9, 3)}
    key = project.workspace.privacy_key()
    missing = {hash_ids(pd.Series([f"study 1.{n}"]), key)[0]: n % 2 for n in range(1, 9, 3)}
    hashed = dict(zip(hash_ids(pd.Series([*patients, *own]), key), [*patients.values(), *own.values()], strict=True))
    path.write_text("patient_id,fold\n" + "".join(f"{p},{fold}\n" for p, fold in (hashed | missing).items()))
    imported = import_folds(project, "train", path)
    assert (imported.leaks, imported.fold_set.k) == ((), 2)


@pytest.fixture
def anonymous(tmp_path: Path) -> tuple[Path, Path]:
    """Return the files and labels of six studies whose PatientIDs are all the same."""
    ids = [i for n in range(6) for i in write_study(tmp_path / "files" / str(n), str(n), 2, PatientID="ANONYMOUS")]
    return tmp_path / "files", write_labels(tmp_path / "labels.csv", ids, 2)


def test_placeholders_need_a_grouping(project: Project, anonymous: tuple[Path, Path]) -> None:
    source, labels = anonymous
    with pytest.raises(InvalidInputError, match=r"1 patient .* 3 folds") as caught:
        add_dataset(project, AddRequest("train", source, labels=labels, folds=3))
    assert "`--group-by study`" in caught.value.remedy
    assert "6 studies" in caught.value.remedy
    assert "`--folds 0`" in caught.value.remedy
    assert project.store.datasets() == []


def test_grouping_by_study_is_marked(project: Project, anonymous: tuple[Path, Path]) -> None:
    source, labels = anonymous
    request = AddRequest("train", source, labels=labels, folds=3, group_by="study")
    report = add_dataset(project, request)
    assert report.version.summary["group_by"] == "study"
    assert report.version.patients == 6
    assert any("`--group-by study`" in warning for warning in report.warnings)
    assert describe_folds(project, "train")["group_by"] == "study"
    slices = load_dataset(project, "train").slices
    folds = load_folds(project.workspace, report.version, report.version.folds[0], slices)
    assert pd.Series(folds).groupby(slices["study"]).nunique().max() == 1
    assert np.bincount(folds).tolist() == [4, 4, 4]
    assert add_dataset(project, request).created is False
    with pytest.raises(InvalidInputError, match="'week'"):
        add_dataset(project, AddRequest("train", source, labels=labels, group_by="week"))  # type: ignore[arg-type]


def test_a_dataset_to_evaluate_needs_no_folds(project: Project, anonymous: tuple[Path, Path]) -> None:
    source, labels = anonymous
    version = add_dataset(project, AddRequest("hospital", source, labels=labels, folds=0)).version
    assert (version.folds, version.patients, version.slices) == ((), 1, 12)
    assert version.label_digest is not None
    assert "group_by" not in version.summary
    with pytest.raises(NotReadyError, match="hospital version 1"):
        describe_folds(project, "hospital")
    add_dataset(project, AddRequest("train", source, labels=labels, folds=3, group_by="study"))
    assert labelled_version(project.store, None).dataset == "train"  # the only one that can be trained on
    add_dataset(project, AddRequest("second", source, labels=labels, folds=3, group_by="study"))
    with pytest.raises(InvalidInputError, match="2 labelled datasets: second, train"):
        labelled_version(project.store, None)
