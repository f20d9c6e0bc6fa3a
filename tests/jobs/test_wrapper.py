"""The wrapper that executes a job where a scheduler starts it; run here without a scheduler."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from full_disk import run_with_limit

from ichx.errors import ConflictError
from ichx.jobs import Job, JobResult, Resources
from ichx.jobs.job_folder import JobFolder
from ichx.jobs.testing import TIMEOUT, python_job

STOPPABLE = (
    "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
    "print('started', flush=True); time.sleep(600)"
)

SCONTROL = """#!/bin/sh
echo "$@" >> {folder}/calls
[ "$1" = show ] && echo "JobId=7 {facts}"
exit {code}
"""


def start(folder: JobFolder, position: int = 0, **environment: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(folder.command(position), env={**os.environ, **environment}, stderr=subprocess.PIPE)


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def started(folder: JobFolder, job: Job) -> bool:
    return job.log.exists() and "started\n" in job.log.read_text() and folder.start(0) is not None


def test_a_job_has_its_result_log_and_handle(tmp_path: Path) -> None:
    code = "import os, sys; print(os.environ['ICHX_JOB'], os.environ['WORD'], repr(sys.stdin.read())); sys.exit(3)"
    jobs = [Job((sys.executable, "-c", code), tmp_path / "logs" / f"{n}", "job", {"WORD": "w"}) for n in range(2)]
    folder = JobFolder.create(tmp_path / "jobs", "one", jobs, handles=["x:0", "x:1"])
    assert (folder.count(), folder.ended(), folder.result(1)) == (2, set(), None)
    wrapper = start(folder, 1)
    assert wrapper.wait(TIMEOUT) == 3
    result = folder.result(1)
    assert result is not None
    assert (result.exit_code, result.reason, folder.ended(), folder.result(0)) == (3, None, {1}, None)
    assert jobs[1].log.read_text() == "x:1 w ''\n"
    assert folder.handles() == {1: "x:1"}
    with pytest.raises(ConflictError) as raised:
        JobFolder.create(tmp_path / "jobs", "one", jobs)
    assert "one" in raised.value.problem


def test_a_program_that_does_not_exist_has_a_result(tmp_path: Path) -> None:
    folder = JobFolder.create(tmp_path, "one", [Job(("no-such-program-of-ichx",), tmp_path / "log", "job")])
    assert start(folder).wait(TIMEOUT) == 127
    assert "no-such-program-of-ichx" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("by_file", [True, False])
def test_a_request_of_ichx_stops_a_job(tmp_path: Path, number: signal.Signals, by_file: bool) -> None:
    job = python_job(tmp_path / "log", STOPPABLE)
    folder = JobFolder.create(tmp_path, "one", [job], options={"max_requeues": 5})
    wrapper = start(folder, SLURM_ARRAY_JOB_ID="7", SLURM_ARRAY_TASK_ID="0", PATH=str(tmp_path))
    wait_for(lambda: started(folder, job))
    if by_file:
        folder.send(0, number)
    else:
        wrapper.send_signal(signal.SIGUSR2 if number == signal.SIGKILL else signal.SIGUSR1)
    wrapper.wait(TIMEOUT)
    result = folder.result(0)
    assert result is not None
    assert (result.exit_code, result.reason) == (143 if number == signal.SIGTERM else -9, None)


def test_a_full_disk_leaves_no_submission(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys; from ichx.jobs import Job; from ichx.jobs.job_folder import JobFolder; "
        "folder = pathlib.Path(sys.argv[1]); job = Job(('true',), folder / 'log', 'x' * 9999); "
        "JobFolder.create(folder / 'jobs', 'one', [job])"
    )
    done = run_with_limit(1, "-c", code, tmp_path, cwd=tmp_path)
    assert done.code == 1
    assert "StorageError" in done.err
    assert list((tmp_path / "jobs").iterdir()) == []


def test_a_damaged_request_stops_a_job(tmp_path: Path) -> None:
    job = python_job(tmp_path / "log", STOPPABLE)
    folder = JobFolder.create(tmp_path, "one", [job])
    wrapper = start(folder)
    wait_for(lambda: started(folder, job))
    folder.send(0, 9999)
    wrapper.wait(TIMEOUT)
    result = folder.result(0)
    assert result is not None
    assert result.exit_code == 143


@pytest.mark.parametrize("content", ["", "[]", '{"jobs": []}', '{"jobs": 5}'])
def test_a_job_whose_submission_is_damaged_says_so(tmp_path: Path, content: str) -> None:
    folder = JobFolder.create(tmp_path, "one", [python_job(tmp_path / "log", "")])
    (folder.path / "jobs.json").write_text(content)
    assert start(folder).wait(TIMEOUT) == 1
    result = folder.result(0)
    assert result is not None
    assert result.exit_code == 1
    assert result.reason is not None
    assert str(folder.path / "jobs.json") in result.reason


@pytest.mark.parametrize(
    "content", ["", "5", "{}", '{"exit_code": "x", "seconds": 1}', '{"exit_code": NaN}', "[" * 9999]
)
def test_a_damaged_file_of_a_job_is_like_a_missing_one(tmp_path: Path, content: str) -> None:
    folder = JobFolder.create(tmp_path, "one", [python_job(tmp_path / "log", "")])
    for name in ("0.exit", "0.state"):
        (folder.path / name).write_text(content)
    start = folder.start(0)
    assert (folder.result(0), folder.handles(), start and start.handle) == (None, {}, None)
    for name in ("0.exit", "0.state"):
        (folder.path / name).unlink()
        (folder.path / name).mkdir()
    assert (folder.result(0), folder.handles(), folder.start(0)) == (None, {}, None)


def test_a_job_that_was_cancelled_in_the_queue_never_starts(tmp_path: Path) -> None:
    folder = JobFolder.create(tmp_path, "one", [python_job(tmp_path / "log", "")])
    folder.send(0, signal.SIGTERM)
    start(folder).wait(TIMEOUT)
    result = folder.result(0)
    assert result is not None
    assert result.exit_code == -15
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize(
    ("facts", "code", "reason"),
    [
        ("JobState=RUNNING Reason=None Restarts=0", 0, None),
        ("JobState=PENDING Reason=BeginTime Restarts=1", 0, None),
        ("JobState=COMPLETING Reason=None Restarts=1", 0, None),
        ("JobState=COMPLETING Reason=None Restarts=0 PreemptTime=2026-11-28T16:20:25", 0, None),
        ("JobState=COMPLETING Reason=TimeLimit Restarts=0 PreemptTime=None", 0, None),
        ("JobState=COMPLETING Reason=None Restarts=0 PreemptTime=None", 0, "CANCELLED"),
        ("JobState=CANCELLED Reason=None Restarts=0", 0, "CANCELLED"),
        ("JobState=RUNNING Reason=None Restarts=0", 1, "requeue failed"),
    ],
)
def test_a_job_that_the_scheduler_stops_is_requeued(tmp_path: Path, facts: str, code: int, reason: str | None) -> None:
    program = tmp_path / "scontrol"
    program.write_text(SCONTROL.format(folder=tmp_path, facts=facts, code=code))
    program.chmod(0o755)
    job = python_job(tmp_path / "log", STOPPABLE)
    folder = JobFolder.create(tmp_path, "one", [job], options={"max_requeues": 5})
    path = f"{tmp_path}:{os.environ['PATH']}"
    wrapper = start(folder, SLURM_ARRAY_JOB_ID="7", SLURM_ARRAY_TASK_ID="0", PATH=path)
    wait_for(lambda: started(folder, job))
    wrapper.send_signal(signal.SIGTERM)
    assert wrapper.wait(TIMEOUT) == 143
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[0] == "show job 7_0"
    by_slurm = "Restarts=1" in facts
    assert calls[1:] == ([] if by_slurm or reason == "CANCELLED" else ["requeue 7_0"])
    result = folder.result(0)
    if reason is None:
        assert (result, folder.start(0)) == (None, None)
    else:
        assert result is not None
        assert result.exit_code == 143
        assert reason in str(result.reason)


def test_a_job_is_not_queued_again_forever(tmp_path: Path) -> None:
    program = tmp_path / "scontrol"
    program.write_text(SCONTROL.format(folder=tmp_path, facts="JobState=RUNNING Restarts=5", code=0))
    program.chmod(0o755)
    job = python_job(tmp_path / "log", STOPPABLE)
    folder = JobFolder.create(tmp_path, "one", [job], options={"max_requeues": 5})
    path = f"{tmp_path}:{os.environ['PATH']}"
    wrapper = start(folder, SLURM_ARRAY_JOB_ID="7", SLURM_ARRAY_TASK_ID="0", SLURM_RESTART_COUNT="5", PATH=path)
    wait_for(lambda: started(folder, job))
    wrapper.send_signal(signal.SIGTERM)
    wrapper.wait(TIMEOUT)
    result = folder.result(0)
    assert result is not None
    assert "5" in str(result.reason)


def test_a_time_limit_is_enforced_on_request(tmp_path: Path) -> None:
    job = Job((sys.executable, "-c", STOPPABLE), tmp_path / "log", "job", resources=Resources(seconds=2.0))
    folder = JobFolder.create(tmp_path, "one", [job], options={"enforce_limit": True})
    start(folder).wait(TIMEOUT)
    result = folder.result(0)
    assert result is not None
    assert result.reason == "TIMEOUT"


def test_another_version_of_ichx_is_named(tmp_path: Path) -> None:
    folder = JobFolder.create(tmp_path, "one", [python_job(tmp_path / "log", "print('ran')")])
    content = json.loads((folder.path / "jobs.json").read_text())
    (folder.path / "jobs.json").write_text(json.dumps({**content, "version": "9.9.9"}))
    assert start(folder).wait(TIMEOUT) == 1
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert "9.9.9" in lines[0]


def test_a_result_can_be_recorded_for_a_wrapper_that_was_killed(tmp_path: Path) -> None:
    job = python_job(tmp_path / "log", f"import os; print(os.getpid())\n{STOPPABLE}")
    folder = JobFolder.create(tmp_path, "one", [job])
    wrapper = start(folder)
    wait_for(lambda: started(folder, job))
    wrapper.kill()
    wrapper.wait(TIMEOUT)
    os.kill(int(job.log.read_text().split()[0]), signal.SIGKILL)  # a scheduler ends all processes of a job
    found = folder.start(0)
    assert found is not None
    assert found.host
    assert folder.result(0) is None
    folder.record_result(0, JobResult(-9, 0.0, "NODE_FAIL"))
    assert folder.result(0) == JobResult(-9, 0.0, "NODE_FAIL")
