"""The interface between those who have jobs and those who execute them. `testing.EngineContract` checks it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Job:
    """A command to execute, without input; its output and errors are appended to `log`.

    A job must not outlive the process that submitted it: `ichx` ends with it (`ichx.child_processes`).
    `environment` is set beside what the submitting process has. Jobs are safe to run again after any end.
    """

    argv: tuple[str, ...]
    log: Path
    name: str
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class JobResult:
    """How a job ended, `seconds` after it began.

    `exit_code` is the command's; `-N` when signal N ended it, -15 when it was cancelled before it began, 127 when it
    could not be started (the log says why).
    """

    exit_code: int
    seconds: float


class Engine(Protocol):
    """Executes jobs, each once and in the order of submission as far as there is room. All methods are thread-safe."""

    def submit(self, job: Job) -> int:
        """Accept `job`, to be executed as soon as there is room, and return its handle; `RuntimeError` once closed."""
        ...

    def poll(self, handle: int) -> JobResult | None:
        """Return the result of a job that has ended, None before."""
        ...

    def wait(self, handle: int, timeout: float | None = None) -> JobResult | None:
        """Return the result when the job has ended, or None after `timeout` seconds."""
        ...

    def cancel(self, handle: int) -> None:
        """Have the job ended with all processes it started, politely first; returns at once, harmless after its end."""
        ...

    def kill(self, handle: int) -> None:
        """As `cancel`, but at once and not politely; also for a job that was cancelled and takes its time."""
        ...

    def close(self) -> None:
        """Cancel all jobs and return when they have ended."""
        ...
