"""Jobs of a real Ray cluster on this machine."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from local_ray import LocalRay, local_ray, why_ray_is_absent

from ichx.errors import InvalidInputError, ProcessError, ResourceError
from ichx.jobs import Job, JobResult, Resources, ray_engine
from ichx.jobs.engine_settings import RaySettings
from ichx.jobs.ray_cluster import RayCluster, RayRequest
from ichx.jobs.ray_engine import RayEngine
from ichx.jobs.testing import TIMEOUT, EngineContract, Reopen, python_job

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(why_ray_is_absent() is not None, reason=str(why_ray_is_absent())),
]

SLEEP = (
    "import os, time; parent = os.getppid(); print('started', flush=True)\n"
    "while os.getppid() == parent: time.sleep(0.1)"  # as all commands of ichx, which end with their parent
)


@pytest.fixture(scope="session")
def cluster() -> Iterator[LocalRay]:
    with local_ray() as cluster:
        yield cluster


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def started(log: Path) -> Callable[[], bool]:
    return lambda: log.exists() and log.read_text() == "started\n"


@pytest.fixture
def engine(cluster: LocalRay, tmp_path: Path) -> Iterator[RayEngine]:
    with closing(RayEngine(tmp_path / "jobs", RaySettings(address=cluster.url))) as engine:
        yield engine
    for folder in (tmp_path / "jobs").glob("*"):
        for handle in engine.find(folder.name) or ():
            engine.kill(handle)


class TestRayEngine(EngineContract):
    @pytest.fixture
    def reopen(self, tmp_path: Path) -> Reopen:
        # The address of the submission counts, not the one that is set now.
        return lambda: RayEngine(tmp_path / "jobs", RaySettings(address="http://127.0.0.1:1"))


def test_a_cancelled_job_in_the_queue_ends_at_once(engine: RayEngine, tmp_path: Path) -> None:
    handles = engine.submit([python_job(tmp_path / f"{n}.log", SLEEP) for n in range(3)], submission="night-1")
    assert handles == ["ray:night-1-0", "ray:night-1-1", "ray:night-1-2"]
    until(lambda: sorted(engine.states(handles).values()) == ["queued", "running", "running"])
    waiting = next(handle for handle, state in engine.states(handles).items() if state == "queued")
    engine.cancel(waiting)
    assert engine.poll(waiting) == JobResult(-15, 0.0)  # although all CPUs are in use
    assert engine.states([waiting]) == {waiting: "ended"}


def test_a_job_knows_its_handle_and_what_it_reserves(
    engine: RayEngine, cluster: LocalRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ICHX_STORE", "postgresql://me@db/lists")
    monkeypatch.setenv("PGPASSWORD", "hunter2")
    names = ("ICHX_JOB", "OMP_NUM_THREADS", "RAY_JOB_STOP_WAIT_TIME_S", "ICHX_STORE", "PGPASSWORD")
    resources = Resources(cpus=2, memory=10**9, options=("disk=0.5",))
    code = f"import os; print(*map(os.environ.get, {names}))"
    job = Job((sys.executable, "-c", code), tmp_path / "log", "job", resources=resources)
    (handle,) = engine.submit([job], submission="one")
    result = engine.wait(handle, TIMEOUT)
    assert result is not None
    assert result.exit_code == 0
    # The dashboard would show the password.
    assert job.log.read_text() == "ray:one-0 2 300 postgresql://me@db/lists None\n"


def test_each_job_has_its_gpu(engine: RayEngine, tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys, time; folder, me, other = pathlib.Path(sys.argv[1]), *sys.argv[2:]\n"
        "print(os.environ['CUDA_VISIBLE_DEVICES']); (folder / me).touch()\n"
        "while not (folder / other).exists(): time.sleep(0.01)"
    )
    jobs = [python_job(tmp_path / f"{n}.log", code, tmp_path, n, 1 - n) for n in range(2)]
    handles = engine.submit([replace(job, resources=Resources(gpus=1)) for job in jobs])
    assert [result and result.exit_code for result in (engine.wait(handle, TIMEOUT) for handle in handles)] == [0, 0]
    assert sorted(job.log.read_text() for job in jobs) == ["0\n", "1\n"]


@pytest.mark.parametrize("url", ["postgresql://me:hunter2@db/x", "postgresql://me@db/x?password=hunter2"])
def test_a_password_in_the_url_of_the_store_is_refused(
    engine: RayEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("ICHX_STORE", url)
    with pytest.raises(InvalidInputError) as raised:
        engine.submit([python_job(tmp_path / "log", "")])
    assert "ICHX_STORE" in raised.value.problem
    assert "hunter2" not in str(raised.value.to_dict())
    assert not (tmp_path / "jobs").exists()


def test_a_job_stops_at_its_time_limit(engine: RayEngine, tmp_path: Path) -> None:
    job = Job((sys.executable, "-c", SLEEP), tmp_path / "log", "job", resources=Resources(seconds=0.5))
    result = engine.wait(engine.submit([job])[0], TIMEOUT)
    assert result is not None
    assert (result.exit_code, result.reason) == (-15, "TIMEOUT")


def test_a_job_that_was_stopped_with_rays_command_is_named(
    engine: RayEngine, cluster: LocalRay, tmp_path: Path
) -> None:
    (handle,) = engine.submit([python_job(tmp_path / "log", SLEEP)])
    until(started(tmp_path / "log"))
    RayCluster(cluster.url).stop(handle.removeprefix("ray:"))
    result = engine.wait(handle, TIMEOUT)
    assert result is not None
    assert (result.exit_code, result.reason) == (-15, "CANCELLED")


def test_a_killed_wrapper_is_noticed(engine: RayEngine, tmp_path: Path) -> None:
    code = "import os; print(os.getppid(), flush=True); import time; time.sleep(600)"
    (handle,) = engine.submit([python_job(tmp_path / "log", code)])
    until(lambda: (tmp_path / "log").exists() and (tmp_path / "log").read_text().endswith("\n"))
    os.kill(int((tmp_path / "log").read_text()), signal.SIGKILL)
    result = engine.wait(handle, TIMEOUT)
    assert result is not None
    assert result.exit_code == -9
    assert str(result.reason).startswith("FAILED")


def test_a_restarted_cluster_has_lost_its_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with local_ray() as cluster:
        engine = RayEngine(tmp_path / "jobs", RaySettings(address=cluster.url))
        (handle,) = engine.submit([python_job(tmp_path / "log", SLEEP)])
        until(lambda: engine.states([handle]) == {handle: "running"})
        until(started(tmp_path / "log"))
        cluster.kill()
        assert engine.states([handle]) == {handle: "running"}  # it may be the network
        other = RayEngine(tmp_path / "jobs", RaySettings())
        assert other.poll(handle) is None
        with pytest.raises(ProcessError, match=cluster.url):
            other.states([handle])
    with local_ray(int(cluster.url.rpartition(":")[2])):
        assert engine.states([handle]) == {handle: "lost"}
        result = RayEngine(tmp_path / "jobs", RaySettings()).poll(handle)
        assert result is not None
        assert (result.exit_code, result.reason) == (-9, "lost")
    assert engine.states([handle]) == {handle: "lost"}
    monkeypatch.setattr(ray_engine, "GONE_SECONDS", -1.0)
    assert engine.poll(handle) == result


def test_a_job_that_waits_for_longer_than_ray_allows_is_queued_again(tmp_path: Path) -> None:
    with local_ray(environment={"RAY_JOB_START_TIMEOUT_SECONDS": "5"}) as cluster:
        engine = RayEngine(tmp_path / "jobs", RaySettings(address=cluster.url, cpus=2))
        first, second = engine.submit([python_job(tmp_path / f"{n}.log", SLEEP) for n in range(2)], submission="long")
        until(started(tmp_path / "0.log"))

        def attempts() -> dict[str, str]:
            assert engine.states([second]) == {second: "queued"}
            assert engine.poll(second) is None
            return {id_: job.status for id_, job in RayCluster(cluster.url).jobs().items() if id_.startswith("long-1")}

        until(lambda: attempts().get("long-1.2") == "PENDING")
        engine.kill(first)
        until(started(tmp_path / "1.log"))
        assert engine.states([first, second]) == {first: "ended", second: "running"}
        engine.kill(second)
        result = engine.wait(second, TIMEOUT)
        assert result is not None
        assert result.exit_code == -9


@pytest.mark.parametrize(
    ("resources", "values"),
    [
        (Resources(gpus=3), ("3 GPU", "2 GPU")),
        (Resources(cpus=64), ("64 CPU", "2 CPU")),
        (Resources(memory=10**13), ("10 TB", "2.0 GB")),
        (Resources(options=("a100=1",)), ("1 a100", "0 a100")),
    ],
)
def test_jobs_that_fit_no_node_are_refused(
    engine: RayEngine, cluster: LocalRay, tmp_path: Path, resources: Resources, values: tuple[str, str]
) -> None:
    job = Job((sys.executable, "-c", ""), tmp_path / "log", "job", resources=resources)
    with pytest.raises(ResourceError) as raised:
        engine.submit([job], submission="huge")
    for value in (*values, cluster.url):
        assert value in raised.value.problem
    assert engine.find("huge") is None
    assert not (tmp_path / "jobs").exists()


@pytest.mark.parametrize(
    "resources", [Resources(nodes=2), Resources(options=("--constraint=x",)), Resources(options=("a100=0",))]
)
def test_invalid_requests(engine: RayEngine, tmp_path: Path, resources: Resources) -> None:
    with pytest.raises(InvalidInputError, match="2|--constraint=x|a100=0"):
        engine.submit([Job(("true",), tmp_path / "log", "job", resources=resources)])


def test_a_refused_job_cancels_those_before_it(engine: RayEngine, cluster: LocalRay, tmp_path: Path) -> None:
    RayCluster(cluster.url).submit(RayRequest("taken-1", "true", cpus=1, gpus=0, memory=0))
    jobs = [python_job(tmp_path / f"{n}.log", SLEEP) for n in range(2)]
    with pytest.raises(ProcessError, match="taken-1"):
        engine.submit(jobs, submission="taken")
    until(lambda: RayCluster(cluster.url).jobs()["taken-0"].status not in ("PENDING", "RUNNING"))
    assert not (tmp_path / "0.log").exists()


def test_a_node_without_the_python_of_the_submitter(
    engine: RayEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    (handle,) = engine.submit([Job(("true",), tmp_path / "log", "job")])
    result = engine.wait(handle, TIMEOUT)
    assert result is not None
    assert result.exit_code == 127
    assert "/no/such/python" in str(result.reason)
