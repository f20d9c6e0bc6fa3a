"""A Ray cluster through the Jobs API of its dashboard. The package `ray` is imported when a cluster is connected."""

import contextlib
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any, Final
from urllib.parse import urlsplit

from ichx.errors import InvalidInputError, MissingDependencyError, ProcessError, UnsupportedError
from ichx.text import escape

DASHBOARD_PORT: Final = 8265
CONNECT_SECONDS: Final = 10.0
ANSWER_SECONDS: Final = 60.0

_OLDEST: Final = (2, 52)
"""First version of Ray that names why a job failed. The Jobs API is stable within a major version."""

_ADDRESS_VARIABLES: Final = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
SET_ADDRESS: Final = "Set `address` in [engine.ray] to the dashboard of the head node, e.g. http://HEAD:8265."


@dataclass(frozen=True)
class RayRequest:
    """One job to submit."""

    id: str
    """Submission id, unique in the cluster."""
    command: str
    """For `/bin/sh`; everyone who reaches the dashboard can read it."""
    cpus: float
    gpus: float
    memory: int
    """Bytes."""
    resources: Mapping[str, float] = field(default_factory=dict)
    """Custom resources of the cluster's nodes by name."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of Ray's own process that starts the job; public as the command is."""


@dataclass(frozen=True)
class RayJob:
    """What the cluster knows of a job."""

    status: str
    """PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED."""
    error: str | None
    """Why the job failed, e.g. JOB_SUPERVISOR_ACTOR_DIED; None as long as its command ran to its end."""
    message: str
    exit_code: int | None
    seconds: float


def dashboard_url(address: str) -> str:
    """Return the URL of the dashboard at `address`: a URL, `HOST` or `HOST:PORT`.

    Raises:
        InvalidInputError: It is another kind of address, e.g. `ray://HOST:10001` or `auto`.
    """
    parts = urlsplit(address if "://" in address else f"http://{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if parts.scheme not in ("http", "https") or not host or address == "auto" or parts.username is not None:
        shown = escape(address.rpartition("@")[2])  # without a password
        raise InvalidInputError(f"Invalid address of a Ray cluster: {shown!r}.", SET_ADDRESS)
    if port is None and parts.scheme == "http":
        port = DASHBOARD_PORT
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{'' if port is None else f':{port}'}{parts.path.rstrip('/')}"


class RayCluster:
    """The cluster whose dashboard is at `url`. Every method raises `ProcessError` if it does not answer."""

    def __init__(self, url: str) -> None:
        """Connect to the cluster.

        Raises:
            ProcessError: Nothing answers, or not a Ray dashboard.
            MissingDependencyError: `ray` is not installed.
            UnsupportedError: The cluster runs another version of Ray.
        """
        self.url = url
        version = _version(url)
        with _without_address_variables():  # which the client prefers to its argument
            try:
                import ray
                from ray.job_submission import JobSubmissionClient
            except ImportError as error:
                raise MissingDependencyError(
                    f"The package ray cannot be imported ({error}).", "Install it: pip install 'ichx[ray]'."
                ) from error
            if version is not None and not _OLDEST <= _release(version) < (_release(ray.__version__)[0] + 1,):
                raise UnsupportedError(
                    f"The cluster at {url} runs Ray {escape(version)}; this is Ray {ray.__version__}.",
                    "Install the same version on both sides.",
                )
            with self._translated():
                self._client = _with_timeout(JobSubmissionClient)(url)

    def submit(self, request: RayRequest) -> None:
        """Queue a job."""
        with self._translated():
            self._client.submit_job(
                entrypoint=request.command,
                submission_id=request.id,
                entrypoint_num_cpus=request.cpus,
                entrypoint_num_gpus=request.gpus,
                entrypoint_memory=request.memory,
                entrypoint_resources=dict(request.resources) or None,
                runtime_env={"env_vars": dict(request.variables)},
            )

    def jobs(self) -> dict[str, RayJob]:
        """Return all jobs that the cluster knows by submission id, in order of submission."""
        with self._translated():
            found = [job for job in self._client.list_jobs() if job.submission_id is not None]
        found.sort(key=lambda job: job.start_time or 0)
        return {
            str(job.submission_id): RayJob(
                status=str(job.status),
                error=None if job.error_type == "JOB_ENTRYPOINT_COMMAND_ERROR" else job.error_type,
                message=job.message or "",
                exit_code=job.driver_exit_code,
                seconds=max(0, (job.end_time or 0) - (job.start_time or 0)) / 1000,
            )
            for job in found
        }

    def stop(self, id_: str) -> None:
        """Ask a job to stop; no effect after its end."""
        with self._translated():
            self._client.stop_job(id_)

    def nodes(self) -> list[dict[str, float]]:
        """Return the resources of each node that is alive: CPU, GPU, memory in bytes, and custom ones."""
        from ray.util.state import list_nodes

        with self._translated(), _without_address_variables():
            nodes = list_nodes(address=self.url, filters=[("state", "=", "ALIVE")], limit=10_000)
        return [dict(node.resources_total or {}) for node in nodes]

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        import requests
        from ray.exceptions import AuthenticationError
        from ray.util.state.exception import RayStateApiException

        try:
            yield
        except (ConnectionError, requests.exceptions.RequestException) as error:
            raise _unreachable(self.url, "the connection failed") from error
        except (RuntimeError, AuthenticationError, RayStateApiException) as error:  # any answer but 200
            lines = [line for line in str(error).splitlines() if any(map(str.isalpha, line))]
            raise ProcessError(
                f"The Ray cluster at {self.url} refuses a request: {escape(''.join(lines[-1:]))}",
                "Check the cluster with `ray status`.",
            ) from error


def _version(url: str) -> str | None:
    """Return the version of Ray at `url`; None if the dashboard wants a token first, which only the client sends."""
    try:
        with urllib.request.urlopen(f"{url}/api/version", timeout=CONNECT_SECONDS) as answer:
            return str(json.loads(answer.read(10_000))["ray_version"])
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return None
        raise _unreachable(url, f"it answers {error.code} {error.reason}") from error
    except (OSError, HTTPException) as error:
        raise _unreachable(url, str(getattr(error, "reason", error)) or type(error).__name__) from error
    except (ValueError, KeyError, TypeError) as error:
        raise _unreachable(url, "another program answers") from error


def _with_timeout(client: type[Any]) -> type[Any]:
    """Return a client whose requests end: those of `ray` wait forever for a head node that has gone."""

    class Client(client):  # type: ignore[misc]
        def _do_request(self, *arguments: Any, **options: Any) -> Any:
            return super()._do_request(*arguments, **{"timeout": ANSWER_SECONDS, **options})

    return Client


def _release(version: str) -> tuple[int, int]:
    major, minor, *_ = [*version.split("."), "0"]
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else (0, 0)


def _unreachable(url: str, reason: str) -> ProcessError:
    return ProcessError(
        f"No Ray cluster answers at {escape(url)}: {escape(reason)}.",
        f"Check that it runs and that this machine reaches its dashboard. {SET_ADDRESS}",
    )


@contextlib.contextmanager
def _without_address_variables() -> Iterator[None]:
    saved = {name: os.environ.pop(name) for name in _ADDRESS_VARIABLES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(saved)
