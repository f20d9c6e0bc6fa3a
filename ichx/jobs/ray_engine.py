"""The Ray engine: jobs of a Ray cluster, each reserving its CPUs, GPUs and memory on one node. Needs the extra `ray`.

All nodes see the workspace and the Python environment under the same paths. Ray starts as many jobs at a time as fit.
"""

import json
import math
import os
import secrets
import shlex
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from ichx.child_processes import GRACE_SECONDS
from ichx.errors import CorruptFileError, IchxError, InvalidInputError, NotFoundError, ProcessError, ResourceError
from ichx.files import read_text, write_text
from ichx.jobs.engine import CANCELLED, LOST, Job, JobResult, JobState, Resources, wait_by_polling
from ichx.jobs.engine_settings import RaySettings
from ichx.jobs.job_folder import JobFolder
from ichx.jobs.ray_cluster import SET_ADDRESS, RayCluster, RayJob, RayRequest, dashboard_url
from ichx.text import escape, format_bytes

POLL_SECONDS: Final = 0.5

GONE_SECONDS: Final = 150.0
"""A cluster that does not answer for so long is lost with its jobs: nodes end a minute after their head node."""

START_TIMEOUT: Final = "JOB_SUPERVISOR_ACTOR_START_TIMEOUT"
"""How a job fails that waits in the queue for longer than `RAY_JOB_START_TIMEOUT_SECONDS` of the cluster."""

_RECORD: Final = "ray.json"
_FORWARDED: Final = (
    *("HF_HOME", "HF_HUB_OFFLINE", "ICHX_STORE", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PGDATABASE", "PGHOST", "PGPORT"),
    *("PGSERVICE", "PGSSLMODE", "PGUSER", "PYTHONPATH", "TORCH_HOME", "TZ", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"),
)
"""Environment variables of the submitter that jobs receive. The dashboard shows them, so none of them is a secret."""
_REQUEST_TO_STOP: Final = (-signal.SIGTERM, 128 + signal.SIGTERM)


class RayEngine:
    """Submits jobs to a Ray cluster and follows them, also those of other processes.

    Ray does not limit the jobs of a submission that run at a time: `at_once` has no effect.
    """

    name = "ray"
    outlives_submitter = True

    def __init__(self, jobs_dir: Path, settings: RaySettings) -> None:
        """Create an engine. It connects when it needs the cluster.

        Args:
            jobs_dir: Folder of the submissions, on a file system that all nodes share.
            settings: Address of the cluster, and what a job reserves by default.
        """
        self._jobs_dir = jobs_dir
        self._settings = settings
        self._contacts: dict[str, _Contact] = {}
        self._closed = False

    def submit(self, jobs: Sequence[Job], *, at_once: int | None = None, submission: str | None = None) -> list[str]:
        """See `Engine.submit`."""
        if self._closed:
            raise RuntimeError("the engine is closed")
        if not jobs:
            return []
        request = self._request(jobs[0].resources)
        _check_environment()
        contact = self._contact(_settings_url(self._settings))
        cluster = contact.cluster
        if not self._settings.autoscaling:
            _check_fits(request, cluster)
        submission = submission or f"ichx-{secrets.token_hex(6)}"
        handles = [f"{self.name}:{submission}-{index}" for index in range(len(jobs))]
        folder = JobFolder.create(
            self._jobs_dir, submission, jobs, handles=handles, options={"enforce_limit": True, "engine": self.name}
        )
        record = {**asdict(request), "url": cluster.url}
        write_text(folder.path / _RECORD, json.dumps(record, indent=1), "the submission")
        tried: list[str] = []
        try:
            for handle in handles:
                tried.append(handle)
                cluster.submit(_Place(folder, len(tried) - 1).request(_id(handle)))
        except BaseException:
            for handle in tried:
                self.cancel(handle)
            with suppress(IchxError):
                if not any(_id(handle) in cluster.jobs() for handle in tried):
                    folder.remove()
            raise
        with suppress(ProcessError):
            contact.jobs()  # in case the cluster does not answer later
        return handles

    def find(self, submission: str) -> list[str] | None:
        """See `Engine.find`. If only some of the jobs were queued, the others are `lost`."""
        folder = JobFolder(self._jobs_dir / submission)
        if not (folder.path / _RECORD).exists():
            return None
        handles = [f"{self.name}:{submission}-{index}" for index in range(folder.count())]
        states = self.states(handles)
        return None if set(states.values()) == {"lost"} else handles

    def states(self, handles: Sequence[str]) -> dict[str, JobState]:
        """See `Engine.states`."""
        ended = {handle for handle in handles if self._place(handle).result() is not None}
        jobs = self._jobs([handle for handle in handles if handle not in ended])
        return {handle: "ended" if handle in ended else self._state(handle, jobs[handle]) for handle in handles}

    def poll(self, handle: str) -> JobResult | None:
        """See `Engine.poll`."""
        place = self._place(handle)
        # Read before the cluster is asked: a job that is in the queue afterwards will never start.
        cancelled, result = place.is_cancelled(), place.result()
        if result is not None and (cancelled or result.exit_code not in _REQUEST_TO_STOP):
            return result
        try:
            job = self._jobs([handle])[handle]
        except ProcessError:  # the cluster does not answer
            return result
        if result is not None:
            if job is not None and job.status == "RUNNING":  # Ray is about to notice the end
                return None
            return replace(result, reason=CANCELLED) if job is not None and job.status == "STOPPED" else result
        if job is None:
            return JobResult(-signal.SIGKILL, 0.0, LOST)
        if cancelled and job.status in ("PENDING", "STOPPED", "FAILED"):
            return JobResult(-signal.SIGTERM, job.seconds)
        if job.status in ("PENDING", "RUNNING"):
            return None
        return place.result() or _result_by_cluster(job)

    def wait(self, handle: str, timeout: float | None = None) -> JobResult | None:
        """See `Engine.wait`."""
        return wait_by_polling(lambda: self.poll(handle), timeout, POLL_SECONDS)

    def cancel(self, handle: str) -> None:
        """See `Engine.cancel`. A job in the queue ends when its turn comes, without a start."""
        self._place(handle).send(signal.SIGTERM)

    def kill(self, handle: str) -> None:
        """See `Engine.kill`."""
        self._place(handle).send(signal.SIGKILL)

    def close(self) -> None:
        """Take no more jobs; those of the cluster continue."""
        self._closed = True

    def _contact(self, url: str) -> "_Contact":
        if url not in self._contacts:
            self._contacts[url] = _Contact(RayCluster(url))
        return self._contacts[url]

    def _place(self, handle: str) -> "_Place":
        submission, _, index = _id(handle).rpartition("-")
        if not submission or not index.isdecimal():
            raise NotFoundError(f"Unknown job: {handle!r}.", "`ichx jobs` lists the jobs.")
        return _Place(JobFolder(self._jobs_dir / submission), int(index))

    def _state(self, handle: str, job: RayJob | None) -> JobState:
        if job is None:
            return "lost"
        if job.status == "PENDING":
            return "ended" if self._place(handle).is_cancelled() else "queued"
        return "running" if job.status == "RUNNING" else "ended"

    def _jobs(self, handles: Sequence[str]) -> dict[str, RayJob | None]:
        """Return what the clusters know of jobs; each is asked once. Jobs that waited for too long are queued again."""
        places = {handle: self._place(handle) for handle in handles}
        known = {url: self._contact(url).jobs() for url in dict.fromkeys(place.url for place in places.values())}
        found: dict[str, RayJob | None] = {}
        for handle, place in places.items():
            jobs = known[place.url]
            attempts = [name for name in _attempts(_id(handle), len(jobs) + 1) if name in jobs]
            job = jobs[attempts[-1]] if attempts else None
            if job is not None and job.error == START_TIMEOUT and not place.is_cancelled():
                following = _attempts(_id(handle), len(attempts) + 1)[-1]
                with suppress(ProcessError):  # another process has just done the same
                    self._contact(place.url).cluster.submit(place.request(following))
                job = replace(job, status="PENDING", error=None)
            found[handle] = job
        return found

    def _request(self, resources: Resources) -> RayRequest:
        if resources.nodes != 1:
            raise InvalidInputError(
                f"A job on Ray runs on one node; the request has {resources.nodes}.", "Use Slurm, or one node."
            )
        chosen = self._settings
        return RayRequest(
            id="",
            command="",
            cpus=resources.cpus or chosen.cpus,
            gpus=chosen.gpus if resources.gpus is None else resources.gpus,
            memory=resources.memory or chosen.memory,
            resources={**chosen.resources, **dict(_parse_option(option) for option in resources.options)},
        )


@dataclass
class _Contact:
    """A cluster that has answered."""

    cluster: RayCluster
    answered: float = field(default_factory=time.monotonic)
    known: Mapping[str, RayJob] | None = None
    """The jobs of the last answer."""

    def jobs(self) -> Mapping[str, RayJob]:
        """Return the jobs of the cluster: the last known ones if it does not answer, none if it is gone."""
        try:
            self.known = self.cluster.jobs()
        except ProcessError:
            if self.known is None:
                raise
            return self.known if time.monotonic() - self.answered < GONE_SECONDS else {}
        self.answered = time.monotonic()
        return self.known


@dataclass(frozen=True)
class _Place:
    """The files of one job in the folder of its submission."""

    folder: JobFolder
    index: int

    @property
    def url(self) -> str:
        """URL of the cluster to which the job was submitted."""
        return str(self._record()["url"])

    def request(self, id_: str) -> RayRequest:
        """Return the request that queues the job as `id_`."""
        record = self._record()
        record.pop("url")
        variables = {
            "OMP_NUM_THREADS": str(max(1, int(record["cpus"]))),  # Ray sets 1
            # Time between SIGTERM and SIGKILL when a job is stopped with Ray's own command; Ray's default is 3 seconds.
            "RAY_JOB_STOP_WAIT_TIME_S": str(round(GRACE_SECONDS)),
        }
        given = [f"{name}={os.environ[name]}" for name in _FORWARDED if name in os.environ]
        command = f"exec {shlex.join(['env', *given, *self.folder.command(self.index)])}"
        return RayRequest(**{**record, "id": id_, "command": command, "variables": variables})

    def result(self) -> JobResult | None:
        """Return the end that the job itself has recorded."""
        return self.folder.result(self.index)

    def is_cancelled(self) -> bool:
        """Return whether `ichx` has cancelled the job."""
        return self.folder.is_cancelled(self.index)

    def send(self, number: signal.Signals) -> None:
        """Ask the job's wrapper to send a signal to the job."""
        self.folder.send(self.index, number)

    def _record(self) -> dict[str, Any]:
        path = self.folder.path / _RECORD
        try:
            return dict(json.loads(read_text(path)))
        except ValueError as error:
            raise CorruptFileError(f"{path} is damaged.", "Rerun the command that submitted the jobs.") from error


def _settings_url(settings: RaySettings) -> str:
    address = settings.address or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS")
    if not address:
        raise InvalidInputError("No Ray cluster is set.", f"{SET_ADDRESS} RAY_ADDRESS does the same.")
    return dashboard_url(address)


def _check_environment() -> None:
    """Raise `InvalidInputError` if a variable that jobs need has a password."""
    if not (store := os.environ.get("ICHX_STORE")):
        return
    from ichx.store.database import parse_url

    url = parse_url(store)
    if url.password is not None or any("password" in name.lower() for name in url.query):
        raise InvalidInputError(
            "The URL of the store in ICHX_STORE has a password, which the dashboard of Ray would show.",
            "Remove it from the URL, and write it to ~/.pgpass.",
        )


def _id(handle: str) -> str:
    return handle.removeprefix("ray:")


def _attempts(id_: str, count: int) -> list[str]:
    """Return the first `count` submission ids of a job. Ray accepts each of them once."""
    return [id_, *(f"{id_}.{number}" for number in range(1, count))]


def _result_by_cluster(job: RayJob) -> JobResult:
    """Return the result of a job that has ended without recording it: its wrapper could not start or was killed."""
    if job.status == "STOPPED":
        return JobResult(-signal.SIGTERM, job.seconds, CANCELLED)
    last = (job.message.strip().splitlines() or [""])[-1]
    code = -signal.SIGKILL if job.exit_code is None else job.exit_code
    return JobResult(code, job.seconds, f"{job.error or job.status}: {last}")


def _parse_option(option: str) -> tuple[str, float]:
    """Return a custom resource and its number, from `NAME=NUMBER`."""
    name, _, number = option.partition("=")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not name or not 0 < value < math.inf:
        raise InvalidInputError(
            f"Invalid option for Ray: {escape(option)!r}.", "Reserve a custom resource of the nodes as NAME=NUMBER."
        )
    return name, value


def _check_fits(request: RayRequest, cluster: RayCluster) -> None:
    """Raise `ResourceError` if no node has what a job reserves: it would wait forever."""
    nodes = cluster.nodes()
    needed = {"CPU": request.cpus, "GPU": request.gpus, "memory": request.memory, **request.resources}
    needed = {name: amount for name, amount in needed.items() if amount}
    # A head node that has just started lists no node for a moment.
    if not nodes or any(all(node.get(name, 0) >= amount for name, amount in needed.items()) for node in nodes):
        return

    def describe(name: str, amount: float) -> str:
        return f"{format_bytes(int(amount))} of memory" if name == "memory" else f"{amount:g} {name}"

    most = {name: max((node.get(name, 0) for node in nodes), default=0) for name in needed}
    raise ResourceError(
        f"Each job reserves {', '.join(describe(*item) for item in needed.items())}; "
        f"no node of {cluster.url} has that. The most of each: {', '.join(describe(*item) for item in most.items())}.",
        "Request less. If the cluster adds such nodes on demand, set `autoscaling = true` in [engine.ray].",
    )
