"""Folds as jobs of a scheduler: submits those that have no job yet as one array, and follows all of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ichx.errors import ConflictError
from ichx.jobs.engine import Job, JobResult
from ichx.jobs.fold_job import fold_job
from ichx.jobs.follow import JobFollower, follow, wait_for_handles
from ichx.jobs.job_log import JobLog
from ichx.jobs.launch_report import Unit, UnitProgress, UnitState
from ichx.jobs.launch_results import LaunchResults
from ichx.jobs.reconcile import reconcile
from ichx.jobs.recorded_engine import RecordedEngine, recorded_end
from ichx.jobs.resources import Shares
from ichx.store.jobs import ACTIVE

if TYPE_CHECKING:
    from ichx.store import JobRecord

MAX_RACES = 5
"""How often another command may submit one of the folds between the decision and the submission."""


@dataclass
class _Followed:
    unit: Unit
    log: JobLog
    progress: UnitProgress
    state: UnitState
    started: bool = False


class SubmittedFolds(JobFollower):
    """Submits and follows the folds of one launch."""

    def __init__(self, results: LaunchResults, engine: RecordedEngine) -> None:
        self._results, self._engine = results, engine
        self._store, self._numbers = results.project.store, list(results.experiments)
        self._followed: dict[str, _Followed] = {}

    def run(self, units: Sequence[Unit], leave: Callable[[], bool]) -> bool:
        """Set the result of each unit; return whether the user left before all jobs had ended."""
        if not self._submit(units, leave):
            return True
        results, detach = self._results, self._results.request.detach
        known = {handle: followed.state for handle, followed in self._followed.items()}
        active = follow(self._engine, known, self, (lambda: True) if detach else leave)
        for handle, state in active.items():
            results.record(self._followed[handle].unit, _unit_state(state), job=handle)
        return bool(active) and not detach

    def _submit(self, units: Sequence[Unit], leave: Callable[[], bool]) -> bool:
        """Submit the units that nobody executes, adopt the jobs of the others; return False if the user left."""
        adopted: dict[Unit, JobRecord] = {}
        for race in range(1, MAX_RACES + 1):
            found = self._active_jobs(units, leave)
            if found is None:
                for unit in units:
                    self._results.record(unit, "not begun")
                return False
            adopted = found
            live = {Unit(run.experiment, run.fold): run for run in self._store.live_runs(self._numbers)}
            free = [unit for unit in units if unit not in adopted and unit not in live]
            jobs = [self._job(unit) for unit in free]
            logs = [JobLog.at_end(job.log) for job in jobs]
            try:
                handles = self._engine.submit(jobs, at_once=self._results.request.jobs) if jobs else []
            except ConflictError:
                if race == MAX_RACES or not self._has_new_jobs(free):
                    raise
                continue
            break
        for unit in units:
            if unit in live and unit not in adopted:
                self._results.record_held(unit, live[unit])
        for unit, record in adopted.items():
            if record.engine == self._engine.name and record.handle is not None:
                log = JobLog(self._results.project.workspace.root / record.log, 0)
                self._add(record.handle, unit, log, _unit_state(record.state))
            else:  # another scheduler has it
                self._results.record(unit, _unit_state(record.state), job=record.handle)
        self._engine.adopt(adopted.values())
        count = len(self._followed)
        for unit, handle, log in zip(free, handles, logs, strict=True):
            self._add(handle, unit, log)
        self._results.callbacks.submitted(len(free), count, self._results.request.jobs)
        return True

    def _active_jobs(self, units: Sequence[Unit], leave: Callable[[], bool]) -> "dict[Unit, JobRecord] | None":
        """Return the job of each unit that has one; None if the user left while another command submits them."""
        wanted: dict[tuple[int | None, int | None], Unit] = {(unit.experiment, unit.fold): unit for unit in units}

        def read() -> "list[JobRecord]":
            workspace, opened = self._results.project.workspace, {self._engine.name: self._engine}
            for problem in reconcile(workspace, self._store, experiments=self._numbers, opened=opened):
                self.trouble(problem)
            records = self._store.jobs(ACTIVE, experiments=self._numbers)
            return [record for record in records if (record.experiment, record.fold) in wanted]

        found = wait_for_handles(read, "these folds", self.trouble, leave)
        return None if found is None else {wanted[record.experiment, record.fold]: record for record in found}

    def _has_new_jobs(self, units: Sequence[Unit]) -> bool:
        """Return whether another command has submitted one of `units`."""
        records = self._store.jobs(ACTIVE, experiments=self._numbers)
        return any((record.experiment, record.fold) == (u.experiment, u.fold) for record in records for u in units)

    def _job(self, unit: Unit) -> Job:
        request, workspace = self._results.request, self._results.project.workspace
        device = request.options.device  # `auto` is decided on the node, and so are the loader processes
        job = fold_job(workspace, unit.experiment, unit.fold, request.options, device, Shares((device,)))
        return replace(job, argv=(*job.argv, *request.arguments), resources=request.resources)

    def _add(self, handle: str, unit: Unit, log: JobLog, state: UnitState = "queued") -> None:
        epochs = self._results.experiments[unit.experiment].epochs
        self._followed[handle] = _Followed(unit, log, UnitProgress(0, epochs, ""), state)

    def tick(self, queued: Sequence[str], running: Sequence[str]) -> None:
        """Report new epochs and the last lines of the logs."""
        callbacks = self._results.callbacks
        callbacks.waiting(len(queued), len(running))
        if not running:
            return
        epochs = {Unit(run.experiment, run.fold): run.epochs_done for run in self._store.live_runs(self._numbers)}
        for handle in running:
            followed = self._followed[handle]
            if not followed.started:
                followed.started = True
                callbacks.unit_started(followed.unit, "auto", self._results.relative(followed.log.path))
            done = epochs.get(followed.unit, followed.progress.epochs_done)
            progress = replace(followed.progress, epochs_done=done, message=followed.log.last_line())
            if progress != followed.progress:
                followed.progress = progress
                callbacks.unit_progressed(followed.unit, progress)

    def ended(self, handle: str, result: JobResult) -> None:
        """Record the result of a fold."""
        followed, results = self._followed[handle], self._results
        # A job that was killed while it updated the experiment's score has finished its fold.
        if result.exit_code == 0 or results.is_done(followed.unit):
            results.record(followed.unit, "done", result, followed.log, handle)
        elif recorded_end(result).state == "cancelled":
            results.record(followed.unit, "cancelled", result, followed.log, handle)
        elif not results.record_holder(followed.unit):  # the job may have lost the race for the fold
            results.record(followed.unit, "failed", result, followed.log, handle)

    def trouble(self, problem: str) -> None:
        """Pass on why the scheduler or the store could not be asked."""
        self._results.callbacks.trouble(problem)


def _unit_state(state: str) -> UnitState:
    return "running" if state == "running" else "queued"
