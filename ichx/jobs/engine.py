"""The interface of engines, which execute jobs. `ichx.jobs.testing.EngineContract` tests an implementation."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, Protocol

JobState = Literal["queued", "running", "ended", "lost"]
"""What a scheduler knows of a job. `lost`: it does not know the job, and the job has not recorded its end."""

CANCELLED: Final = "CANCELLED"
LOST: Final = "lost"
"""Values of `JobResult.reason` that all engines have."""


@dataclass(frozen=True)
class Resources:
    """What one job needs; None leaves a value to the settings of the engine or to the site."""

    cpus: int | None = None
    """CPU cores per node."""
    gpus: int | None = None
    """GPUs per node."""
    memory: int | None = None
    """Bytes per node."""
    seconds: float | None = None
    """Time limit."""
    nodes: int = 1
    options: tuple[str, ...] = ()
    """Further options of the scheduler, e.g. `--constraint=a100`."""


@dataclass(frozen=True)
class Job:
    """A command without input, which is safe to repeat."""

    argv: tuple[str, ...]
    log: Path
    """File to which standard output and standard error are appended."""
    name: str
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables in addition to those of the submitting process. They are written to files: no secrets."""
    resources: Resources = Resources()
    kind: str = "fold"
    """`fold`, `trial`, `tune`, `cache`, `predict`, `evaluate`, `check`. The store records it; engines do not use it."""
    experiment: int | None = None
    """Experiment to which it belongs, for the store."""
    fold: int | None = None
    """Fold that it trains, for the store."""


@dataclass(frozen=True)
class JobResult:
    """How a job ended."""

    exit_code: int
    """Of the command; -N if signal N ended it, -15 if it was cancelled before its start, 127 if it could not start."""
    seconds: float
    reason: str | None = None
    """The scheduler's word for an end that the exit code does not explain: `TIMEOUT`, `NODE_FAIL`, `lost`, ..."""


class Engine(Protocol):
    """Executes each job once, in the order of submission, as far as there are free slots. Methods are thread-safe.

    The handle of a job of an engine that outlives the submitter is durable: an engine object of another process
    accepts it, too, also after weeks.
    """

    @property
    def name(self) -> str:
        """Name in commands and in front of the handles: `local`, `slurm`, `ray`."""
        ...

    @property
    def outlives_submitter(self) -> bool:
        """Whether jobs continue after `close` and after the end of the submitting process."""
        ...

    def submit(self, jobs: Sequence[Job], *, at_once: int | None = None, submission: str | None = None) -> list[str]:
        """Queue `jobs`, which have equal resources, and return their handles.

        Args:
            jobs: The jobs, in the order in which they start.
            at_once: Number of these jobs that run at the same time, if the engine can limit that.
            submission: A unique name of letters, digits and `-`, under which `find` knows these jobs.

        Raises:
            IchxError: The scheduler refuses the jobs; none is queued.
            RuntimeError: The engine is closed.
        """
        ...

    def find(self, submission: str) -> list[str] | None:
        """Return the handles of the jobs that were queued as `submission`, None if there are none.

        It finds the jobs of a submitter that ended before it could record the handles.
        """
        ...

    def states(self, handles: Sequence[str]) -> dict[str, JobState]:
        """Return the state of each job; the scheduler is asked once."""
        ...

    def poll(self, handle: str) -> JobResult | None:
        """Return the result of a job, None before it has ended."""
        ...

    def wait(self, handle: str, timeout: float | None = None) -> JobResult | None:
        """Return the result when the job has ended, None after `timeout` seconds."""
        ...

    def cancel(self, handle: str) -> None:
        """Ask the job and all processes it started to stop; return at once. No effect after its end."""
        ...

    def kill(self, handle: str) -> None:
        """Kill the job and all processes it started, even if it was cancelled before; return at once."""
        ...

    def close(self) -> None:
        """Cancel all jobs and return when they have ended, unless they outlive the submitter."""
        ...


def wait_by_polling(poll: Callable[[], JobResult | None], timeout: float | None, seconds: float) -> JobResult | None:
    """Return the result that `poll`, called every `seconds`, returns at last; None after `timeout` seconds."""
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    while (result := poll()) is None and (left := deadline - time.monotonic()) > 0:
        time.sleep(min(seconds, left))
    return result
