"""The contract of an engine as a test class, for the engines of this package and of others. Needs pytest.

Derive from `EngineContract` and add a fixture `engine` that runs two jobs at a time, and for an engine whose jobs
outlive their submitter a fixture `reopen` that returns one more engine object of the same workspace.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ichx.jobs.engine import Engine, Job

Reopen = Callable[[], Engine]

TIMEOUT = 900.0
"""Seconds after which a job that should have ended hangs."""


def python_job(log: Path, code: str, *arguments: object) -> Job:
    """Return a job that runs Python `code`."""
    return Job((sys.executable, "-c", code, *map(str, arguments)), log, log.stem)


def _wait_for(log: Path, content: str) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not (log.exists() and log.read_text() == content):
        assert time.monotonic() < deadline, f"{log} does not contain {content!r}"
        time.sleep(0.01)


def _hold(log: Path, go: Path) -> Job:
    """Return a job that ends when the file `go` exists."""
    code = (
        "import pathlib, sys, time; print('started', flush=True)\n"
        "while not pathlib.Path(sys.argv[1]).exists(): time.sleep(0.01)"
    )
    return python_job(log, code, go)


class EngineContract:
    """Tests that every engine passes."""

    @pytest.fixture
    def reopen(self, engine: Engine) -> Reopen:
        """Return a function that returns another engine object, as another command has it."""
        pytest.skip("the engine has no second object")

    def test_a_job_has_a_result_and_a_log(self, engine: Engine, tmp_path: Path) -> None:
        """Output and errors are appended, there is no input, and the environment is extended."""
        code = "import os, sys; print(os.environ['WORD'], repr(sys.stdin.read()), file=sys.stderr); sys.exit(3)"
        job = Job((sys.executable, "-c", code), tmp_path / "new" / "job.log", "job", {"WORD": "hello"})
        for _ in range(2):
            (handle,) = engine.submit([job])
            result = engine.wait(handle, TIMEOUT)
            assert result is not None
            assert (result.exit_code, engine.poll(handle)) == (3, result)
        assert job.log.read_text() == "hello ''\n" * 2

    def test_two_jobs_run_at_a_time(self, engine: Engine, tmp_path: Path) -> None:
        """The first two wait for each other; of four jobs never more than two run."""
        code = (
            "import pathlib, sys, time; folder, me, other = pathlib.Path(sys.argv[1]), *sys.argv[2:]\n"
            "(folder / f'{me}.met').touch(); (folder / f'{me}.here').touch()\n"
            "while not (folder / f'{other}.met').exists(): time.sleep(0.01)\n"
            "print(len(list(folder.glob('*.here')))); time.sleep(0.1); (folder / f'{me}.here').unlink()"
        )
        jobs = [python_job(tmp_path / f"{n}.log", code, tmp_path, n, n ^ 1) for n in range(4)]
        results = [engine.wait(handle, TIMEOUT) for handle in engine.submit(jobs, at_once=2)]
        assert [r and r.exit_code for r in results] == [0] * 4
        assert max(int(job.log.read_text()) for job in jobs) <= 2

    def test_cancelled_jobs_end_and_queued_ones_never_start(self, engine: Engine, tmp_path: Path) -> None:
        """The other jobs continue."""
        never, go = tmp_path / "never", tmp_path / "go"
        jobs = [_hold(tmp_path / f"{n}.log", file) for n, file in enumerate((never, go, never, tmp_path))]
        handles = engine.submit(jobs, at_once=2)
        for job in jobs[:2]:
            _wait_for(job.log, "started\n")
        assert engine.states(handles) == dict(zip(handles, ["running"] * 2 + ["queued"] * 2, strict=True))
        assert engine.wait(handles[0], 0) is None
        engine.cancel(handles[2])
        engine.cancel(handles[0])
        go.touch()
        results = [engine.wait(handle, TIMEOUT) for handle in handles]
        assert [r and r.exit_code for r in results] == [-15, 0, -15, 0]
        engine.cancel(handles[1])
        assert not jobs[2].log.exists()
        assert set(engine.states(handles).values()) == {"ended"}

    def test_a_killed_job_ends_at_once(self, engine: Engine, tmp_path: Path) -> None:
        """Also one that was cancelled before and ignores that."""
        code = (
            "import signal, time; signal.signal(signal.SIGTERM, lambda *_: print('asked', flush=True))\n"
            "print('started', flush=True); time.sleep(600)"
        )
        jobs = [python_job(tmp_path / f"{n}.log", code) for n in range(2)]
        handles = [engine.submit([job])[0] for job in jobs]
        for job in jobs:
            _wait_for(job.log, "started\n")
        engine.cancel(handles[0])
        _wait_for(jobs[0].log, "started\nasked\n")
        for handle in handles:
            engine.kill(handle)
        results = [engine.wait(handle, TIMEOUT) for handle in handles]
        assert [r and r.exit_code for r in results] == [-9, -9]
        assert jobs[1].log.read_text() == "started\n"

    def test_a_job_that_cannot_start_has_a_result(self, engine: Engine, tmp_path: Path) -> None:
        """Its log names the program."""
        result = engine.wait(engine.submit([Job(("no-such-program-of-ichx",), tmp_path / "log", "none")])[0], TIMEOUT)
        assert result is not None
        assert result.exit_code == 127
        assert "no-such-program-of-ichx" in (tmp_path / "log").read_text()

    def test_closing_ends_all_jobs_unless_they_outlive_their_submitter(self, engine: Engine, tmp_path: Path) -> None:
        """A closed engine takes no more jobs."""
        go = tmp_path / "go"
        handles = engine.submit([_hold(tmp_path / f"{n}.log", go) for n in range(3)])
        engine.close()
        with pytest.raises(RuntimeError):
            engine.submit([python_job(tmp_path / "log", "")])
        if engine.outlives_submitter:
            assert [engine.poll(handle) for handle in handles] == [None] * 3
            go.touch()
            assert [r and r.exit_code for r in [engine.wait(handle, TIMEOUT) for handle in handles]] == [0] * 3
        else:
            assert [r and r.exit_code for r in map(engine.poll, handles)] == [-15] * 3

    def test_another_command_finds_follows_and_cancels_jobs(
        self, engine: Engine, reopen: Reopen, tmp_path: Path
    ) -> None:
        """A handle names its engine and is unique; a submission is found by its name."""
        jobs = [_hold(tmp_path / f"{n}.log", tmp_path / "never") for n in range(3)]
        submission = f"contract-{time.time_ns()}"
        handles = engine.submit(jobs, submission=submission)
        assert len(set(handles)) == 3
        assert all(handle.startswith(f"{engine.name}:") for handle in handles)
        other = reopen()
        assert other.find(submission) == handles
        assert other.find(f"{submission}-other") is None
        _wait_for(jobs[0].log, "started\n")
        assert other.states(handles[:1]) == {handles[0]: "running"}
        assert other.wait(handles[0], 0) is None
        for handle in handles:
            other.cancel(handle)
        results = [other.wait(handle, TIMEOUT) for handle in handles]
        assert [r and r.exit_code for r in results] == [-15] * 3
        assert [engine.wait(handle, TIMEOUT) for handle in handles] == results
        assert set(engine.states(handles).values()) == {"ended"}
        other.close()

    def test_a_job_knows_its_handle(self, engine: Engine, tmp_path: Path) -> None:
        """The variable ICHX_JOB, which its runs record, for jobs that outlive their submitter."""
        if not engine.outlives_submitter:
            pytest.skip("the jobs end with their submitter")
        handles = engine.submit(
            [python_job(tmp_path / f"{n}.log", "import os; print(os.environ['ICHX_JOB'])") for n in range(2)]
        )
        for handle in handles:
            engine.wait(handle, TIMEOUT)
        assert [(tmp_path / f"{n}.log").read_text().strip() for n in range(2)] == handles
