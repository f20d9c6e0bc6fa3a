"""Care for the store's file: checks, copies while others write, questions that change nothing."""

import shutil
import sqlite3
import threading
from pathlib import Path

import pytest

from ichx.errors import IchxError
from ichx.store import EpochRecord, Store
from ichx.store.maintenance import mount_kind
from ichx.store.tables import METADATA
from ichx.store.testing import experiment_draft, run_draft, version_draft


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "ichx.db"


@pytest.fixture
def store(file: Path) -> Store:
    store = Store(f"sqlite:///{file}")
    store.add_experiments([experiment_draft(store.add_version(version_draft()))])
    return store


def test_a_whole_store_has_no_problem(store: Store) -> None:
    assert [checked.problems for checked in store.check_file()] == [(), (), (), ()]


def test_a_broken_reference_is_told(store: Store, file: Path) -> None:
    connection = sqlite3.connect(file)
    connection.execute("INSERT INTO tag VALUES (77, 'lost')")
    connection.commit()
    connection.close()
    problems = [problem for checked in store.check_file() for problem in checked.problems]
    assert len(problems) == 1
    assert "refers to a missing experiment" in problems[0]


def test_a_copy_made_while_others_write_is_whole_and_opens(store: Store, file: Path, tmp_path: Path) -> None:
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


def test_a_copy_never_replaces_a_file(store: Store, tmp_path: Path) -> None:
    target = tmp_path / "mine.db"
    target.write_text("mine")
    with pytest.raises(IchxError, match="is there already"):
        store.back_up(target)
    assert target.read_text() == "mine"
    (tmp_path / "file").write_text("")
    with pytest.raises(IchxError, match=r"cannot copy .* to "):
        store.back_up(tmp_path / "file" / "copy.db")


def test_a_question_is_answered(store: Store) -> None:
    answer = store.ask("with found as (select number, upper(name) as n from experiment) select * from found -- all")
    assert answer.columns == ("number", "n")
    assert answer.rows == [(1, "FIRST")]


@pytest.mark.parametrize(
    "question",
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
        "no question",
        "begin",
    ],
)
def test_everything_but_reading_is_refused_and_changes_nothing(store: Store, file: Path, question: str) -> None:
    store.close()
    elsewhere = file.parent / "elsewhere"
    elsewhere.mkdir()
    before = file.read_bytes()
    with pytest.raises(IchxError):
        store.ask(question.replace("ELSEWHERE", str(elsewhere)))
    assert file.read_bytes() == before
    assert list(elsewhere.iterdir()) == []


def test_a_network_file_system_is_recognized(tmp_path: Path) -> None:
    mounts = [
        "22 1 0:21 / / rw - ext4 /dev/sda1 rw",
        "30 22 0:40 / /home rw,relatime shared:1 - nfs4 server:/home rw",
        "31 30 0:41 / /home/me/local\\040disk rw - xfs /dev/sdb1 rw",
        "32 22 0:42 / /mnt/share rw - cifs //server/share rw",
    ]
    assert mount_kind(Path("/home/me/db/ichx.db"), mounts) == "nfs4"
    assert mount_kind(Path("/home/me/local disk/ichx.db"), mounts) is None
    assert mount_kind(Path("/mnt/share/ichx.db"), mounts) == "cifs"
    assert mount_kind(Path("/var/ichx.db"), mounts) is None
    assert mount_kind(Path("/homes/ichx.db"), mounts) is None


def test_every_table_and_most_columns_say_what_they_are() -> None:
    for table in METADATA.sorted_tables:
        assert table.info["doc"], table.name


def test_a_store_without_a_file_has_other_tools(tmp_path: Path) -> None:
    with Store("sqlite:///:memory:") as store, pytest.raises(IchxError, match="no SQLite file"):
        store.ask("select 1")
    shutil.rmtree(tmp_path)
