"""The job scheduler: admission, slots, cancelled tasks, stop requests, errors of tasks."""

from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import chain, repeat
from pathlib import Path
from typing import Literal

import pytest

from ichx.errors import StoreError
from ichx.jobs import Job, JobResult, LocalEngine
from ichx.jobs.job_log import JobLog
from ichx.jobs.resources import Shares
from ichx.jobs.scheduler import KILL, STOP, Scheduler, SchedulerCallbacks, Task
from ichx.jobs.testing import python_job

SLEEP = "import time; print('started', flush=True); time.sleep(600)"


class PythonTask(Task):
    """Runs Python code and records its results."""

    def __init__(self, log: Path, code: str = "", admissions: str = "run", follow: bool = True, fails: int = 0) -> None:
        self.log, self.code, self.goes_on, self.fails = log, code, follow, fails
        self.admissions: list[str] = admissions.split()
        self.started = 0
        self.results: list[int] = []
        self.repeat = False

    def admit(self) -> Literal["run", "wait", "skip"]:
        found = self.admissions.pop(0) if len(self.admissions) > 1 else self.admissions[0]
        return found  # type: ignore[return-value]

    def start(self, device: str, shares: Shares) -> Job:
        self.started += 1
        return python_job(self.log, self.code)

    def follow(self, log: JobLog) -> bool:
        return self.goes_on or log.last_line() != "started"

    def settle(self, result: JobResult, log: JobLog, *, stopping: bool) -> bool:
        if self.fails:
            self.fails -= 1
            raise StoreError("The store is locked.", "Wait.")
        self.results.append(result.exit_code)
        repeat, self.repeat = self.repeat, False
        return not repeat


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalEngine]:
    monkeypatch.setattr("ichx.jobs.scheduler.TICK_SECONDS", 0.01)
    monkeypatch.setattr("ichx.jobs.scheduler.FOLLOW_SECONDS", 0.01)
    with closing(LocalEngine(2, grace=None)) as engine:
        yield engine


def run(engine: LocalEngine, tasks: list[PythonTask], slots: int = 1, stop: Callable[[], int] = lambda: 0) -> int:
    waiting = list(tasks)
    scheduler = Scheduler(engine, "cpu", slots)
    return scheduler.run(lambda running: waiting.pop(0) if waiting else None, stop, SchedulerCallbacks())


def test_tasks_are_admitted_delayed_or_skipped(engine: LocalEngine, tmp_path: Path) -> None:
    now, later, never = (PythonTask(tmp_path / how, "", how) for how in ("run", "wait wait run", "skip"))
    assert run(engine, [later, never, now]) == 0
    assert [(task.started, task.results) for task in (now, later, never)] == [(1, [0]), (1, [0]), (0, [])]


def test_a_task_may_submit_its_job_again(engine: LocalEngine, tmp_path: Path) -> None:
    task = PythonTask(tmp_path / "log", "import sys; sys.exit(3)")
    task.repeat = True
    run(engine, [task])
    assert (task.started, task.results) == (2, [3, 3])


def test_a_task_may_cancel_its_job(engine: LocalEngine, tmp_path: Path) -> None:
    cancelled = PythonTask(tmp_path / "log", SLEEP, follow=False)
    run(engine, [cancelled])
    assert cancelled.results == [-15]


@pytest.mark.parametrize(("level", "code"), [(STOP, -15), (KILL, -9)])
def test_a_stop_request_ends_running_jobs_and_starts_no_more(
    engine: LocalEngine, tmp_path: Path, level: int, code: int
) -> None:
    tasks = [PythonTask(tmp_path / str(n), SLEEP) for n in range(3)]
    logs = [task.log for task in tasks[:2]]

    def stop() -> int:
        return level if all(log.exists() and log.read_text() for log in logs) else 0

    assert run(engine, tasks, slots=2, stop=stop) == level
    assert [task.results for task in tasks] == [[code], [code], []]


def test_a_waiting_task_does_not_delay_a_stop(engine: LocalEngine, tmp_path: Path) -> None:
    task = PythonTask(tmp_path / "log", "", "wait")
    levels = chain((0, 0), repeat(STOP))
    assert run(engine, [task], stop=lambda: next(levels)) == STOP
    assert task.started == 0


def test_settling_is_repeated_after_an_error_but_not_forever(engine: LocalEngine, tmp_path: Path) -> None:
    task = PythonTask(tmp_path / "log", fails=2)
    run(engine, [task])
    assert (task.started, task.results) == (1, [0])
    other = PythonTask(tmp_path / "other", SLEEP)
    with pytest.raises(StoreError):
        run(engine, [PythonTask(tmp_path / "log", fails=99), other], slots=2)
    assert other.results == []
    assert engine.poll("local:2") is not None, "the other job has ended"
