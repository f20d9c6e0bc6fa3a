"""The store under several real processes: races, kills, and runs whose process has ended."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ichx.errors import ConflictError, RunEndedError
from ichx.process_identity import is_process_alive, process_identity
from ichx.store import EpochRecord, Store
from ichx.store.testing import experiment_draft, run_draft, version_draft

START = """
import sys, time
from ichx.errors import ConflictError
from ichx.store import Store
from ichx.store.testing import run_draft
store = Store(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
try:
    print("got", store.start_run(run_draft()).id, flush=True)
except ConflictError as error:
    print("refused", error.problem, flush=True)
sys.stdin.readline()
"""
WRITE = """
import sys
from ichx.store import EpochRecord, Store
from ichx.store.testing import run_draft
store = Store(sys.argv[1])
run = store.start_run(run_draft())
epoch = 0
while True:
    store.record_epoch(run.id, EpochRecord("full", 0, epoch, {name: float(epoch) for name in "abcdefgh"}))
    print(epoch, flush=True)
    epoch += 1
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


def python(code: str, *args: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *args]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def release(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'ichx.db'}"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with Store(url) as store:
        store.add_experiments([experiment_draft(store.add_version(version_draft()))])
        yield store


def age(url: str, seconds: float) -> None:
    """Make every heartbeat `seconds` old."""
    then = datetime.now(UTC).replace(tzinfo=None) - timedelta(seconds=seconds)
    connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    connection.execute("UPDATE run SET heartbeat = ?", [f"{then:%Y-%m-%d %H:%M:%S.%f}"])
    connection.commit()
    connection.close()


def test_one_of_several_processes_gets_the_fold(store: Store, url: str) -> None:
    processes = [python(START, url) for _ in range(4)]
    assert [line(process) for process in processes] == ["ready"] * 4
    for process in processes:
        release(process)
    answers = [line(process) for process in processes]
    winners = [p for p, answer in zip(processes, answers, strict=True) if answer.startswith("got")]
    assert len(winners) == 1, answers
    refusals = [answer for answer in answers if answer.startswith("refused")]
    assert len(refusals) == 3
    assert all(f"process {winners[0].pid} " in answer for answer in refusals)
    assert [r.state for r in store.runs(1)] == ["running"]
    for process in processes:
        process.communicate("\n")


def test_the_run_of_a_killed_process_is_dead_at_once_and_frees_its_fold(store: Store, url: str) -> None:
    process = python(START, url)
    line(process)
    release(process)
    assert line(process).startswith("got")
    assert store.experiment(1).state == "running"
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie: ended, but not collected
    assert store.experiment(1).state == "dead"
    process.communicate()
    assert [r.state for r in store.runs(1)] == ["dead"]
    second = store.start_run(run_draft())
    first = store.runs(1)[0]
    assert (second.attempt, first.state, first.ended) == (2, "dead", first.heartbeat)
    assert store.experiment(1).state == "running"


def test_a_run_on_another_host_is_dead_after_90_seconds_and_loses_its_fold(store: Store, url: str) -> None:
    run = store.start_run(run_draft(host="elsewhere"))
    age(url, 40)
    assert store.experiments()[0].state == "running"
    age(url, 80)
    assert store.experiments()[0].state == "stalled"
    with pytest.raises(ConflictError, match="elsewhere"):
        store.start_run(run_draft())
    age(url, 100)
    assert store.experiments()[0].state == "dead"
    store.heartbeat(run.id)  # it was only suspended
    assert store.experiments()[0].state == "running"
    age(url, 100)
    store.start_run(run_draft())
    with pytest.raises(RunEndedError, match="dead"):
        store.record_epoch(run.id, EpochRecord("full", 0, 0, {"loss": 1.0}))
    assert store.history(1, 0) == []


def test_a_run_whose_process_is_alive_here_is_stalled_and_keeps_its_fold(store: Store, url: str) -> None:
    store.start_run(run_draft())
    age(url, 3600)
    assert store.experiments()[0].state == "stalled"
    with pytest.raises(ConflictError, match=f"process {os.getpid()} "):
        store.start_run(run_draft())


def test_pids_of_other_hosts_are_not_checked(store: Store, url: str) -> None:
    gone = python("pass")
    gone.communicate()
    store.start_run(run_draft(host="elsewhere", pid=gone.pid))
    assert store.experiments()[0].state == "running"
    with pytest.raises(ConflictError, match=f"process {gone.pid} on elsewhere"):
        store.start_run(run_draft())
    age(url, 100)
    assert store.start_run(run_draft()).attempt == 2


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_later_process_with_the_same_pid_is_not_the_run() -> None:
    identity = process_identity(os.getpid())
    assert identity is not None
    assert is_process_alive(os.getpid(), identity) is True
    scope, _, start = identity.rpartition("/")
    assert is_process_alive(os.getpid(), f"{scope}/{int(start) - 1}") is False
    assert is_process_alive(os.getpid(), f"another-boot/{start}") is None


def test_a_killed_writer_leaves_complete_epochs(store: Store, url: str) -> None:
    for attempt in range(1, 4):
        process = python(WRITE, url)
        for _ in range(3):
            last = int(line(process))
        time.sleep(0.003 * attempt)
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate()
        printed = [int(epoch) for epoch in rest.split()] or [last]
        assert store.runs(1)[-1].attempt == attempt
        history = store.history(1, 0)
        assert all(set(record.values) == set("abcdefgh") for record in history)
        assert [record.epoch for record in history][: printed[-1] + 1] == list(range(printed[-1] + 1))
    connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


def test_concurrent_registrations_share_no_number(store: Store, url: str) -> None:
    processes = [python(REGISTER, url) for _ in range(3)]
    blocks = [[int(n) for n in row.split()] for p in processes for row in p.communicate(timeout=900)[0].splitlines()]
    assert all(block == list(range(block[0], block[0] + 3)) for block in blocks)
    assert sorted(n for block in blocks for n in block) == list(range(2, 92))
