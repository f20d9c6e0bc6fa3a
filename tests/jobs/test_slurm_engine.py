"""Job arrays of Slurm. Skipped without a cluster, see `slurm_site`."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from slurm_site import SlurmSite, slurm, slurm_cluster

import ichx
from ichx.errors import InvalidInputError, ResourceError
from ichx.jobs import Job, JobResult, Resources
from ichx.jobs.engine_check import check_engine
from ichx.jobs.engine_settings import SlurmSettings
from ichx.jobs.job_folder import JobFolder
from ichx.jobs.slurm_engine import SlurmEngine
from ichx.jobs.testing import EngineContract, python_job
from ichx.store import open_store
from ichx.workspace import Workspace, init_workspace

__all__ = ["slurm", "slurm_cluster"]

WAIT = 240.0
"""Seconds for what Slurm does within a few minutes."""
SETTINGS = SlurmSettings(lost_after=3.0, options=("--time=10",))

CHECKPOINTED = """
import pathlib, signal, sys, time
home = pathlib.Path(sys.argv[1])
def stop(*_):
    (home / "checkpoint").touch(); print("saved", flush=True); sys.exit(143)
signal.signal(signal.SIGTERM, stop)
print("resumed" if (home / "checkpoint").exists() else "started", flush=True)
while not (home / "go").exists(): time.sleep(0.05)
"""
"""A job that saves a checkpoint on SIGTERM."""


@pytest.fixture
def engine(slurm: SlurmSite, workspace: Workspace) -> Iterator[SlurmEngine]:
    with closing(SlurmEngine(workspace, SETTINGS)) as engine:
        yield engine
    slurm.call("scancel", "--user", str(os.getuid()), "--name", ",".join(p.name for p in workspace.jobs_dir.glob("*")))


def wait_for(log: Path, content: str) -> None:
    deadline = time.monotonic() + WAIT
    while not (log.exists() and log.read_text() == content):
        assert time.monotonic() < deadline, f"{log} does not contain {content!r}"
        time.sleep(0.05)


def private(site: SlurmSite) -> SlurmSite:
    if site.private is None:
        pytest.skip("the cluster does not belong to these tests")
    return site


class TestSlurmEngine(EngineContract):
    @pytest.fixture
    def reopen(self, engine: SlurmEngine, workspace: Workspace) -> Callable[[], SlurmEngine]:
        return lambda: SlurmEngine(workspace, SETTINGS)


def test_a_job_that_the_scheduler_stops_is_queued_again(slurm: SlurmSite, engine: SlurmEngine, tmp_path: Path) -> None:
    job = python_job(tmp_path / "log", CHECKPOINTED, tmp_path)
    (handle,) = engine.submit([job])
    wait_for(job.log, "started\n")
    slurm.call("scancel", "--batch", "--signal=TERM", handle.removeprefix("slurm:"))
    wait_for(job.log, "started\nsaved\n")
    # Slurm waits for the life of a credential, two minutes on most sites, before it starts a requeued job.
    slurm.wait_until("PENDING", "squeue", "-h", "-r", f"--jobs={handle.removeprefix('slurm:')}", "-o", "%T")
    assert engine.states([handle]) == {handle: "queued"}
    wait_for(job.log, "started\nsaved\nresumed\n")
    (tmp_path / "go").touch()
    result = engine.wait(handle, WAIT)
    assert result is not None
    assert (result.exit_code, result.reason) == (0, None)


@pytest.mark.parametrize("by_user", [True, False])
def test_a_cancelled_job_saves_a_checkpoint_and_is_not_queued_again(
    slurm: SlurmSite, engine: SlurmEngine, tmp_path: Path, by_user: bool
) -> None:
    job = python_job(tmp_path / "log", CHECKPOINTED, tmp_path)
    (handle,) = engine.submit([job])
    wait_for(job.log, "started\n")
    if by_user:
        slurm.call("scancel", handle.removeprefix("slurm:"))
    else:
        engine.cancel(handle)
    result = engine.wait(handle, WAIT)
    assert result is not None
    # Slurm signals the processes of a job, and so does the wrapper: Python may get a signal while it exits.
    assert result.exit_code in ((143, -15) if by_user else (143,))
    assert result.reason == ("CANCELLED" if by_user else None)
    assert job.log.read_text().startswith("started\nsaved\n")


def test_elements_that_were_cancelled_in_the_queue_end(slurm: SlurmSite, engine: SlurmEngine, tmp_path: Path) -> None:
    jobs = [python_job(tmp_path / f"{n}.log", CHECKPOINTED, tmp_path) for n in range(3)]
    handles = engine.submit(jobs, at_once=1)
    wait_for(jobs[0].log, "started\n")
    slurm.call("scancel", handles[1].removeprefix("slurm:"))
    result = engine.wait(handles[1], WAIT)
    assert result == JobResult(-15, 0.0, "CANCELLED")
    assert engine.states(handles) == dict(zip(handles, ("running", "ended", "queued"), strict=True))
    (tmp_path / "go").touch()
    assert [r and r.exit_code for r in [engine.wait(handles[n], WAIT) for n in (0, 2)]] == [0, 0]


def test_a_job_whose_wrapper_was_killed_has_a_result(slurm: SlurmSite, engine: SlurmEngine, tmp_path: Path) -> None:
    """Slurm knows how it ended."""
    job = python_job(tmp_path / "log", CHECKPOINTED, tmp_path)
    (handle,) = engine.submit([job], submission=f"killed-{time.time_ns()}")
    wait_for(job.log, "started\n")
    (state,) = tmp_path.glob("workspace/jobs/killed-*/0.state")
    os.kill(json.loads(state.read_text())["pid"], signal.SIGKILL)
    result = engine.wait(handle, WAIT)
    assert result is not None
    assert (result.exit_code, result.reason) == (1, "FAILED")
    assert engine.states([handle]) == {handle: "ended"}


def test_a_job_that_slurm_has_forgotten_is_lost(engine: SlurmEngine, workspace: Workspace, tmp_path: Path) -> None:
    """As long as its wrapper is alive, it is not."""
    (handle,) = engine.submit([python_job(tmp_path / "log", "")])
    engine.wait(handle, WAIT)
    (index,) = (workspace.jobs_dir / ".slurm").iterdir()
    index.rename(index.with_name("9999999"))
    (folder,) = [JobFolder(path) for path in workspace.jobs_dir.iterdir() if path.name != ".slurm"]
    (folder.path / "0.exit").unlink()
    with closing(SlurmEngine(workspace, SETTINGS)) as other:
        os.utime(folder.path / "0.state")
        assert other.states(["slurm:9999999_0"]) == {"slurm:9999999_0": "running"}
        assert other.poll("slurm:9999999_0") is None
        old = time.time() - 60
        os.utime(folder.path / "0.state", (old, old))
        assert other.states(["slurm:9999999_0"]) == {"slurm:9999999_0": "lost"}
        assert other.poll("slurm:9999999_0") == JobResult(-9, 0.0, "lost")


def test_a_submission_is_found_without_its_record(engine: SlurmEngine, workspace: Workspace, tmp_path: Path) -> None:
    """Its submitter was killed when Slurm had just queued the jobs."""
    name = f"unrecorded-{time.time_ns()}"
    handles = engine.submit([python_job(tmp_path / f"{n}.log", "") for n in range(8)], submission=name)
    assert len({handle.split("_")[0] for handle in handles}) >= 1
    (workspace.jobs_dir / name / "slurm.json").unlink()
    for path in (workspace.jobs_dir / ".slurm").iterdir():
        path.unlink()
    with closing(SlurmEngine(workspace, SETTINGS)) as other:
        assert other.find(name) == handles
        results = [other.wait(handle, WAIT) for handle in handles]
    assert [r and r.exit_code for r in results] == [0] * 8
    assert all((tmp_path / f"{n}.log").exists() for n in range(8))


def test_more_jobs_than_fit_in_an_array_become_several(slurm: SlurmSite, engine: SlurmEngine, tmp_path: Path) -> None:
    private(slurm)
    handles = engine.submit([python_job(tmp_path / f"{n}.log", f"print({n})") for n in range(8)], at_once=2)
    assert [int(handle.split("_")[1]) for handle in handles] == [*range(6), 0, 1]
    assert [r and r.exit_code for r in [engine.wait(handle, WAIT) for handle in handles]] == [0] * 8
    assert [(tmp_path / f"{n}.log").read_text() for n in range(8)] == [f"{n}\n" for n in range(8)]


def test_a_preempted_job_saves_a_checkpoint_and_resumes(
    slurm: SlurmSite, engine: SlurmEngine, workspace: Workspace, tmp_path: Path
) -> None:
    private(slurm)
    job = python_job(tmp_path / "log", CHECKPOINTED, tmp_path)
    (handle,) = engine.submit([job])
    wait_for(job.log, "started\n")
    urgent = python_job(tmp_path / "urgent.log", CHECKPOINTED, tmp_path / "urgent")
    (tmp_path / "urgent").mkdir()
    with closing(SlurmEngine(workspace, SlurmSettings(partition="urgent", cpus=2))) as other:
        (preempting,) = other.submit([urgent])
        wait_for(job.log, "started\nsaved\n")
        wait_for(urgent.log, "started\n")
        assert engine.states([handle, preempting]) == {handle: "queued", preempting: "running"}
        (tmp_path / "urgent" / "go").touch()
        (tmp_path / "go").touch()
        results = [engine.wait(each, WAIT) for each in (preempting, handle)]
    assert [r and (r.exit_code, r.reason) for r in results] == [(0, None)] * 2
    assert job.log.read_text() == "started\nsaved\nresumed\n"


def test_a_job_of_a_failed_node_is_queued_again(slurm: SlurmSite, engine: SlurmEngine, tmp_path: Path) -> None:
    private(slurm)
    job = python_job(tmp_path / "log", CHECKPOINTED, tmp_path)
    (handle,) = engine.submit([job])
    wait_for(job.log, "started\n")
    node = slurm.call("sinfo", "-h", "-o", "%n").split()[0]
    slurm.call("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    slurm.wait_until("PENDING", "squeue", "-h", "-r", f"--jobs={handle.removeprefix('slurm:')}", "-o", "%T")
    assert engine.states([handle]) == {handle: "queued"}
    slurm.call("scontrol", "update", f"NodeName={node}", "State=RESUME")
    (tmp_path / "go").touch()
    result = engine.wait(handle, WAIT)
    assert result is not None
    assert (result.exit_code, result.reason) == (0, None)
    assert job.log.read_text().splitlines()[-1] in {"started", "resumed"}


def test_the_check_of_an_engine_reports_what_the_node_sees(slurm: SlurmSite, workspace: Workspace) -> None:
    with open_store(workspace):
        pass
    found = {check.what: check for check in check_engine(workspace, "slurm", timeout=WAIT)}
    assert [check.problem for check in found.values()] == [None] * len(found)
    assert str(workspace.root) in found["the node opens the store"].detail
    assert ichx.__version__ in found["same versions on the node"].detail
    assert [path.name for path in workspace.jobs_dir.iterdir()] == [".slurm"]


@pytest.mark.parametrize(
    ("table", "word"),
    [
        ({"partition": "tset"}, "tset"),
        ({"gpus": 4096}, "4,096"),
        ({"options": ["--no-such-option"]}, "no-such-option"),
        ({"setup": ["exit 3"]}, "FAILED"),
        ({"memry": 1}, "memry"),
    ],
)
def test_the_check_of_an_engine_reports_problems(
    slurm: SlurmSite, workspace: Workspace, table: dict[str, Any], word: str
) -> None:
    changed = replace(workspace, engine={"slurm": {"lost_after": 3, **table}})
    last = check_engine(changed, "slurm", timeout=WAIT)[-1]
    assert word in str(last.problem)
    assert last.remedy


def test_jobs_survive_their_daemon(slurm: SlurmSite, engine: SlurmEngine, tmp_path: Path) -> None:
    private(slurm)
    job = python_job(tmp_path / "log", CHECKPOINTED, tmp_path)
    (handle,) = engine.submit([job])
    wait_for(job.log, "started\n")
    slurm.stop("slurmd", signal.SIGKILL)
    slurm.stop("slurmctld", signal.SIGKILL)
    assert engine.poll(handle) is None
    (tmp_path / "go").touch()
    result = engine.wait(handle, WAIT)
    slurm.start("slurmctld")
    slurm.start("slurmd")
    assert result is not None
    assert result.exit_code == 0


def test_variables_reach_a_job_but_no_file(
    engine: SlurmEngine, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ICHX_STORE", "postgresql://me:pa,ss@server/ichx")
    monkeypatch.setenv("PRIVATE", "pa,ss")
    code = "import os, sys; sys.exit(os.environ['ICHX_STORE'] != sys.argv[1][::-1] or 'PRIVATE' in os.environ)"
    (handle,) = engine.submit([python_job(tmp_path / "log", code, "postgresql://me:pa,ss@server/ichx"[::-1])])
    result = engine.wait(handle, WAIT)
    assert result is not None
    assert result.exit_code == 0
    files = [path for path in workspace.root.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if b"pa,ss" in path.read_bytes()]


def test_a_setup_and_a_template_come_before_the_job(slurm: SlurmSite, workspace: Workspace, tmp_path: Path) -> None:
    (workspace.root / "header.sh").write_text("#!/bin/bash\n#SBATCH --comment=unused\nexport FROM_TEMPLATE=1\n")
    settings = SlurmSettings(setup=("export FROM_SETUP=$((FROM_TEMPLATE + 1))",), template="header.sh")
    with closing(SlurmEngine(workspace, settings)) as engine:
        (handle,) = engine.submit([python_job(tmp_path / "log", "import os; print(os.environ['FROM_SETUP'])")])
        engine.wait(handle, WAIT)
    assert (tmp_path / "log").read_text() == "2\n"


def test_a_submission_is_found_although_the_site_has_replaced_its_comment(
    slurm: SlurmSite, workspace: Workspace, tmp_path: Path
) -> None:
    name = f"comment-{time.time_ns()}"
    with closing(SlurmEngine(workspace, replace(SETTINGS, options=("--comment=project 7",)))) as engine:
        handles = engine.submit([python_job(tmp_path / "log", "")], submission=name)
        (workspace.jobs_dir / name / "slurm.json").unlink()
        assert engine.find(name) == handles
        assert engine.wait(handles[0], WAIT) is not None


@pytest.mark.parametrize("name", ["100%a %j", "a\\nb %a", "$(exit 1) `x` '\"; #é"])
def test_a_workspace_may_have_any_name(slurm: SlurmSite, tmp_path: Path, name: str) -> None:
    workspace = init_workspace(tmp_path / name)
    with closing(SlurmEngine(workspace, SETTINGS)) as engine:
        (handle,) = engine.submit([python_job(workspace.root / "log", "print('here')")])
        result = engine.wait(handle, WAIT)
    assert result is not None
    assert (result.exit_code, (workspace.root / "log").read_text()) == (0, "here\n")


@pytest.mark.parametrize(
    ("settings", "resources", "error", "words"),
    [
        (SlurmSettings(partition="tset"), Resources(), InvalidInputError, ("tset",)),
        (SlurmSettings(), Resources(gpus=4096), ResourceError, ("4096",)),
        (SlurmSettings(), Resources(cpus=100_000), ResourceError, ("100000",)),
        (SlurmSettings(), Resources(memory=10**17), ResourceError, ("100,000",)),
        (SlurmSettings(options=("--no-such-option",)), Resources(), InvalidInputError, ("no-such-option",)),
        (SlurmSettings(constraint="no-such-feature"), Resources(), Exception, ("feature",)),
    ],
)
def test_a_refused_request_leaves_nothing(
    slurm: SlurmSite,
    workspace: Workspace,
    settings: SlurmSettings,
    resources: Resources,
    error: type[Exception],
    words: tuple[str, ...],
) -> None:
    job = Job((sys.executable, "-c", ""), workspace.root / "log", "job", resources=resources)
    with closing(SlurmEngine(workspace, settings)) as engine, pytest.raises(error) as raised:
        engine.submit([job], submission="refused-1")
    assert all(word in str(raised.value) for word in words)
    assert not (workspace.jobs_dir / "refused-1").exists()
    assert slurm.call("squeue", "-h", "--name=refused-1") == ""


def test_a_time_limit_beyond_that_of_the_partition_is_refused(slurm: SlurmSite, workspace: Workspace) -> None:
    private(slurm)
    job = Job((sys.executable, "-c", ""), workspace.root / "log", "job", resources=Resources(seconds=7200))
    with closing(SlurmEngine(workspace, SlurmSettings())) as engine, pytest.raises(ResourceError) as raised:
        engine.submit([job])
    assert "2 h" in str(raised.value)
    assert "1 h" in str(raised.value)


def test_a_job_of_another_version_of_ichx_does_not_start(engine: SlurmEngine, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ichx.__version__", "9.9.9")
        (handle,) = engine.submit([python_job(tmp_path / "log", "print('ran')")])
    result = engine.wait(handle, WAIT)
    assert result is not None
    assert result.exit_code == 1
    assert "9.9.9" in str(result.reason)
    assert "9.9.9" in (tmp_path / "log").read_text()
    assert "ran" not in (tmp_path / "log").read_text()


def test_a_submitter_that_ends_leaves_its_jobs(engine: SlurmEngine, workspace: Workspace, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from ichx.jobs.slurm_engine import SlurmEngine\n"
        "from ichx.jobs.engine_settings import SlurmSettings; from ichx.jobs.testing import python_job\n"
        "from ichx.workspace import open_workspace\n"
        "job = python_job(Path(sys.argv[2]), 'import time; time.sleep(2); print(1)')\n"
        "print(SlurmEngine(open_workspace(Path(sys.argv[1])), SlurmSettings()).submit([job])[0])"
    )
    command = [sys.executable, "-c", code, str(workspace.root), str(tmp_path / "log")]
    handle = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    result = engine.wait(handle, WAIT)
    assert result is not None
    assert (result.exit_code, (tmp_path / "log").read_text()) == (0, "1\n")
