"""The job scheduler: runs tasks as jobs of an engine, several at a time, and follows each until its end is recorded.

Tasks are defined by their users: folds in `ichx.jobs.launch`, trials in `ichx.tuning.trial_task`. Jobs of a cluster
outlive this process: a task adopts the job that an earlier process has submitted for it.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from ichx.errors import IchxError, ProcessError
from ichx.jobs import follow
from ichx.jobs.engine import Engine, Job, JobResult, JobState
from ichx.jobs.job_log import JobLog
from ichx.jobs.recorded_engine import RecordedEngine, result_of
from ichx.jobs.resources import Shares, split_machine

if TYPE_CHECKING:
    from pathlib import Path

TICK_SECONDS = 0.2
"""Time between two polls of the engine."""

FOLLOW_SECONDS = 0.5
"""Time between two calls of `Task.follow`."""

MAX_ERRORS: Final = 5
"""How often a task may fail to record the end of its job, e.g. because the store is busy."""

AWAY_SECONDS = 600.0
"""How long submissions are repeated while a scheduler that has accepted a job does not answer."""

STOP: Final = 1
KILL: Final = 2
"""Levels of a stop request: let running jobs end their step, or kill them. 0 is no request."""
LEAVE: Final = -1
"""Stop following jobs, which continue; for engines whose jobs outlive this process."""

Admission = Literal["run", "wait", "skip"]


class Task(ABC):
    """A unit of work that runs as one job and is safe to repeat."""

    def admit(self) -> Admission:
        """Return whether to submit the job now, later or never."""
        return "run"

    def submitted(self, engine: RecordedEngine) -> "tuple[str, Path] | Admission":
        """Return handle and log of the active job that executes the task already, or what `admit` returns."""
        return self.admit()

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

    def leaving(self, running: int) -> None:
        """The `running` jobs continue without this process."""

    def trouble(self, problem: str) -> None:
        """The scheduler or the store could not be asked; the jobs continue, and the next tick asks again."""


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
        self._remote = engine if isinstance(engine, RecordedEngine) else None
        self.shares = split_machine(device, slots) if self._remote is None else Shares((device,))
        self._engine, self._slots = engine, slots
        self._active: list[_Active] = []
        self._has_accepted = False
        self._away_since: float | None = None

    def run(
        self,
        next_task: Callable[[int], Task | None],
        stop_level: Callable[[], int],
        callbacks: SchedulerCallbacks,
    ) -> int:
        """Run tasks until none is left or all have stopped; return the level of the stop request.

        Args:
            next_task: Gets the number of running tasks; returns one more, or None if there is none to start.
            stop_level: Returns 0, `STOP`, `KILL` or more, or `LEAVE`; called at each tick.
            callbacks: `stopping` is called if tasks run while the level rises.
        """
        level = 0
        try:
            while True:
                if self._remote is not None and stop_level() == LEAVE:
                    callbacks.leaving(len(self._active))
                    return LEAVE
                if (requested := min(stop_level(), KILL)) > level:
                    level = requested
                    if self._active:
                        callbacks.stopping(len(self._active), level == KILL)
                        self._stop(at_once=level == KILL)
                while not level and len(self._active) < self._slots and (task := next_task(len(self._active))):
                    self._active.append(_Active(task))
                if not self._active:
                    return level
                states = self._ask(callbacks)
                self._active = [a for a in self._active if not self._advance(a, states, callbacks, stopping=level > 0)]
                if self._active and self._remote is None:
                    time.sleep(TICK_SECONDS)
                elif self._active:
                    follow.nap(lambda reached=level: stop_level() not in (0, reached))  # type: ignore[misc]
        finally:
            here = self._active if self._remote is None else []  # jobs of a cluster continue
            handles = [active.handle for active in here if active.handle is not None]
            for handle in handles:
                self._engine.cancel(handle)
            for handle in handles:
                self._engine.wait(handle)

    def _ask(self, callbacks: SchedulerCallbacks) -> dict[str, JobState]:
        """Return the states of the jobs of a cluster, whose scheduler is asked once for all of them."""
        if self._remote is None:
            return {}
        handles = [active.handle for active in self._active if active.handle is not None]
        try:
            return self._remote.states(handles) if handles else {}
        except IchxError as error:  # a scheduler that is busy or restarts
            callbacks.trouble(error.problem)
            return dict.fromkeys(handles, "queued")

    def _result(self, handle: str, states: dict[str, JobState]) -> JobResult | None:
        if self._remote is None:
            return self._engine.poll(handle)
        state = states.get(handle, "queued")
        result = result_of(self._remote, handle, state) if state in ("ended", "lost") else None
        if result is not None:
            self._remote.record_end(handle, result)
        return result

    def _advance(
        self, active: _Active, states: dict[str, JobState], callbacks: SchedulerCallbacks, *, stopping: bool
    ) -> bool:
        """Submit, follow or settle the job of a task; return whether its slot is free again."""
        if active.handle is None or active.log is None:
            return stopping or not self._submit(active, callbacks)
        result = self._result(active.handle, states)
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

    def _submit(self, active: _Active, callbacks: SchedulerCallbacks) -> bool:
        """Submit the job of a task if it is admitted; return whether it keeps its slot."""
        admission = active.task.admit() if self._remote is None else active.task.submitted(self._remote)
        if isinstance(admission, tuple):
            active.handle, active.log = admission[0], JobLog(admission[1], 0)
        elif admission == "run":
            active.device = self.shares.free_device([a.device for a in self._active if a is not active])
            job = active.task.start(active.device, self.shares)
            active.log = JobLog.at_end(job.log)
            try:
                active.handle = self._engine.submit([job])[0]
            except ProcessError as error:
                self._note_absence(error)
                callbacks.trouble(error.problem)
            else:
                self._has_accepted, self._away_since = True, None
        return admission != "skip"

    def _note_absence(self, error: ProcessError) -> None:
        """Return if a submission that failed with `error` should be repeated; otherwise raise it."""
        now = time.monotonic()
        self._away_since = now if self._away_since is None else self._away_since
        if self._remote is None or not self._has_accepted or now - self._away_since > AWAY_SECONDS:
            raise error

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
