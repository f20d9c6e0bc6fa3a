"""Importing folds as a new version."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dicom_files import write_ct, write_study

from ichx.datasets.add import AddRequest, add_dataset
from ichx.datasets.dataset import describe_dataset, load_dataset, load_folds
from ichx.datasets.fold_import import LeakyFoldsError, describe_folds, export_folds, import_folds
from ichx.errors import ConflictError, IchxError, InvalidInputError, NotFoundError, StoreError
from ichx.labels import LABELS
from ichx.project import Project
from ichx.store import Store
from ichx.workspace import Workspace

PATIENTS, SLICES = 6, 4


@pytest.fixture
def owner(tmp_path: Path, workspace: Workspace, store: Store) -> dict[str, str]:
    """Return the patient of each slice of the dataset `train`, which has 2 default folds and a file with a defect."""
    source = tmp_path / "files"
    owner = {i: str(p) for p in range(PATIENTS) for i in write_study(source / f"s{p}", str(p), SLICES)}
    write_ct(source / "ID_broken.dcm", SOPInstanceUID="ID_broken", PatientID="0", Rows=None)
    rows = [f"{i}_{label},{int(owner[i] in '024')}" for i in owner for label in LABELS]
    rows += [f"ID_broken_{label},0" for label in LABELS]
    labels = tmp_path / "labels.csv"
    labels.write_text("ID,Label\n" + "\n".join(rows) + "\n")
    add_dataset(Project(workspace, store), AddRequest("train", source, labels=labels, folds=2))
    return owner


def write(path: Path, header: str, folds: dict[str, int]) -> Path:
    path.write_text(f"{header}\n" + "".join(f"{name},{fold}\n" for name, fold in folds.items()))
    return path


def loaded(workspace: Workspace, store: Store, name: str, number: int | None = None) -> dict[str, int]:
    """Return the fold of each slice id."""
    data = load_dataset(Project(workspace, store), "train", number)
    folds = load_folds(workspace, data.version, data.version.fold_set(name))
    return dict(zip(data.slices["slice_id"], folds.tolist(), strict=True))


def grouped(owner: dict[str, str]) -> dict[str, int]:
    return {i: int(p) % 3 for i, p in owner.items()}


def test_import_creates_a_version(tmp_path: Path, workspace: Workspace, store: Store, owner) -> None:
    first = store.version("train")
    default = loaded(workspace, store, "default")
    report = import_folds(
        Project(workspace, store), "train", write(tmp_path / "theirs.csv", "slice_id,fold", grouped(owner))
    )
    assert (report.created, report.leaks, report.warnings) == (True, (), ())
    assert report.version == store.version("train")
    assert report.version.number == 2
    assert [(f.name, f.k, f.leaky, f.source) for f in report.version.folds] == [
        ("default", 2, False, None),
        ("theirs", 3, False, "theirs.csv"),
    ]
    assert loaded(workspace, store, "theirs") == grouped(owner)
    assert loaded(workspace, store, "default") == default
    same = ("digest", "label_digest", "slices", "patients", "defects", "source", "summary")
    assert [getattr(report.version, name) for name in same] == [getattr(first, name) for name in same]
    assert store.version("train", 1) == first
    assert loaded(workspace, store, "default", 1) == default
    assert [path.name for path in (workspace.datasets_dir / "train").iterdir() if path.name[0] == "."] == []


@pytest.mark.parametrize("form", ["file", "name", "case", "path", "patient", "hash"])
def test_accepted_ids(tmp_path: Path, workspace: Workspace, store: Store, owner, form: str) -> None:
    slices = load_dataset(Project(workspace, store), "train").slices
    ids = {
        "file": slices["file"],
        "name": slices["stem"] + ".png",
        "case": slices["stem"].str.swapcase() + ".PNG",
        "path": "/kaggle/input/" + slices["file"],
        "patient": slices["slice_id"].map(owner),
        "hash": slices["patient"],
    }[form]
    folds = dict(zip(ids, slices["slice_id"].map(grouped(owner)), strict=True))
    header = "patient_id,fold" if form in ("patient", "hash") else "filename,fold"
    report = import_folds(Project(workspace, store), "train", write(tmp_path / "f.csv", header, folds), name="theirs")
    assert loaded(workspace, store, "theirs") == grouped(owner)
    matched = {"file": "path", "patient": "PatientID", "hash": "PatientID"}.get(form, "file name")
    assert report.messages[0].endswith(f" {matched}.")


def test_stored_patient_ids(tmp_path: Path, workspace: Workspace, store: Store, owner) -> None:
    add_dataset(
        Project(workspace, store),
        AddRequest("train", tmp_path / "files", labels=tmp_path / "labels.csv", folds=2, keep_ids=True),
    )
    import_folds(
        Project(workspace, store), "train", write(tmp_path / "f.csv", "patient,fold", {p: int(p) % 3 for p in "012345"})
    )
    assert loaded(workspace, store, "f") == grouped(owner)


def test_leaky_folds_are_rejected(tmp_path: Path, workspace: Workspace, store: Store, owner) -> None:
    folds = grouped(owner)
    first, second = [i for i in owner if owner[i] == "4"][:2]
    folds[first] = 0
    path = write(tmp_path / "theirs.csv", "image,fold", folds)
    with pytest.raises(LeakyFoldsError, match=r"1 of 6 patients \(16\.7%\)") as caught:
        import_folds(Project(workspace, store), "train", path)
    assert f"{first} in fold 0" in caught.value.problem
    assert "--allow-leaks" in caught.value.remedy
    assert caught.value.code == "conflict"
    (leak,) = caught.value.leaks
    assert (leak.slices, leak.folds) == (SLICES, {0: 1, 1: SLICES - 1})
    assert leak.examples[0] == first
    assert owner[leak.examples[1]] == "4"
    assert second != first
    assert store.version("train").number == 1
    assert [path.name for path in (workspace.datasets_dir / "train").iterdir()] == ["v1"]


def test_allowed_leaks_are_stored_by_slice(tmp_path: Path, workspace: Workspace, store: Store, owner) -> None:
    folds = {slice_id: index % 2 for index, slice_id in enumerate(owner)}
    path = write(tmp_path / "theirs.csv", "image,fold", folds)
    report = import_folds(Project(workspace, store), "train", path, allow_leaks=True)
    assert len(report.leaks) == report.fold_set.leaking_patients == PATIENTS
    assert report.fold_set.leaky
    assert "`leaky folds`" in report.warnings[0]
    assert f"{PATIENTS} of {PATIENTS} patients" in report.warnings[0]
    assert loaded(workspace, store, "theirs") == folds


def test_equal_folds_create_no_version_and_others_replace_them(
    tmp_path: Path, workspace: Workspace, store: Store, owner
) -> None:
    path = write(tmp_path / "theirs.csv", "image,fold", grouped(owner))
    first = import_folds(Project(workspace, store), "train", path)
    again = import_folds(Project(workspace, store), "train", path)
    assert (again.created, again.version, again.fold_set) == (False, first.version, first.fold_set)
    twin = import_folds(Project(workspace, store), "train", path, name="twin")
    assert twin.messages[-1].endswith(" theirs.")
    assert twin.fold_set.digest == first.fold_set.digest
    changed = {i: (fold + 1) % 3 for i, fold in grouped(owner).items()}
    other = import_folds(Project(workspace, store), "train", write(path, "image,fold", changed))
    assert other.version.number == 4
    assert [f.name for f in other.version.folds] == ["default", "twin", "theirs"]
    assert re.search(f"theirs .* 3, .*{first.fold_set.digest}", other.messages[-1])
    assert loaded(workspace, store, "theirs") == changed
    assert loaded(workspace, store, "theirs", 3) == grouped(owner)


def test_leaky_folds_can_be_replaced_and_vice_versa(tmp_path: Path, workspace: Workspace, store: Store, owner) -> None:
    """The file has slices in one version and patients in the next."""
    path = tmp_path / "theirs.csv"
    leaky = {slice_id: index % 2 for index, slice_id in enumerate(owner)}
    for folds in (leaky, grouped(owner), leaky):
        import_folds(Project(workspace, store), "train", write(path, "image,fold", folds), allow_leaks=True)
        assert loaded(workspace, store, "theirs") == folds
    assert [store.version("train", n).fold_set("theirs").leaking_patients for n in (2, 3, 4)] == [6, 0, 6]


def test_slices_without_fold_and_unknown_ids_are_rejected(
    tmp_path: Path, workspace: Workspace, store: Store, owner
) -> None:
    folds = grouped(owner)
    missing = list(owner)[:5]
    for name in missing:
        del folds[name]
    folds |= {"ID_other": 0, "ID_broken": 1}
    with pytest.raises(InvalidInputError) as caught:
        import_folds(Project(workspace, store), "train", write(tmp_path / "f.csv", "image,fold", folds))
    unknown, without = caught.value.problem.splitlines()
    assert re.search(r"1 id .*ID_other\.$", unknown)
    assert f"5 slices of {PATIENTS * SLICES} " in without
    assert set(re.findall(r"ID_\w+", without)) <= set(missing)
    assert store.version("train").number == 1


def test_ids_of_excluded_files_are_reported(tmp_path: Path, workspace: Workspace, store: Store, owner) -> None:
    path = write(tmp_path / "f.csv", "image,fold", grouped(owner) | {"ID_broken": 1})
    assert import_folds(Project(workspace, store), "train", path).messages[1].startswith("1 id ")
    alone = write(tmp_path / "g.csv", "image,fold", grouped(owner) | {"ID_broken": 3})
    with pytest.raises(InvalidInputError, match="fold 3"):
        import_folds(Project(workspace, store), "train", alone)


def test_patients_without_fold_are_rejected(tmp_path: Path, workspace: Workspace, store: Store, owner) -> None:
    path = write(tmp_path / "f.csv", "patient_id,fold", {"0": 1, "1": 2, "2": 1, "3": 2, "9": 1})
    with pytest.raises(InvalidInputError) as caught:
        import_folds(Project(workspace, store), "train", path)
    unknown, without = caught.value.problem.splitlines()
    assert re.search(r"1 id .*9\.$", unknown)
    assert re.search("8 slices of 24 .*ID_", without)


def test_ids_without_a_match_are_rejected(tmp_path: Path, workspace: Workspace, store: Store, owner) -> None:
    with pytest.raises(InvalidInputError, match=r"f\.csv.*'x'.*slice of train version 1"):
        import_folds(Project(workspace, store), "train", write(tmp_path / "f.csv", "image,fold", {"x": 0, "y": 1}))
    with pytest.raises(InvalidInputError, match=r"f\.csv.*'x'.*patient of train version 1"):
        import_folds(Project(workspace, store), "train", write(tmp_path / "f.csv", "patient,fold", {"x": 0, "y": 1}))


def test_uids_and_file_names_give_equal_folds(tmp_path: Path, workspace: Workspace, store: Store) -> None:
    source, uids = tmp_path / "named", {f"slice{n}": f"1.2.840.{n}" for n in range(4)}
    for n, (stem, uid) in enumerate(uids.items()):
        write_ct(source / f"{stem}.dcm", SOPInstanceUID=uid, PatientID=str(n))
    labels = tmp_path / "named.csv"
    labels.write_text("ID,Label\n" + "".join(f"{u}_{label},1\n" for u in uids.values() for label in LABELS))
    add_dataset(Project(workspace, store), AddRequest("named", source, labels=labels, folds=2))
    by_uid = write(tmp_path / "u.csv", "SOPInstanceUID,fold", {u: n % 2 for n, u in enumerate(uids.values())})
    by_stem = write(tmp_path / "s.csv", "image,fold", {s: n % 2 for n, s in enumerate(uids)})
    first, second = (import_folds(Project(workspace, store), "named", path) for path in (by_uid, by_stem))
    assert first.messages[0].endswith(" SOPInstanceUID.")
    assert second.messages[0].endswith(" file name.")
    assert first.fold_set.digest == second.fold_set.digest


def test_ambiguous_file_names_require_paths(tmp_path: Path, workspace: Workspace, store: Store) -> None:
    """Each patient has a folder with 0.dcm and 1.dcm."""
    source, uids = tmp_path / "alike", {}
    for patient in range(3):
        for n in range(2):
            uids[f"p{patient}/{n}.dcm"] = uid = f"ID_{patient}x{n}"
            write_ct(source / f"p{patient}" / f"{n}.dcm", SOPInstanceUID=uid, PatientID=str(patient))
    labels = tmp_path / "alike.csv"
    labels.write_text("ID,Label\n" + "".join(f"{u}_{label},1\n" for u in uids.values() for label in LABELS))
    add_dataset(Project(workspace, store), AddRequest("alike", source, labels=labels, folds=2))
    with pytest.raises(InvalidInputError, match="alike version 1"):
        import_folds(Project(workspace, store), "alike", write(tmp_path / "f.csv", "image,fold", {"0": 0, "1": 1}))
    folds = {file: int(file[1]) for file in uids}
    report = import_folds(Project(workspace, store), "alike", write(tmp_path / "g.csv", "path,fold", folds))
    assert report.fold_set.k == 3


@pytest.mark.parametrize(
    ("name", "error"), [("default", ConflictError), ("a b", InvalidInputError), ("../up", InvalidInputError)]
)
def test_invalid_names(
    tmp_path: Path, workspace: Workspace, store: Store, owner, name: str, error: type[IchxError]
) -> None:
    path = write(tmp_path / "f.csv", "image,fold", grouped(owner))
    with pytest.raises(error, match=f"'{name}'"):
        import_folds(Project(workspace, store), "train", path, name=name)


def test_test_set_has_no_folds(tmp_path: Path, workspace: Workspace, store: Store, owner) -> None:
    write_study(tmp_path / "test", "9", 2)
    add_dataset(Project(workspace, store), AddRequest("hidden", tmp_path / "test", test_of="train"))
    path = write(tmp_path / "f.csv", "image,fold", grouped(owner))
    with pytest.raises(ConflictError, match="hidden"):
        import_folds(Project(workspace, store), "hidden", path)
    with pytest.raises(ConflictError, match="hidden"):
        describe_folds(Project(workspace, store), "hidden")
    with pytest.raises(NotFoundError, match="'trian'"):
        import_folds(Project(workspace, store), "trian", path)


def test_failing_store_leaves_no_folder(
    tmp_path: Path, workspace: Workspace, store: Store, owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(draft: object) -> None:
        raise StoreError("The disk is full.", "Free some space.")

    monkeypatch.setattr(store, "add_version", fail)
    with pytest.raises(StoreError):
        import_folds(Project(workspace, store), "train", write(tmp_path / "f.csv", "image,fold", grouped(owner)))
    assert [path.name for path in (workspace.datasets_dir / "train").iterdir()] == ["v1"]


def test_describe_folds(tmp_path: Path, workspace: Workspace, store: Store, owner) -> None:
    leaky = {slice_id: index % 2 for index, slice_id in enumerate(owner)}
    import_folds(Project(workspace, store), "train", write(tmp_path / "f.csv", "image,fold", leaky), allow_leaks=True)
    fold_sets = describe_folds(Project(workspace, store), "train")["fold_sets"]
    assert [(each["fold_set"].name, each["default"], len(each["leaks"])) for each in fold_sets] == [
        ("default", True, 0),
        ("f", False, PATIENTS),
    ]
    slices = load_dataset(Project(workspace, store), "train").slices
    for each in fold_sets:
        folds = np.array(list(map(loaded(workspace, store, each["fold_set"].name).get, slices["slice_id"])))
        shares = slices.groupby(folds)["any"].mean()
        assert [fold["prevalences"]["any"] for fold in each["folds"]] == pytest.approx(shares.tolist())
        assert [fold["slices"] for fold in each["folds"]] == np.bincount(folds).tolist()
        assert each["deviation"] == pytest.approx(max(abs(shares / slices["any"].mean() - 1)))
    (single,) = describe_folds(Project(workspace, store), "train", name="f")["fold_sets"]
    assert single["fold_set"].name == "f"
    assert len(describe_folds(Project(workspace, store), "train", 1)["fold_sets"]) == 1
    with pytest.raises(NotFoundError, match=r"train version 1 .*'f'") as caught:
        describe_folds(Project(workspace, store), "train", 1, "f")
    assert "default" in caught.value.remedy
    assert describe_dataset(Project(workspace, store), "train")["folds"] == fold_sets[0]["folds"]


def test_new_version_has_no_imported_folds(tmp_path: Path, workspace: Workspace, store: Store, owner) -> None:
    import_folds(Project(workspace, store), "train", write(tmp_path / "f.csv", "image,fold", grouped(owner)))

    def add():
        return add_dataset(
            Project(workspace, store), AddRequest("train", tmp_path / "files", labels=tmp_path / "labels.csv", folds=2)
        )

    assert not add().created
    pd.read_csv(tmp_path / "labels.csv").assign(Label=1).to_csv(tmp_path / "labels.csv", index=False)
    report = add()
    assert report.version.number == 3
    assert [f.name for f in report.version.folds] == ["default"]
    assert any("(f)" in warning for warning in report.warnings)


@pytest.mark.parametrize("file", ["out.csv", "out.csv.gz"])
@pytest.mark.parametrize("leaky", [False, True])
def test_exported_folds_are_imported_as_the_same_folds(
    tmp_path: Path, workspace: Workspace, store: Store, owner, file: str, leaky: bool
) -> None:
    project = Project(workspace, store)
    folds = {i: n % 2 for n, i in enumerate(owner)} if leaky else grouped(owner)
    source = write(tmp_path / "theirs.csv", "image,fold", folds)
    theirs = import_folds(project, "train", source, allow_leaks=True).fold_set
    assert export_folds(project, "train", tmp_path / file, name="theirs") == theirs
    report = import_folds(project, "train", tmp_path / file, name="again", allow_leaks=leaky)
    assert (report.fold_set.digest, report.fold_set.k) == (theirs.digest, theirs.k)
    assert report.fold_set.leaking_patients == theirs.leaking_patients
    assert loaded(workspace, store, "again") == folds


def test_export_of_default_folds_and_of_an_old_version(
    tmp_path: Path, workspace: Workspace, store: Store, owner
) -> None:
    project = Project(workspace, store)
    import_folds(project, "train", write(tmp_path / "theirs.csv", "image,fold", grouped(owner)))
    path = tmp_path / "default.csv"
    assert export_folds(project, "train", path, 1).name == "default"
    exported = pd.read_csv(path).set_index("slice_id")["fold"].to_dict()
    assert exported == loaded(workspace, store, "default")
    with pytest.raises(NotFoundError, match="theirs"):
        export_folds(project, "train", path, 1, "theirs")
