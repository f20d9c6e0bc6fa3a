"""A store and its workspace belong together: another store and an older copy are refused, and nothing is written."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from conftest import Program
from running_programs import race
from sqlalchemy import make_url

from ichx.errors import ConflictError, CorruptFileError, InvalidInputError
from ichx.store import Store, open_store
from ichx.store.testing import ensemble_draft, experiment_draft, run_draft, version_draft
from ichx.store.transfer import move_store, open_empty
from ichx.workspace import STORE_RECORD, Workspace, init_workspace, open_workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Return a workspace with experiment 1."""
    workspace = init_workspace(tmp_path / "work")
    with open_store(workspace) as store:
        store.add_experiments([experiment_draft(store.add_version(version_draft()))])
    return workspace


def using(workspace: Workspace, store: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("ICHX_STORE", str(store))
    return open_workspace(workspace.root)


def changes(workspace: Workspace) -> int:
    record = workspace.store_record()
    assert record is not None
    return record.changes


def test_a_new_workspace_and_its_store_get_the_same_id(workspace: Workspace) -> None:
    record = workspace.store_record()
    with open_store(workspace) as store:
        state = store.state()
    assert record is not None
    assert (record.id, record.changes) == (state.id, state.changes)
    assert record.store == str(workspace.root / "db" / "ichx.db")
    assert state.root == str(workspace.root)
    assert len(record.id) == 32


def test_the_workspace_remembers_every_change_at_once(workspace: Workspace) -> None:
    with open_store(workspace) as store:
        seen = [changes(workspace)]
        run = store.start_run(run_draft())
        seen.append(changes(workspace))
        store.heartbeat(run.id)
        assert changes(workspace) == seen[-1], "a heartbeat is no change"
        store.finish_run(run.id, "done")
        seen.append(changes(workspace))
        store.add_ensemble(ensemble_draft(store.version("train"), 1))
        seen.append(changes(workspace))
        store.trash([1])
        seen.append(changes(workspace))
        assert store.state().changes == seen[-1]
    assert seen == sorted(set(seen))


def test_a_process_with_the_earlier_store_does_not_make_the_new_one_look_old(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(workspace) as earlier:
        other = using(workspace, tmp_path / "other.db", monkeypatch)
        with open_store(other, tied=False) as store:
            store.adopt(other)
        before = workspace.store_record()
        earlier.trash([1])
        earlier.restore([1])
        assert workspace.store_record() == before
    open_store(other).close()


def test_a_new_store_is_refused_in_a_used_workspace(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = using(workspace, tmp_path / "other.db", monkeypatch)
    with pytest.raises(ConflictError, match=str(tmp_path / "other.db")) as caught:
        open_store(other)
    assert str(workspace.root / "db" / "ichx.db") in caught.value.remedy
    for way in ("store move", "store adopt", "store rebuild"):
        assert way in caught.value.remedy
    assert not (tmp_path / "other.db").exists()
    with Store(tmp_path.joinpath("other.db").as_posix()) as store:  # now the file exists, without an id
        with pytest.raises(ConflictError):
            open_store(other)
        assert (store.listing()[1], store.state().id) == (0, None), "nothing was written"
    monkeypatch.delenv("ICHX_STORE")
    open_store(open_workspace(workspace.root)).close()


def test_the_store_of_another_workspace_is_refused(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = init_workspace(tmp_path / "other")
    shared = using(other, workspace.root / "db" / "ichx.db", monkeypatch)
    with pytest.raises(ConflictError, match=str(workspace.root)):
        open_store(shared)
    monkeypatch.delenv("ICHX_STORE")
    open_store(other).close()
    with pytest.raises(ConflictError, match=str(workspace.root)):
        open_store(using(other, workspace.root / "db" / "ichx.db", monkeypatch))


def test_an_older_copy_is_refused_and_an_equal_one_is_not(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(workspace) as store:
        store.back_up(tmp_path / "copy.db")
        before = store.state().changes
    open_store(using(workspace, tmp_path / "copy.db", monkeypatch)).close()
    with open_store(workspace) as store:
        store.add_experiments([experiment_draft(store.version("train"))])
    with pytest.raises(ConflictError, match=f"{tmp_path / 'copy.db'}.*{before}.*{before + 1}"):
        open_store(using(workspace, tmp_path / "copy.db", monkeypatch))


def test_whichever_of_two_copies_goes_on_the_other_one_is_older(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(workspace) as store:
        store.back_up(tmp_path / "copy.db")
    with open_store(using(workspace, tmp_path / "copy.db", monkeypatch)) as copy:
        copy.add_experiments([experiment_draft(copy.version("train"))])
    with pytest.raises(ConflictError, match="copy.db"):
        open_store(workspace)


def test_a_lost_store_file_is_noticed(workspace: Workspace) -> None:
    for file in (workspace.root / "db").glob("ichx.db*"):
        file.unlink()
    with pytest.raises(ConflictError, match=str(workspace.root / "db" / "ichx.db")):
        open_store(workspace)


def test_folders_without_ids_reveal_a_store_without_them(tmp_path: Path) -> None:
    """A workspace of an older version, used for the first time with another store."""
    workspace = init_workspace(tmp_path)
    for number in ("1", "3", "notes"):
        (workspace.experiments_dir / number / "fold-0").mkdir(parents=True)
    (workspace.experiments_dir / "7").mkdir()
    with pytest.raises(ConflictError, match="1, 3"):
        open_store(workspace)
    assert not (tmp_path / STORE_RECORD).exists()


def test_an_adopted_store_belongs_to_the_workspace_alone(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(workspace) as store:
        store.back_up(tmp_path / "copy.db")
        store.add_experiments([experiment_draft(store.version("train"))])
    copy = using(workspace, tmp_path / "copy.db", monkeypatch)
    with open_store(copy, tied=False) as store:
        assert store.adopt(copy).root == str(workspace.root)
    open_store(copy).close()
    with pytest.raises(ConflictError, match="ichx.db"):
        open_store(workspace)


def test_numbers_of_folders_are_not_used(workspace: Workspace) -> None:
    for number in (2, 3, 5, 2024):
        (workspace.experiment_dir(number)).mkdir()
        (workspace.experiment_dir(number) / "mine.txt").write_text("mine")
    workspace.ensemble_dir(1).mkdir(parents=True)
    (workspace.ensemble_dir(1) / "oof.parquet").write_text("mine")
    with open_store(workspace) as store:
        draft = experiment_draft(store.version("train"))
        assert store.add_experiments([draft])[0].number == 4
        found = [e.number for e in store.add_experiments([draft, draft])]
        assert found == [found[0], found[0] + 1]
        assert not {5} & set(found)
        assert max(found) < 20
        assert store.reserve_ensemble() == 2


def test_a_copied_workspace_is_independent(workspace: Workspace, tmp_path: Path) -> None:
    copy = open_workspace(Path(shutil.copytree(workspace.root, tmp_path / "copy")))
    for one in (workspace, copy):
        with open_store(one) as store:
            assert store.add_experiments([experiment_draft(store.version("train"))])[0].number == 2


def test_concurrent_first_uses_agree_on_one_id(tmp_path: Path) -> None:
    init_workspace(tmp_path)
    script = (
        "import sys; from pathlib import Path; from ichx.store import open_store; "
        "from ichx.workspace import open_workspace; sys.stdin.readline();"
        "print(open_store(open_workspace(Path(sys.argv[1]))).state().id)"
    )
    ids = set(race(script, tmp_path))
    assert len(ids) == 1
    assert json.loads((tmp_path / STORE_RECORD).read_text())["id"] in ids


def test_a_use_that_was_killed_between_the_two_sides_is_completed(workspace: Workspace, tmp_path: Path) -> None:
    other = init_workspace(tmp_path / "other")
    record = workspace.store_record()
    assert record is not None
    other.create_store_record(type(record)("f" * 32, 0, "db"))
    with open_store(other) as store:
        assert store.state().id == "f" * 32


def test_a_damaged_record_is_reported(workspace: Workspace, ichx: Program) -> None:
    for content in (b"{", b"[]", b'{"id": 1}', b"\xff"):
        (workspace.root / STORE_RECORD).write_bytes(content)
        with pytest.raises(CorruptFileError, match="workspace.json") as caught:
            open_store(workspace)
        assert "store adopt" in caught.value.remedy
    assert ichx("store", "adopt", cwd=workspace.root).code == 0
    open_store(workspace).close()


@pytest.mark.parametrize("name", ["head%20ct", "q?a", "q#a", "a&b=c", "50%", "ünï cödé", "q?timeout=1"])
def test_the_store_is_in_its_workspace_whatever_the_folder_is_called(tmp_path: Path, name: str) -> None:
    for folder in (name, f"{name}x"):
        with open_store(init_workspace(tmp_path / folder)) as store:
            assert store.datasets() == []
            store.add_version(version_draft())
        assert (tmp_path / folder / "db" / "ichx.db").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {name, f"{name}x"}


def test_an_unknown_home_directory_is_refused(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInputError, match="~nobody-of-this-name/x.db"):
        open_store(using(workspace, Path("~nobody-of-this-name/x.db"), monkeypatch))


@pytest.mark.parametrize("name", ["head%20ct", "q?a", "q?timeout=1&b"])
def test_a_path_pasted_into_a_url_is_refused_and_works_as_a_path(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / name / "ichx.db"
    file.parent.mkdir()
    workspace = init_workspace(tmp_path / "work")
    url = f"sqlite:///{file}"
    if make_url(url).database == str(file):
        pytest.skip("this version of SQLAlchemy takes the path as it is")
    monkeypatch.setenv("ICHX_STORE", url)
    with pytest.raises(InvalidInputError, match=name.replace("?", r"\?")) as caught:
        open_store(open_workspace(workspace.root))
    assert str(file) in caught.value.remedy
    monkeypatch.setenv("ICHX_STORE", str(file))
    open_store(open_workspace(workspace.root)).close()
    assert file.is_file()
    assert {path.name for path in tmp_path.iterdir()} == {name, "work"}


def test_a_workspace_whose_path_is_not_utf8_is_refused(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/head\xff"))
    for create in (init_workspace, open_workspace):
        with pytest.raises(InvalidInputError) as caught:
            create(folder)
        assert r"head\xff" in caught.value.problem
        caught.value.problem.encode("utf-8")
    assert not folder.exists()


def test_a_process_that_opened_a_store_before_it_was_moved_cannot_change_it(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    target = tmp_path / "moved.db"
    with open_store(workspace) as store, open_store(workspace) as late:
        version = store.version("train")
        with open_empty(store, str(target)) as new:
            move_store(store, new, workspace)
        with pytest.raises(ConflictError, match=re.escape(str(target))):
            late.add_experiments([experiment_draft(version)])
        with pytest.raises(ConflictError, match=re.escape(str(target))):
            late.start_run(run_draft())
        assert [e.number for e in late.experiments()] == [1]
        assert late.runs(1) == []
    with open_store(using(workspace, target, monkeypatch)) as moved:
        assert moved.add_experiments([experiment_draft(version)])[0].number == 2
    old = Store(str(workspace.root / "db" / "ichx.db"))
    with old:
        old.adopt(workspace)
        assert old.add_note(1, "adopted stores can be changed again").id == 1
