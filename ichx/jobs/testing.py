"""The contract of an engine as a test class, for the engines of this package and of others. Needs pytest.

Derive from `EngineContract` and add a fixture `engine` that runs two jobs at a time.
"""

import sys
import time
from pathlib import Path

import pytest

from ichx.jobs.engine import Engine, Job

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


class EngineContract:
    """Tests that every engine passes."""

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
        results = [engine.wait(handle, TIMEOUT) for handle in [engine.submit([job])[0] for job in jobs]]
        assert [r and r.exit_code for r in results] == [0] * 4
        assert max(int(job.log.read_text()) for job in jobs) <= 2

    def test_cancelled_jobs_end_and_queued_ones_never_start(self, engine: Engine, tmp_path: Path) -> None:
        """The other jobs continue."""
        code = (
            "import pathlib, sys, time; print('started', flush=True)\n"
            "while not pathlib.Path(sys.argv[1]).exists(): time.sleep(0.01)"
        )
        never, go = tmp_path / "never", tmp_path / "go"
        jobs = [python_job(tmp_path / f"{n}.log", code, file) for n, file in enumerate((never, go, never, tmp_path))]
        handles = [engine.submit([job])[0] for job in jobs]
        assert engine.wait(handles[0], 0) is None
        engine.cancel(handles[2])
        engine.cancel(handles[0])
        go.touch()
        results = [engine.wait(handle, TIMEOUT) for handle in handles]
        assert [r and r.exit_code for r in results] == [-15, 0, -15, 0]
        engine.cancel(handles[1])
        assert not jobs[2].log.exists()

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

    def test_closing_ends_all_jobs(self, engine: Engine, tmp_path: Path) -> None:
        """A closed engine takes no more jobs."""
        handles = engine.submit([python_job(tmp_path / "log", "import time; time.sleep(600)") for _ in range(3)])
        engine.close()
        assert [r and r.exit_code for r in map(engine.poll, handles)] == [-15] * 3
        with pytest.raises(RuntimeError):
            engine.submit([python_job(tmp_path / "log", "")])
