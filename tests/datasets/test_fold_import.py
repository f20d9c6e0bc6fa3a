"""Importing folds: a new version with them, leaks found and kept, and files that do not fit refused."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dicom_files import write_ct, write_study

from ichx.datasets.add import AddRequest, add_dataset
from ichx.datasets.dataset import describe, load_dataset, load_folds
from ichx.datasets.fold_import import LeakyFoldsError, describe_folds, import_folds
from ichx.errors import IchxError, NotFoundError
from ichx.labels import LABELS
from ichx.project import Project
from ichx.store import Store, open_store
from ichx.workspace import Workspace, init_workspace

PATIENTS, SLICES = 6, 4


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return init_workspace(tmp_path / "workspace")


@pytest.fixture
def store(workspace: Workspace) -> Iterator[Store]:
    with open_store(workspace) as opened:
        yield opened


@pytest.fixture
def owner(tmp_path: Path, workspace: Workspace, store: Store) -> dict[str, str]:
    """Return the patient of each slice of the dataset `train`, which has 2 folds of its own and a defective file."""
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
    """Return the fold of each slice id as training sees it."""
    data = load_dataset(Project(workspace, store), "train", number)
    folds = load_folds(workspace, data.version, data.version.fold_set(name))
    return dict(zip(data.slices["slice_id"], folds.tolist(), strict=True))


def grouped(owner: dict[str, str]) -> dict[str, int]:
    return {i: int(p) % 3 for i, p in owner.items()}


def test_folds_by_slice_make_a_new_version(tmp_path: Path, workspace: Workspace, store: Store, owner) -> None:
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


@pytest.mark.parametrize("form", ["file", "name", "path", "patient", "hash"])
def test_ids_are_what_people_have(tmp_path: Path, workspace: Workspace, store: Store, owner, form: str) -> None:
    slices = load_dataset(Project(workspace, store), "train").slices
    ids = {
        "file": slices["file"],
        "name": slices["stem"] + ".png",
        "path": "/kaggle/input/" + slices["file"],
        "patient": slices["slice_id"].map(owner),
        "hash": slices["patient"],
    }[form]
    folds = dict(zip(ids, slices["slice_id"].map(grouped(owner)), strict=True))
    header = "patient_id,fold" if form in ("patient", "hash") else "filename,fold"
    report = import_folds(Project(workspace, store), "train", write(tmp_path / "f.csv", header, folds), name="theirs")
    assert loaded(workspace, store, "theirs") == grouped(owner)
    matched = {"file": "path", "patient": "PatientID", "hash": "PatientID"}.get(form, "file name")
    assert f"matched by {matched}" in report.messages[0]


def test_unhashed_patients(tmp_path: Path, workspace: Workspace, store: Store, owner) -> None:
    add_dataset(
        Project(workspace, store),
        AddRequest("train", tmp_path / "files", labels=tmp_path / "labels.csv", folds=2, keep_ids=True),
    )
    import_folds(
        Project(workspace, store), "train", write(tmp_path / "f.csv", "patient,fold", {p: int(p) % 3 for p in "012345"})
    )
    assert loaded(workspace, store, "f") == grouped(owner)


def test_leaks_are_refused_with_what_to_do(tmp_path: Path, workspace: Workspace, store: Store, owner) -> None:
    folds = grouped(owner)
    first, second = [i for i in owner if owner[i] == "4"][:2]
    folds[first] = 0
    path = write(tmp_path / "theirs.csv", "image,fold", folds)
    with pytest.raises(LeakyFoldsError, match=r"1 of 6 patients \(16.7%\) in more than one fold") as caught:
        import_folds(Project(workspace, store), "train", path)
    assert f"{first} in fold 0" in caught.value.problem
    assert "--allow-leaks" in caught.value.remedy
    assert "own folds" in caught.value.remedy
    (leak,) = caught.value.leaks
    assert (leak.slices, leak.folds) == (SLICES, {0: 1, 1: SLICES - 1})
    assert leak.examples[0] == first
    assert owner[leak.examples[1]] == "4"
    assert second != first
    assert store.version("train").number == 1
    assert [path.name for path in (workspace.datasets_dir / "train").iterdir()] == ["v1"]


def test_allowed_leaks_are_kept_slice_by_slice(tmp_path: Path, workspace: Workspace, store: Store, owner) -> None:
    folds = {i: place % 2 for place, i in enumerate(owner)}
    path = write(tmp_path / "theirs.csv", "image,fold", folds)
    report = import_folds(Project(workspace, store), "train", path, allow_leaks=True)
    assert len(report.leaks) == report.fold_set.leaking_patients == PATIENTS
    assert report.fold_set.leaky
    assert "every score on these folds is marked `leaky folds`" in report.warnings[0]
    assert loaded(workspace, store, "theirs") == folds


def test_the_same_again_makes_no_version_and_others_replace(
    tmp_path: Path, workspace: Workspace, store: Store, owner
) -> None:
    path = write(tmp_path / "theirs.csv", "image,fold", grouped(owner))
    first = import_folds(Project(workspace, store), "train", path)
    again = import_folds(Project(workspace, store), "train", path)
    assert (again.created, again.version, again.fold_set) == (False, first.version, first.fold_set)
    twin = import_folds(Project(workspace, store), "train", path, name="twin")
    assert "each slice is in the same fold as in the folds theirs" in twin.messages
    assert twin.fold_set.digest == first.fold_set.digest
    changed = {i: (fold + 1) % 3 for i, fold in grouped(owner).items()}
    other = import_folds(Project(workspace, store), "train", write(path, "image,fold", changed))
    assert other.version.number == 4
    assert [f.name for f in other.version.folds] == ["default", "twin", "theirs"]
    assert any(
        f"in place of the folds theirs of version 3, digest {first.fold_set.digest}" in m for m in other.messages
    )
    assert loaded(workspace, store, "theirs") == changed
    assert loaded(workspace, store, "theirs", 3) == grouped(owner)


def test_leaky_folds_may_be_replaced_by_honest_ones(tmp_path: Path, workspace: Workspace, store: Store, owner) -> None:
    """And the other way round: the file holds slices in one version and patients in the next."""
    path = tmp_path / "theirs.csv"
    leaky = {i: place % 2 for place, i in enumerate(owner)}
    for folds in (leaky, grouped(owner), leaky):
        import_folds(Project(workspace, store), "train", write(path, "image,fold", folds), allow_leaks=True)
        assert loaded(workspace, store, "theirs") == folds
    assert [store.version("train", n).fold_set("theirs").leaking_patients for n in (2, 3, 4)] == [6, 0, 6]


def test_every_slice_needs_a_fold_and_every_id_a_slice(
    tmp_path: Path, workspace: Workspace, store: Store, owner
) -> None:
    folds = grouped(owner)
    gone = list(owner)[:5]
    for name in gone:
        del folds[name]
    folds |= {"ID_other": 0, "ID_broken": 1}
    with pytest.raises(IchxError) as caught:
        import_folds(Project(workspace, store), "train", write(tmp_path / "f.csv", "image,fold", folds))
    assert "1 id of no slice of train: ID_other" in caught.value.problem
    assert f"5 slices of {PATIENTS * SLICES} without a fold, e.g. " in caught.value.problem
    assert set(caught.value.problem.rpartition(", e.g. ")[2].split(", ")) <= set(gone)
    assert store.version("train").number == 1


def test_ids_of_defective_files_are_told_and_do_no_harm(
    tmp_path: Path, workspace: Workspace, store: Store, owner
) -> None:
    path = write(tmp_path / "f.csv", "image,fold", grouped(owner) | {"ID_broken": 1})
    assert "1 id in files that are left out" in import_folds(Project(workspace, store), "train", path).messages
    alone = write(tmp_path / "g.csv", "image,fold", grouped(owner) | {"ID_broken": 3})
    with pytest.raises(IchxError, match="no slice in fold 3"):
        import_folds(Project(workspace, store), "train", alone)


def test_patients_without_a_row(tmp_path: Path, workspace: Workspace, store: Store, owner) -> None:
    path = write(tmp_path / "f.csv", "patient_id,fold", {"0": 1, "1": 2, "2": 1, "3": 2, "9": 1})
    with pytest.raises(IchxError) as caught:
        import_folds(Project(workspace, store), "train", path)
    assert "1 id of no patient of train: 9" in caught.value.problem
    assert "8 slices of 24 without a fold, e.g. ID_" in caught.value.problem


def test_ids_of_another_dataset(tmp_path: Path, workspace: Workspace, store: Store, owner) -> None:
    with pytest.raises(IchxError, match=r"no id in .* belongs to a slice of train version 1") as caught:
        import_folds(Project(workspace, store), "train", write(tmp_path / "f.csv", "image,fold", {"x": 0, "y": 1}))
    assert "'x'" in caught.value.problem
    with pytest.raises(IchxError, match="belongs to a patient of train"):
        import_folds(Project(workspace, store), "train", write(tmp_path / "f.csv", "patient,fold", {"x": 0, "y": 1}))


def test_uids_and_the_names_of_their_files(tmp_path: Path, workspace: Workspace, store: Store) -> None:
    source, uids = tmp_path / "named", {f"slice{n}": f"1.2.840.{n}" for n in range(4)}
    for n, (stem, uid) in enumerate(uids.items()):
        write_ct(source / f"{stem}.dcm", SOPInstanceUID=uid, PatientID=str(n))
    labels = tmp_path / "named.csv"
    labels.write_text("ID,Label\n" + "".join(f"{u}_{label},1\n" for u in uids.values() for label in LABELS))
    add_dataset(Project(workspace, store), AddRequest("named", source, labels=labels, folds=2))
    by_uid = write(tmp_path / "u.csv", "SOPInstanceUID,fold", {u: n % 2 for n, u in enumerate(uids.values())})
    by_stem = write(tmp_path / "s.csv", "image,fold", {s: n % 2 for n, s in enumerate(uids)})
    first, second = (import_folds(Project(workspace, store), "named", path) for path in (by_uid, by_stem))
    assert "matched by SOPInstanceUID" in first.messages[0]
    assert "matched by file name" in second.messages[0]
    assert first.fold_set.digest == second.fold_set.digest


def test_files_that_are_called_alike_need_their_paths(tmp_path: Path, workspace: Workspace, store: Store) -> None:
    """Slices named 0.dcm, 1.dcm in a folder per patient: names alone say nothing, paths do."""
    source, uids = tmp_path / "alike", {}
    for patient in range(3):
        for n in range(2):
            uids[f"p{patient}/{n}.dcm"] = uid = f"ID_{patient}x{n}"
            write_ct(source / f"p{patient}" / f"{n}.dcm", SOPInstanceUID=uid, PatientID=str(patient))
    labels = tmp_path / "alike.csv"
    labels.write_text("ID,Label\n" + "".join(f"{u}_{label},1\n" for u in uids.values() for label in LABELS))
    add_dataset(Project(workspace, store), AddRequest("alike", source, labels=labels, folds=2))
    with pytest.raises(IchxError, match="no id in"):
        import_folds(Project(workspace, store), "alike", write(tmp_path / "f.csv", "image,fold", {"0": 0, "1": 1}))
    folds = {file: int(file[1]) for file in uids}
    report = import_folds(Project(workspace, store), "alike", write(tmp_path / "g.csv", "path,fold", folds))
    assert report.fold_set.k == 3


@pytest.mark.parametrize(
    ("name", "told"), [("default", "drew itself"), ("a b", "no name for folds"), ("../up", "no name for folds")]
)
def test_names_that_cannot_be(tmp_path: Path, workspace: Workspace, store: Store, owner, name: str, told: str) -> None:
    path = write(tmp_path / "f.csv", "image,fold", grouped(owner))
    with pytest.raises(IchxError, match=told):
        import_folds(Project(workspace, store), "train", path, name=name)


def test_only_what_is_trained_on_has_folds(tmp_path: Path, workspace: Workspace, store: Store, owner) -> None:
    write_study(tmp_path / "test", "9", 2)
    add_dataset(Project(workspace, store), AddRequest("hidden", tmp_path / "test", test_of="train"))
    path = write(tmp_path / "f.csv", "image,fold", grouped(owner))
    for act in (
        lambda: import_folds(Project(workspace, store), "hidden", path),
        lambda: describe_folds(Project(workspace, store), "hidden"),
    ):
        with pytest.raises(IchxError, match="hidden is not trained on"):
            act()
    with pytest.raises(NotFoundError, match="'trian'"):
        import_folds(Project(workspace, store), "trian", path)


def test_a_store_that_fails_leaves_no_folder(
    tmp_path: Path, workspace: Workspace, store: Store, owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(draft: object) -> None:
        raise IchxError("the store is full", "make room")

    monkeypatch.setattr(store, "add_version", fail)
    with pytest.raises(IchxError, match="the store is full"):
        import_folds(Project(workspace, store), "train", write(tmp_path / "f.csv", "image,fold", grouped(owner)))
    assert [path.name for path in (workspace.datasets_dir / "train").iterdir()] == ["v1"]


def test_what_is_told_of_folds(tmp_path: Path, workspace: Workspace, store: Store, owner) -> None:
    leaky = {i: place % 2 for place, i in enumerate(owner)}
    import_folds(Project(workspace, store), "train", write(tmp_path / "f.csv", "image,fold", leaky), allow_leaks=True)
    told = describe_folds(Project(workspace, store), "train")
    assert [(t["fold_set"].name, t["default"], len(t["leaks"])) for t in told["fold_sets"]] == [
        ("default", True, 0),
        ("f", False, PATIENTS),
    ]
    slices = load_dataset(Project(workspace, store), "train").slices
    for t in told["fold_sets"]:
        folds = np.array(list(map(loaded(workspace, store, t["fold_set"].name).get, slices["slice_id"])))
        shares = slices.groupby(folds)["any"].mean()
        assert [f["prevalences"]["any"] for f in t["folds"]] == pytest.approx(shares.tolist())
        assert [f["slices"] for f in t["folds"]] == np.bincount(folds).tolist()
        assert t["deviation"] == pytest.approx(max(abs(shares / slices["any"].mean() - 1)))
    (alone,) = describe_folds(Project(workspace, store), "train", name="f")["fold_sets"]
    assert alone["fold_set"].name == "f"
    assert len(describe_folds(Project(workspace, store), "train", 1)["fold_sets"]) == 1
    with pytest.raises(NotFoundError, match="train version 1 has no folds 'f'") as caught:
        describe_folds(Project(workspace, store), "train", 1, "f")
    assert "it has default" in caught.value.remedy
    shown = describe(Project(workspace, store), "train")["folds"]
    assert shown == told["fold_sets"][0]["folds"]


def test_adding_the_files_again_keeps_imported_folds_until_they_change(
    tmp_path: Path, workspace: Workspace, store: Store, owner
) -> None:
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
    assert any("imported folds do not come along (f)" in warning for warning in report.warnings)
