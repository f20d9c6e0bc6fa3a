"""A store on PostgreSQL under several real processes: races, first starts, kills, and a server that is away."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
from postgres_server import PostgresServer, own_postgres, postgres  # noqa: F401  # fixtures

from ichx.errors import StoreError
from ichx.store import EpochRecord, Store, database
from ichx.store import postgres as postgres_module
from ichx.store.testing import experiment_draft, run_draft, version_draft

WRITE = """
import sys
from ichx.store import EpochRecord, Store
from ichx.store.testing import run_draft
store, fold, count = Store(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
run = store.start_run(run_draft(int(sys.argv[4]), fold))
for epoch in range(count):
    store.record_epoch(run.id, EpochRecord("full", 0, epoch, {name: float(epoch) for name in "abcdefgh"}))
    if epoch % 10 == 0:
        store.add_note(1, f"{sys.argv[4]}/{fold}/{epoch}")
    print(epoch, flush=True)
store.finish_run(run.id, "done")
"""
REGISTER = """
import sys
from ichx.store import Store
from ichx.store.testing import experiment_draft
store = Store(sys.argv[1])
draft = experiment_draft(store.version("train"))
for _ in range(10):
    print(*(e.number for e in store.add_experiments([draft] * 3)))
"""
OPEN = """
import sys
from ichx.store import Store
print("ready", flush=True)
sys.stdin.readline()
with Store(sys.argv[1]) as store:
    print(len(store.datasets()))
"""
UPGRADE = """
import os, signal, sys
from alembic.operations import Operations
from ichx.store import Store
left = int(sys.argv[2])
create = Operations.create_table
def killed(self, *args, **kwargs):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return create(self, *args, **kwargs)
Operations.create_table = killed
Store(sys.argv[1])
"""


def python(code: str, *args: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)


@pytest.fixture
def url(postgres: PostgresServer) -> str:  # noqa: F811
    return postgres()


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with Store(url) as store:
        store.add_experiments([experiment_draft(store.add_version(version_draft()))] * 8)
        yield store


@pytest.mark.slow
def test_processes_that_write_at_once_lose_nothing(store: Store, url: str) -> None:
    writers = [(experiment, fold) for experiment in range(1, 9) for fold in (0, 1)]
    processes = [python(WRITE, url, fold, 60, experiment) for experiment, fold in writers]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 16
    assert [len(output.split()) for output in outputs] == [60] * 16
    for experiment, fold in writers:
        history = store.history(experiment, fold)
        assert [record.epoch for record in history] == list(range(60))
        assert all(record.values == dict.fromkeys("abcdefgh", float(record.epoch)) for record in history)
        assert [run.state for run in store.runs(experiment, fold)] == ["done"]
    written = sorted(note.text for note in store.notes(1))
    assert written == sorted(f"{e}/{f}/{n}" for e, f in writers for n in range(0, 60, 10))


@pytest.mark.slow
def test_concurrent_registrations_share_no_number(store: Store, url: str) -> None:
    processes = [python(REGISTER, url) for _ in range(3)]
    blocks = [[int(n) for n in row.split()] for p in processes for row in p.communicate(timeout=300)[0].splitlines()]
    assert all(block == list(range(block[0], block[0] + 3)) for block in blocks)
    assert sorted(n for block in blocks for n in block) == list(range(9, 99))


@pytest.mark.slow
def test_eight_processes_create_one_store(postgres: PostgresServer) -> None:  # noqa: F811
    url = postgres()
    processes = [python(OPEN, url) for _ in range(8)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    outputs = [process.communicate("\n", timeout=300)[0] for process in processes]
    assert outputs == ["0\n"] * 8
    with Store(url) as store:
        assert not [problem for result in store.check_file() for problem in result.problems]


@pytest.mark.slow
@pytest.mark.parametrize("tables", [1, 9])
def test_a_killed_upgrade_leaves_an_empty_database(postgres: PostgresServer, tables: int) -> None:  # noqa: F811
    url = postgres()
    process = python(UPGRADE, url, tables)
    process.communicate(timeout=300)
    assert process.returncode == -9
    name = url.partition("?")[0].rpartition("/")[2]
    assert postgres.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'", name) == [(0,)]
    with Store(url) as store:
        assert store.datasets() == []


def test_a_killed_writer_leaves_complete_epochs(store: Store, url: str) -> None:
    for attempt in range(1, 4):
        process = python(WRITE, url, 0, 1_000_000, 1)
        assert process.stdout is not None
        last = [int(process.stdout.readline()) for _ in range(3)][-1]
        time.sleep(0.003 * attempt)
        process.kill()
        printed = [int(epoch) for epoch in process.communicate()[0].split()] or [last]
        assert store.runs(1)[-1].attempt == attempt
        history = store.history(1, 0)
        assert all(set(record.values) == set("abcdefgh") for record in history)
        assert [record.epoch for record in history][: printed[-1] + 1] == list(range(printed[-1] + 1))


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_writes_wait_for_a_server_that_restarts(
    own_postgres: PostgresServer,  # noqa: F811
    mode: str,
) -> None:
    with Store(own_postgres()) as store:
        store.add_experiments([experiment_draft(store.add_version(version_draft()))])
        notes: list[str] = []
        store.note = notes.append
        run = store.start_run(run_draft())
        done: list[int] = []

        def work() -> None:
            for epoch in range(2000):
                store.record_epoch(run.id, EpochRecord("full", 0, epoch, {"loss": float(epoch)}))
                store.add_note(1, str(epoch))
                done.append(epoch)
                if restarted.is_set():
                    return

        restarted = threading.Event()
        worker = threading.Thread(target=work)
        worker.start()
        while len(done) < 5:
            time.sleep(0.01)
        own_postgres.stop(mode)
        while not notes:
            time.sleep(0.01)
        assert worker.is_alive()
        own_postgres.start()
        restarted.set()
        worker.join(timeout=60)
        assert not worker.is_alive()
        assert [note.text for note in store.notes(1)] == [str(epoch) for epoch in done], "each once"
        assert [record.epoch for record in store.history(1, 0)] == done
        store.finish_run(run.id, "done")
        assert [r.state for r in store.runs(1)] == ["done"]


@pytest.mark.parametrize("committed", [True, False])
def test_a_commit_whose_answer_is_lost_is_not_repeated(
    store: Store, monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    """The connection is closed by the server just before, or just after the commit."""
    lose = [True]
    commit = store._engine.dialect.do_commit

    def lossy(connection: Any) -> None:
        if not lose:
            commit(connection)
            return
        lose.clear()
        raw = connection.dbapi_connection
        if committed:
            commit(connection)
        with import_module("psycopg").connect(
            store._engine.url.set(drivername="postgresql").render_as_string()
        ) as other:
            other.execute(f"SELECT pg_terminate_backend({raw.info.backend_pid})")
        raw.execute("SELECT 1")  # raises

    monkeypatch.setattr(store._engine.dialect, "do_commit", lossy)
    added = store.add_note(1, "once")
    assert not lose
    assert [(note.id, note.text) for note in store.notes(1)] == [(added.id, "once")]
    lose.append(True)
    number = store.add_experiments([experiment_draft(store.version("train"))])[0].number
    assert (number, len(store.experiments())) == (9, 9)
    lose.append(True)
    run = store.start_run(run_draft())
    assert [r.id for r in store.runs(1)] == [run.id]
    lose.append(True)
    store.finish_run(run.id, "done")
    assert [r.state for r in store.runs(1)] == ["done"]


def test_a_crash_before_anything_was_stored_is_no_commit(store: Store) -> None:
    """The server does not know the number of that transaction afterwards."""
    with store._engine.connect() as connection:
        newest = connection.exec_driver_sql("SELECT txid_current()").scalar_one()
    assert database.is_committed(store._engine, newest + 1000, postgres_module.Absence(print)) is False
    assert database.is_committed(store._engine, newest, postgres_module.Absence(print)) is False, "rolled back"


def test_a_server_that_stays_away_is_one_error(
    own_postgres: PostgresServer,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(postgres_module, "AWAY_SECONDS", 0.5)
    with Store(own_postgres()) as store:
        notes: list[str] = []
        store.note = notes.append
        own_postgres.stop()
        for request in (store.datasets, lambda: store.add_version(version_draft())):
            notes.clear()
            with pytest.raises(StoreError) as caught:
                request()
            assert caught.value.problem.count("\n") == 0
            assert str(own_postgres.folder) in caught.value.problem
            assert len(notes) == 1
    began = time.monotonic()
    monkeypatch.setattr(postgres_module, "AWAY_SECONDS", 60)
    with pytest.raises(StoreError):
        Store(str(store._engine.url))
    assert time.monotonic() - began < 30, "a first connection is not repeated"
