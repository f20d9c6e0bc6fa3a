"""The interface of engines, which execute jobs. `ichx.jobs.testing.EngineContract` tests an implementation."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Job:
    """A command without input. It is safe to repeat, and ends with the process that submitted it."""

    argv: tuple[str, ...]
    log: Path
    """File to which standard output and standard error are appended."""
    name: str
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables in addition to those of the submitting process."""


@dataclass(frozen=True)
class JobResult:
    """How a job ended."""

    exit_code: int
    """Of the command; -N if signal N ended it, -15 if it was cancelled before its start, 127 if it could not start."""
    seconds: float


class Engine(Protocol):
    """Executes each job once, in the order of submission, as far as there are free slots. Methods are thread-safe."""

    def submit(self, job: Job) -> int:
        """Queue `job` and return its handle. Raises `RuntimeError` after `close`."""
        ...

    def poll(self, handle: int) -> JobResult | None:
        """Return the result of a job, None before it has ended."""
        ...

    def wait(self, handle: int, timeout: float | None = None) -> JobResult | None:
        """Return the result when the job has ended, None after `timeout` seconds."""
        ...

    def cancel(self, handle: int) -> None:
        """Ask the job and all processes it started to stop; return at once. No effect after its end."""
        ...

    def kill(self, handle: int) -> None:
        """Kill the job and all processes it started, even if it was cancelled before; return at once."""
        ...

    def close(self) -> None:
        """Cancel all jobs and return when they have ended."""
        ...
