"""The local engine: jobs as subprocesses of this process, each in its process group. POSIX only."""

import contextlib
import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from ichx.child_processes import child_environment
from ichx.jobs.engine import Job, JobResult, JobState

TICK_SECONDS = 0.05


@dataclass
class _Execution:
    future: "Future[JobResult]"
    cancelled: threading.Event = field(default_factory=threading.Event)
    killed: threading.Event = field(default_factory=threading.Event)

    @property
    def state(self) -> JobState:
        if self.future.done():
            return "ended"
        return "running" if self.future.running() else "queued"


class LocalEngine:
    """Runs at most `slots` jobs at the same time. Use it with `contextlib.closing`, which cancels all jobs.

    It ignores the resources of jobs: `ichx.jobs.resources` splits the machine.
    """

    name = "local"
    outlives_submitter = False

    def __init__(self, slots: int, *, grace: float | None = 10.0) -> None:
        """Create an engine.

        Args:
            slots: Number of jobs that run at the same time.
            grace: Seconds between SIGTERM and SIGKILL for a cancelled job; None waits until it ends.

        Raises:
            ValueError: `slots` is less than 1.
        """
        self._pool = ThreadPoolExecutor(max_workers=slots, thread_name_prefix="ichx-job")
        self._executions: dict[str, _Execution] = {}
        self._lock = threading.Lock()
        self._grace = grace

    def submit(self, jobs: Sequence[Job], *, at_once: int | None = None, submission: str | None = None) -> list[str]:
        """See `Engine.submit`. The number of slots is the only limit."""
        return [self._submit(job) for job in jobs]

    def _submit(self, job: Job) -> str:
        cancelled, killed = threading.Event(), threading.Event()
        with self._lock:
            future = self._pool.submit(self._execute, job, cancelled, killed)
            handle = f"{self.name}:{len(self._executions)}"
            self._executions[handle] = _Execution(future, cancelled, killed)
            return handle

    def find(self, submission: str) -> None:
        """Return None: jobs end with their submitter."""

    def states(self, handles: Sequence[str]) -> dict[str, JobState]:
        """See `Engine.states`."""
        return {handle: self._executions[handle].state for handle in handles}

    def poll(self, handle: str) -> JobResult | None:
        """See `Engine.poll`."""
        future = self._executions[handle].future
        return future.result() if future.done() else None

    def wait(self, handle: str, timeout: float | None = None) -> JobResult | None:
        """See `Engine.wait`."""
        try:
            return self._executions[handle].future.result(timeout)
        except TimeoutError:
            return None

    def cancel(self, handle: str) -> None:
        """See `Engine.cancel`."""
        self._executions[handle].cancelled.set()

    def kill(self, handle: str) -> None:
        """See `Engine.kill`."""
        self._executions[handle].killed.set()
        self._executions[handle].cancelled.set()

    def close(self) -> None:
        """See `Engine.close`."""
        with self._lock:
            for execution in self._executions.values():
                execution.cancelled.set()
            self._pool.shutdown()

    def _execute(self, job: Job, cancelled: threading.Event, killed: threading.Event) -> JobResult:
        """Run `job` to its end in a thread of the pool. Only this thread signals the process, before its id is free."""
        if cancelled.is_set():
            return JobResult(-signal.SIGTERM, 0.0)
        began = time.monotonic()
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("ab") as log:
            try:
                process = subprocess.Popen(
                    job.argv,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    process_group=0,
                    env={**os.environ, **job.environment, **child_environment()},
                )
            except OSError as error:
                log.write(f"cannot start {job.argv[0]}: {error.strerror}\n".encode())
                return JobResult(127, time.monotonic() - began)
        while process.poll() is None and not cancelled.wait(TICK_SECONDS):
            pass
        if process.poll() is None:
            if not killed.is_set():
                _signal_group(process, signal.SIGTERM)
            deadline = math.inf if self._grace is None else time.monotonic() + self._grace
            while process.poll() is None and time.monotonic() < deadline and not killed.wait(TICK_SECONDS):
                pass
        _signal_group(process, signal.SIGKILL)  # the process, if it is alive, and the children that it has left
        return JobResult(process.wait(), time.monotonic() - began)


def _signal_group(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS raises the latter for a group of zombies
        os.killpg(process.pid, number)
