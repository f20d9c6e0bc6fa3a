"""The job scheduler: runs tasks as jobs of an engine, several at a time, and follows each until its end is recorded.

Tasks are defined by their users: folds in `ichx.jobs.launch`, trials in `ichx.tuning.trial_task`.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from ichx.errors import IchxError
from ichx.jobs.engine import Engine, Job, JobResult
from ichx.jobs.job_log import JobLog
from ichx.jobs.resources import Shares, split_machine

TICK_SECONDS = 0.2
"""Time between two polls of the engine."""

FOLLOW_SECONDS = 0.5
"""Time between two calls of `Task.follow`."""

MAX_ERRORS: Final = 5
"""How often a task may fail to record the end of its job, e.g. because the store is busy."""

STOP: Final = 1
KILL: Final = 2
"""Levels of a stop request: let running jobs end their step, or kill them. 0 is no request."""

Admission = Literal["run", "wait", "skip"]


class Task(ABC):
    """A unit of work that runs as one job and is safe to repeat."""

    def admit(self) -> Admission:
        """Return whether to submit the job now, later or never."""
        return "run"

    @abstractmethod
    def start(self, device: str, shares: Shares) -> Job:
        """Return the job to submit: on `device`, with its share of the machine."""

    def follow(self, log: JobLog) -> bool:
        """Report the progress of the running job; return False to cancel it."""
        return True

    @abstractmethod
    def settle(self, result: JobResult, log: JobLog, *, stopping: bool) -> bool:
        """Record how the job ended; return False to submit it again.

        Args:
            result: Result of the job.
            log: Output of the job.
            stopping: Whether all jobs have been asked to stop.
        """


class SchedulerCallbacks:
    """Hooks of a scheduled piece of work; override what you need."""

    def planned(self, count: int, jobs: int, shares: str) -> None:
        """`count` jobs will run, `jobs` at a time; `shares` describes the share of each if the machine is split."""

    def stopping(self, running: int, at_once: bool) -> None:
        """The `running` jobs are asked to stop, or killed if `at_once`."""


@dataclass
class _Active:
    """A task in a slot. It has no handle before its job is submitted."""

    task: Task
    device: str = ""
    handle: str | None = None
    log: JobLog | None = None
    followed: float = 0.0
    cancelled: bool = False
    errors: int = 0


class Scheduler:
    """Runs tasks on `slots` equal shares of the machine."""

    def __init__(self, engine: Engine, device: str, slots: int) -> None:
        self.shares = split_machine(device, slots)
        self._engine, self._slots = engine, slots
        self._active: list[_Active] = []

    def run(
        self,
        next_task: Callable[[int], Task | None],
        stop_level: Callable[[], int],
        callbacks: SchedulerCallbacks,
    ) -> int:
        """Run tasks until none is left or all have stopped; return the level of the stop request.

        Args:
            next_task: Gets the number of running tasks; returns one more, or None if there is none to start.
            stop_level: Returns 0, `STOP`, or `KILL` or more; called at each tick.
            callbacks: `stopping` is called if tasks run while the level rises.
        """
        level = 0
        try:
            while True:
                if (requested := min(stop_level(), KILL)) > level:
                    level = requested
                    if self._active:
                        callbacks.stopping(len(self._active), level == KILL)
                        self._stop(at_once=level == KILL)
                while not level and len(self._active) < self._slots and (task := next_task(len(self._active))):
                    self._active.append(_Active(task))
                if not self._active:
                    return level
                self._active = [active for active in self._active if not self._advance(active, stopping=level > 0)]
                if self._active:
                    time.sleep(TICK_SECONDS)
        finally:
            handles = [active.handle for active in self._active if active.handle is not None]
            for handle in handles:
                self._engine.cancel(handle)
            for handle in handles:
                self._engine.wait(handle)

    def _advance(self, active: _Active, *, stopping: bool) -> bool:
        """Submit, follow or settle the job of a task; return whether its slot is free again."""
        if active.handle is None or active.log is None:
            return stopping or not self._submit(active)
        result = self._engine.poll(active.handle)
        try:
            if result is None:
                if not stopping:
                    self._follow(active, active.handle, active.log)
            elif active.task.settle(result, active.log, stopping=stopping):
                return True
            else:
                active.handle = None
        except IchxError:  # a busy store must not end the other jobs
            active.errors += result is not None
            if active.errors > MAX_ERRORS:
                raise
        return False

    def _submit(self, active: _Active) -> bool:
        """Submit the job of a task if it is admitted; return whether it keeps its slot."""
        admission = active.task.admit()
        if admission == "run":
            active.device = self.shares.free_device([a.device for a in self._active if a is not active])
            job = active.task.start(active.device, self.shares)
            active.log = JobLog.at_end(job.log)
            active.handle = self._engine.submit([job])[0]
        return admission != "skip"

    def _follow(self, active: _Active, handle: str, log: JobLog) -> None:
        if active.cancelled or time.monotonic() - active.followed < FOLLOW_SECONDS:
            return
        active.followed = time.monotonic()
        if not active.task.follow(log):
            active.cancelled = True
            self._engine.cancel(handle)

    def _stop(self, *, at_once: bool) -> None:
        for active in self._active:
            if active.handle is not None:
                (self._engine.kill if at_once else self._engine.cancel)(active.handle)
