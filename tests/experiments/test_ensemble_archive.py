"""Ensembles move to another workspace with their members, or leave nothing there."""

import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ichx.errors import ChangedDataError, ConflictError, CorruptFileError, IchxError, NotReadyError, UnsupportedError
from ichx.evaluation.blend_record import LabelLoss
from ichx.evaluation.ensemble import EnsembleRequest, make_ensemble
from ichx.evaluation.ensemble_audit import audit_ensemble
from ichx.evaluation.ensemble_file import read_model
from ichx.evaluation.ensemble_submissions import submit_ensemble
from ichx.experiments.archive_import import import_experiment
from ichx.experiments.ensemble_archive import _renumbered_record, export_ensemble, import_ensemble
from ichx.experiments.register import ExperimentRequest
from ichx.experiments.register_sequence import new_sequence
from ichx.experiments.run import run_experiment
from ichx.plugins import load_registry
from ichx.project import Project
from ichx.store import Selection, open_store
from ichx.workspace import open_workspace


@pytest.fixture
def source(project: Project) -> Project:
    return Project(project.workspace, project.store, load_registry())


@pytest.fixture
def other(dataset_root: Path, tmp_path: Path) -> Iterator[Project]:
    """Return the project of another workspace with the same dataset and no experiment."""
    workspace = open_workspace(Path(shutil.copytree(dataset_root, tmp_path / "other")))
    with open_store(workspace) as store:
        yield Project(workspace, store, load_registry())


def exported(project: Project, file: Path, **options: object) -> Path:
    report = make_ensemble(project, EnsembleRequest(**{"members": (1, 2), "method": "stack"} | options))  # type: ignore[arg-type]
    return export_ensemble(project, report.ensemble.number, file).file


def test_an_ensemble_moves_with_its_members(source: Project, other: Project, tmp_path: Path) -> None:
    file = exported(source, tmp_path / "e.zip", smooth=True)
    source.store.rename_ensemble(1, "pair")
    before = source.store.ensemble(1)
    found = import_ensemble(other, file)
    assert (found.number, found.was, found.members, found.present) == (1, 1, {1: 1, 2: 2}, ())
    after = other.store.ensemble(1)
    for name in ("method", "tta", "average", "score", "nested_score", "partial", "members", "fold_digest", "dataset"):
        assert getattr(after, name) == getattr(before, name), name
    assert (after.submissions, after.name) == ((), None)
    one, two = read_model(source.workspace, before), read_model(other.workspace, after)
    assert one.members[0].weights == two.members[0].weights
    assert [m.id for m in one.members] == [m.id for m in two.members]
    submit_ensemble(other, 1, "ph-test")
    files = [p.workspace.ensemble_dir(1) / "ph-test.csv" for p in (source, other)]
    assert files[0].read_bytes() == files[1].read_bytes()
    found_checks = audit_ensemble(other, 1).checks
    assert {check.state for check in found_checks} == {"ok"}, found_checks


def test_members_that_are_present_are_reused_and_renumbered(source: Project, other: Project, tmp_path: Path) -> None:
    file = exported(source, tmp_path / "e.zip", top=2, members=())
    used = sorted(m.experiment for m in source.store.ensemble(1).members)
    from ichx.experiments.archive_export import archive_experiment

    archive_experiment(source, used[-1], tmp_path / "last.zip", weights=True)
    assert import_experiment(other, tmp_path / "last.zip").number == 1
    found = import_ensemble(other, file)
    assert found.members[used[-1]] == 1
    assert found.present == (1,)
    shown = {m.experiment: m.weight for m in other.store.ensemble(1).members}
    assert shown == {found.members[m.experiment]: m.weight for m in source.store.ensemble(1).members}
    record = read_model(other.workspace, other.store.ensemble(1)).record
    assert set(record.choice.weights) == set(shown)
    weighted = replace(record, labels=(LabelLoss("any", 0.3, 0.2, 0.1, {used[0]: 0.25}),))
    (row,) = _renumbered_record(weighted, found.members).labels
    assert row.weights == {found.members[used[0]]: 0.25}
    states = {check.subject: check.state for check in audit_ensemble(other, 1).checks}
    assert states["score"] == "ok"
    assert set(states.values()) <= {"ok", "unknown"}
    again = import_ensemble(other, file)
    assert (again.number, again.present) == (2, tuple(found.members.values()))
    weights = other.workspace.experiment_files(1).fold(0).weights
    weights.write_bytes(weights.read_bytes() + b" ")
    with pytest.raises(ChangedDataError, match="fold 0 of experiment 1 "):
        import_ensemble(other, file)
    other.store.trash([1])
    with pytest.raises(ConflictError, match=r"\b1\b"):
        import_ensemble(other, file)
    assert len(other.store.ensembles()) == 2


def rewrite(file: Path, change: Callable[[dict[str, bytes]], object], compression: int = zipfile.ZIP_STORED) -> Path:
    """Return a copy of an archive whose members, by name, are changed."""
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    target = file.with_name("changed.zip")
    with zipfile.ZipFile(target, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return target


def index_with(**values: object) -> Callable[[dict[str, bytes]], object]:
    def change(members: dict[str, bytes]) -> None:
        members["ensemble.json"] = json.dumps(json.loads(members["ensemble.json"]) | values).encode()

    return change


def test_archives_that_are_refused_leave_nothing(source: Project, other: Project, tmp_path: Path) -> None:
    file = exported(source, tmp_path / "e.zip")
    second = zipfile.ZipFile(file).read("members/2.zip")

    def put(name: str, content: bytes) -> Callable[[dict[str, bytes]], object]:
        return lambda members: members.update({name: content})

    cases: list[tuple[type[IchxError], str, Callable[[dict[str, bytes]], object]]] = [
        (CorruptFileError, "ensemble.json", lambda members: members.pop("ensemble.json")),
        (CorruptFileError, r"\.\./x", put("../x", b"")),
        (CorruptFileError, "members/a.zip", put("members/a.zip", b"")),
        (CorruptFileError, "ensemble.json", put("ensemble.json", b"[]")),
        (CorruptFileError, "ensemble.json", put("ensemble.json", b"{")),
        (UnsupportedError, "format 9", index_with(format=9, ichx="9.0")),
        (CorruptFileError, "members", index_with(members=[2])),
        (CorruptFileError, "-1", index_with(number=-1)),
        (CorruptFileError, "score 0.5", index_with(score=0.5)),
        (CorruptFileError, "score nan", index_with(score=float("nan"))),
        (CorruptFileError, "nested score 0.5", index_with(nested_score=0.5)),
        (CorruptFileError, "ensemble.json", index_with(weights=[[1, "x", 1.0]])),
        (ChangedDataError, "model.json", index_with(model="0" * 64)),
        (ChangedDataError, "model.npz", put("model.npz", b"")),
        (ChangedDataError, "oof.parquet", put("oof.parquet", b"PAR1")),
        (CorruptFileError, "member 2", lambda members: members.pop("members/2.zip")),
        (CorruptFileError, "2.zip", put("members/2.zip", second[:2000])),
        (CorruptFileError, "1.zip", put("members/1.zip", b"")),
    ]
    for error, value, change in cases:
        with pytest.raises(error, match=value):
            import_ensemble(other, rewrite(file, change))
        assert other.store.ensembles() == []
        assert other.store.experiments(Selection(kind=None, trashed=None), limit=None) == []
        assert not [path for path in other.workspace.experiments_dir.glob("*") if path.is_dir()]
        assert not list(other.workspace.ensembles_dir.glob("*"))
    with pytest.raises(CorruptFileError, match="compressed"):
        import_ensemble(other, rewrite(file, lambda members: None, zipfile.ZIP_DEFLATED))
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(CorruptFileError, match=str(file)):
        import_ensemble(other, file)


def test_a_refused_archive_leaves_no_member_of_a_sequence_experiment(
    source: Project, other: Project, tmp_path: Path
) -> None:
    settings = ("stage.full.epochs=1", "sequence.width=4", "sequence.parts=2", "batch=4")
    made, _ = new_sequence(source, ExperimentRequest(plugin="gru_stack", settings=settings), [1])
    run_experiment(source, made.number)
    file = exported(source, tmp_path / "e.zip", members=(made.number,), method="mean", smooth=False, calibrate=False)
    with pytest.raises(CorruptFileError, match="score 0.5"):
        import_ensemble(other, rewrite(file, index_with(score=0.5)))
    assert other.store.experiments(Selection(kind=None, trashed=None), limit=None) == []
    assert import_ensemble(other, file).members == {1: 3, made.number: 4}


def test_members_swapped_between_ensembles(source: Project, other: Project, tmp_path: Path) -> None:
    """The archive of another experiment in a member's place: its weights and predictions differ."""
    file = exported(source, tmp_path / "e.zip")
    export_ensemble(source, make_ensemble(source, EnsembleRequest(members=(1, 3))).ensemble.number, tmp_path / "o.zip")
    third = zipfile.ZipFile(tmp_path / "o.zip").read("members/3.zip")
    with pytest.raises(ChangedDataError, match="weights of fold 0") as caught:
        import_ensemble(other, rewrite(file, lambda members: members.update({"members/2.zip": third})))
    assert "OOF" in caught.value.problem
    assert other.store.experiments(Selection(kind=None, trashed=None), limit=None) == []


def test_a_workspace_without_the_dataset(source: Project, tmp_path: Path) -> None:
    from ichx.workspace import init_workspace

    file = exported(source, tmp_path / "e.zip")
    workspace = init_workspace(tmp_path / "empty")
    with open_store(workspace) as store:
        with pytest.raises(NotReadyError, match=r"\bph\b"):
            import_ensemble(Project(workspace, store, load_registry()), file)
        assert store.ensembles() == []


def test_exports_that_are_refused(source: Project, tmp_path: Path) -> None:
    file = exported(source, tmp_path / "e.zip")
    with pytest.raises(ConflictError, match=str(file)):
        export_ensemble(source, 1, file)
    weights = source.workspace.experiment_files(1).fold(0).weights
    weights.write_bytes(weights.read_bytes() + b" ")
    with pytest.raises(ChangedDataError, match="fold 0 of experiment 1"):
        export_ensemble(source, 1, tmp_path / "new.zip")
    assert sorted(path.name for path in tmp_path.glob("*.zip")) == ["e.zip"]
    assert not np.any([path.name.startswith("tmp") for path in tmp_path.iterdir()])
