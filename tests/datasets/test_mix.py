"""Mixing datasets: what is refused, and what the parts keep."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dicom_files import write_ct, write_study

from ichx.datasets.add import AddRequest, add_dataset
from ichx.datasets.dataset import load_dataset, load_folds
from ichx.datasets.fold_import import import_folds
from ichx.datasets.mix import mix_datasets
from ichx.datasets.mix_request import MixRequest, PartRequest, joint_request
from ichx.errors import ConflictError, IchxError, InvalidInputError, NotFoundError
from ichx.labels import LABELS
from ichx.project import Project
from ichx.store import DatasetVersion, open_store
from ichx.workspace import init_workspace


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    workspace = init_workspace(tmp_path / "workspace")
    with open_store(workspace) as store:
        yield Project(workspace, store)


def add(
    project: Project, folder: Path, name: str, patients: str, *, folds: int = 2, keep_ids: bool = False
) -> DatasetVersion:
    """Add the dataset `name` with two studies of each patient; every other patient is positive."""
    owner = {}
    for patient in patients:
        for index in range(4):
            slice_id, study = f"ID_{name}{patient}{index}", f"ID_{name}{patient}study{index % 2}"
            ids = {"PatientID": patient, "StudyInstanceUID": study, "SeriesInstanceUID": f"{study}series"}
            place = {"InstanceNumber": index, "ImagePositionPatient": [-120, -120, 5 * index]}
            write_ct(folder / name / f"{slice_id}.dcm", SOPInstanceUID=slice_id, **ids, **place)
            owner[slice_id] = patient
    labels = folder / f"{name}.csv"
    rows = [f"{i}_{label},{patients.index(p) % 2}" for i, p in owner.items() for label in LABELS]
    labels.write_text("ID,Label\n" + "\n".join(rows) + "\n")
    request = AddRequest(name, folder / name, labels=labels, folds=folds, keep_ids=keep_ids)
    return add_dataset(project, request).version


def mix(project: Project, *parts: PartRequest | str, name: str = "both", folds: str | None = None) -> DatasetVersion:
    requested = tuple(PartRequest(part) if isinstance(part, str) else part for part in parts)
    return mix_datasets(project, MixRequest(name, requested, folds)).version


def test_the_order_of_parts_does_not_matter(project: Project, tmp_path: Path) -> None:
    add(project, tmp_path, "one", "abcd")
    add(project, tmp_path, "two", "efg")
    first, second = mix(project, "one", "two"), mix(project, "two", "one", name="other")
    assert (first.digest, first.label_digest) == (second.digest, second.label_digest)
    assert first.folds[0].digest == second.folds[0].digest
    assert (first.patients, first.slices, first.part_names) == (7, 28, ("one", "two"))
    assert mix(project, "two", "one") == first  # unchanged
    assert mix(project, "two", PartRequest("one", weight=2)).number == 2
    assert project.store.version("both").part_shares == (("one", 1.0), ("two", 0.5))


@pytest.mark.parametrize(
    ("parts", "name", "error", "words"),
    [
        (["one"], "both", InvalidInputError, ["at least two parts"]),
        (["one", "one"], "both", InvalidInputError, ["'one' is named twice"]),
        (["one", PartRequest("two", weight=0)], "both", InvalidInputError, ["weight of two: 0"]),
        (["one", PartRequest("two", weight=float("nan"))], "both", InvalidInputError, ["weight of two: nan"]),
        ([PartRequest(n, train_only=True) for n in ("one", "two")], "both", InvalidInputError, ["All parts train"]),
        (["one", "three"], "both", NotFoundError, ["three"]),
        (["one", PartRequest("two", 9)], "both", NotFoundError, ["no version 9"]),
        (["one", "two"], "one", ConflictError, ["'one' exists and is not a mixture"]),
        (["one", "two"], "a/b", InvalidInputError, ["'a/b'"]),
        (["one", "plain"], "both", ConflictError, ["'plain' has no labels"]),
        (["one", "many"], "both", ConflictError, ["one 2, many 3"]),
        (["one", "unscored"], "both", ConflictError, ["unscored has no folds"]),
        (["one", "same"], "both", ConflictError, ["2 patients are in one and same (by PatientID)"]),
        (["one", "kept"], "both", ConflictError, ["1 patient is in kept and one (by PatientID)"]),
    ],
)
def test_refused(
    project: Project,
    tmp_path: Path,
    parts: list[PartRequest | str],
    name: str,
    error: type[IchxError],
    words: list[str],
) -> None:
    add(project, tmp_path, "one", "abcd")
    add(project, tmp_path, "two", "efg")
    add(project, tmp_path, "many", "hijk", folds=3)
    add(project, tmp_path, "unscored", "l", folds=0)
    add(project, tmp_path, "same", "cdm")
    add(project, tmp_path, "kept", "dnop", keep_ids=True)
    write_study(tmp_path / "plain", "q", 2)
    add_dataset(project, AddRequest("plain", tmp_path / "plain"))
    before = {dataset.name: dataset.versions for dataset in project.store.datasets()}
    with pytest.raises(error) as raised:
        mix(project, *parts, name=name)
    for word in words:
        assert word in raised.value.problem
    assert raised.value.remedy
    assert {dataset.name: dataset.versions for dataset in project.store.datasets()} == before
    assert not (project.workspace.datasets_dir / "both").exists()


def test_a_mixture_is_no_part_and_no_source(project: Project, tmp_path: Path) -> None:
    add(project, tmp_path, "one", "abcd")
    add(project, tmp_path, "two", "efg")
    mix(project, "one", "two")
    with pytest.raises(ConflictError, match="'both' is a mixture itself"):
        mix(project, "both", "one", name="all")
    with pytest.raises(ConflictError, match="'both' is a mixture"):
        add(project, tmp_path, "both", "xyz")


def test_patients_with_equal_numbers_can_be_separate(project: Project, tmp_path: Path) -> None:
    add(project, tmp_path, "one", "abcd")
    add(project, tmp_path, "same", "cdm")
    version = mix(project, "one", PartRequest("same", separate=True))
    assert version.patients == 7
    data = load_dataset(project, "both")
    assert data.slices.groupby("patient")["part"].nunique().max() == 1


def test_ids_that_one_part_keeps_are_hashed(project: Project, tmp_path: Path) -> None:
    add(project, tmp_path, "one", "abcd")
    add(project, tmp_path, "kept", "efg", keep_ids=True)
    hidden = mix(project, "one", "kept")
    slices = load_dataset(project, "both").slices
    assert not hidden.summary["keep_ids"]
    assert set(slices["patient"].str.len()) == {16}
    add(project, tmp_path, "open", "xyz", keep_ids=True)
    assert mix(project, "open", "kept", name="known").summary["keep_ids"]
    assert set(load_dataset(project, "known").slices["patient"]) == set("efgxyz")


def test_folds_by_name_and_a_part_that_trains_only(project: Project, tmp_path: Path) -> None:
    for name, patients in (("one", "abcd"), ("two", "efgh")):
        add(project, tmp_path, name, patients)
        table = pd.DataFrame({"patient_id": list(patients), "fold": [0, 1, 2, 2]})
        table.to_csv(tmp_path / "three.csv", index=False)
        import_folds(project, name, tmp_path / "three.csv")
    add(project, tmp_path, "unscored", "l", folds=0)
    version = mix(project, "one", "two", PartRequest("unscored", train_only=True), folds="three")
    data = load_dataset(project, "both")
    folds = load_folds(project.workspace, version, version.fold_set(), data.slices)
    assert version.fold_set().k == 3
    assert {part: sorted(set(folds[data.slices["part"] == part])) for part in ("one", "two", "unscored")} == {
        "one": [0, 1, 2],
        "two": [0, 1, 2],
        "unscored": [-1],
    }
    again = pd.DataFrame({"slice_id": data.slices["slice_id"], "fold": np.where(folds == -1, -1, folds % 2)})
    again.to_csv(tmp_path / "halves.csv", index=False)
    assert import_folds(project, "both", tmp_path / "halves.csv").version.part_names == ("one", "two", "unscored")


def test_a_name_of_parts(project: Project, tmp_path: Path) -> None:
    add(project, tmp_path, "one", "abcd")
    add(project, tmp_path, "two", "efg")
    version = mix_datasets(project, joint_request("two+one")).version
    assert (version.dataset, version.part_names) == ("two+one", ("one", "two"))
    with pytest.raises(NotFoundError):
        mix_datasets(project, joint_request("two+"))
