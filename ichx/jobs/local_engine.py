"""Jobs as subprocesses of this one, a few at a time. POSIX only: each job is a process group."""

import contextlib
import math
import os
import signal
import subprocess
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from ichx.child_processes import child_environment
from ichx.jobs.engine import Job, JobResult

TICK_SECONDS = 0.05


@dataclass
class _Task:
    future: "Future[JobResult]"
    cancelled: threading.Event = field(default_factory=threading.Event)
    killed: threading.Event = field(default_factory=threading.Event)


class LocalEngine:
    """Runs at most `slots` jobs at once; a cancelled one gets SIGTERM, and SIGKILL `grace` seconds later.

    With `grace` None it gets all the time it takes. Use it with `contextlib.closing`: jobs that nobody cancels hold up
    the end of the program.
    """

    def __init__(self, slots: int, *, grace: float | None = 10.0) -> None:
        """Raise `ValueError` for less than one slot."""
        self._pool = ThreadPoolExecutor(max_workers=slots, thread_name_prefix="ichx-job")
        self._tasks: list[_Task] = []
        self._lock = threading.Lock()
        self._grace = grace

    def submit(self, job: Job) -> int:
        """See `Engine.submit`."""
        cancelled, killed = threading.Event(), threading.Event()
        with self._lock:
            future = self._pool.submit(self._execute, job, cancelled, killed)
            self._tasks.append(_Task(future, cancelled, killed))
            return len(self._tasks) - 1

    def poll(self, handle: int) -> JobResult | None:
        """See `Engine.poll`."""
        future = self._tasks[handle].future
        return future.result() if future.done() else None

    def wait(self, handle: int, timeout: float | None = None) -> JobResult | None:
        """See `Engine.wait`."""
        try:
            return self._tasks[handle].future.result(timeout)
        except TimeoutError:
            return None

    def cancel(self, handle: int) -> None:
        """See `Engine.cancel`."""
        self._tasks[handle].cancelled.set()

    def kill(self, handle: int) -> None:
        """See `Engine.kill`."""
        self._tasks[handle].killed.set()
        self._tasks[handle].cancelled.set()

    def close(self) -> None:
        """See `Engine.close`."""
        with self._lock:
            for task in self._tasks:
                task.cancelled.set()
            self._pool.shutdown()

    def _execute(self, job: Job, cancelled: threading.Event, killed: threading.Event) -> JobResult:
        """Run `job` to its end, in a thread of the pool; only this thread signals the process, so its id is its own."""
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
                _signal(process, signal.SIGTERM)
            until = math.inf if self._grace is None else time.monotonic() + self._grace
            while process.poll() is None and time.monotonic() < until and not killed.wait(TICK_SECONDS):
                pass
        _signal(process, signal.SIGKILL)  # it, if it lives, and what it left behind
        return JobResult(process.wait(), time.monotonic() - began)


def _signal(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # the latter is macOS's word for a group of zombies
        os.killpg(process.pid, number)
