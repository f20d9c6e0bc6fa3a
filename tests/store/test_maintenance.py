"""Maintenance of a SQLite store: checks, backups while others write, read-only queries."""

import sqlite3
import threading
from pathlib import Path

import pytest

from ichx.errors import ConflictError, InvalidInputError, StorageError, UnsupportedError
from ichx.store import EpochRecord, Store
from ichx.store.maintenance import network_mount
from ichx.store.testing import experiment_draft, run_draft, version_draft


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "ichx.db"


@pytest.fixture
def store(file: Path) -> Store:
    store = Store(f"sqlite:///{file}")
    store.add_experiments([experiment_draft(store.add_version(version_draft()))])
    return store


def test_an_undamaged_store_has_no_problems(store: Store) -> None:
    assert [result.problems for result in store.check_file()] == [(), (), (), ()]


def test_a_broken_reference_is_reported(store: Store, file: Path) -> None:
    connection = sqlite3.connect(file)
    connection.execute("INSERT INTO tag VALUES (77, 'lost')")
    connection.commit()
    connection.close()
    (problem,) = [problem for result in store.check_file() for problem in result.problems]
    assert "tag" in problem
    assert "experiment" in problem


def test_a_backup_during_writes_is_consistent(store: Store, file: Path, tmp_path: Path) -> None:
    run = store.start_run(run_draft())
    stop = threading.Event()

    def write() -> None:
        with Store(f"sqlite:///{file}") as other:
            epoch = 0
            while not stop.is_set():
                epoch += 1
                other.record_epoch(run.id, EpochRecord("full", 0, epoch, {"loss": 1.0, "score": 2.0}))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for index in range(5):
            assert store.back_up(tmp_path / f"copy-{index}.db") > 0
    finally:
        stop.set()
        writer.join()
    for index in range(5):
        with Store(f"sqlite:///{tmp_path / f'copy-{index}.db'}") as copy:
            history = copy.history(1, 0)
            assert [record.epoch for record in history] == list(range(1, len(history) + 1))
            assert all(record.values == {"loss": 1.0, "score": 2.0} for record in history)
    assert not list(tmp_path.glob(".copy*"))


def test_a_backup_replaces_no_file(store: Store, tmp_path: Path) -> None:
    target = tmp_path / "mine.db"
    target.write_text("mine")
    with pytest.raises(ConflictError, match=str(target)):
        store.back_up(target)
    assert target.read_text() == "mine"
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=str(tmp_path / "file" / "copy.db")):
        store.back_up(tmp_path / "file" / "copy.db")


def test_a_query_returns_columns_and_rows(store: Store) -> None:
    result = store.query("with found as (select number, upper(name) as n from experiment) select * from found -- all")
    assert result.columns == ("number", "n")
    assert result.rows == [(1, "FIRST")]


@pytest.mark.parametrize(
    "sql",
    [
        "delete from experiment",
        "insert into tag values (1, 'x')",
        "drop table experiment",
        "create table mine (a)",
        "attach 'ELSEWHERE/other.db' as other",
        "pragma journal_mode = delete",
        "vacuum into 'ELSEWHERE/copy.db'",
        "select load_extension('x')",
        "select 1; select 2",
        "select * from nothing",
        "",
        "no query",
        "begin",
    ],
)
def test_other_statements_are_rejected_and_change_nothing(store: Store, file: Path, sql: str) -> None:
    store.close()
    elsewhere = file.parent / "elsewhere"
    elsewhere.mkdir()
    before = file.read_bytes()
    with pytest.raises(InvalidInputError):
        store.query(sql.replace("ELSEWHERE", str(elsewhere)))
    assert file.read_bytes() == before
    assert list(elsewhere.iterdir()) == []


def test_network_file_systems_are_recognized() -> None:
    mounts = [
        "22 1 0:21 / / rw - ext4 /dev/sda1 rw",
        "30 22 0:40 / /home rw,relatime shared:1 - nfs4 server:/home rw",
        "31 30 0:41 / /home/me/local\\040disk rw - xfs /dev/sdb1 rw",
        "32 22 0:42 / /mnt/share rw - cifs //server/share rw",
    ]
    assert network_mount(Path("/home/me/db/ichx.db"), mounts) == "nfs4"
    assert network_mount(Path("/home/me/local disk/ichx.db"), mounts) is None
    assert network_mount(Path("/mnt/share/ichx.db"), mounts) == "cifs"
    assert network_mount(Path("/var/ichx.db"), mounts) is None
    assert network_mount(Path("/homes/ichx.db"), mounts) is None


def test_a_store_without_a_file_has_no_maintenance() -> None:
    with Store("sqlite:///:memory:") as store, pytest.raises(UnsupportedError, match="memory"):
        store.query("select 1")
