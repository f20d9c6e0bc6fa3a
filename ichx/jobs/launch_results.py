"""The results of a launch while it runs: which folds are done, held or failed, with their scores."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ichx.experiments.fold_status import finished_folds, fold_score, live_run, missing_tests
from ichx.jobs.engine import JobResult
from ichx.jobs.job_log import JobLog
from ichx.jobs.launch_report import Holder, LaunchCallbacks, LaunchRequest, Unit, UnitResult, UnitState

if TYPE_CHECKING:
    from pathlib import Path

    from ichx.project import Project
    from ichx.store import Experiment, Run


class LaunchResults:
    """The results by fold."""

    def __init__(
        self,
        project: "Project",
        request: LaunchRequest,
        callbacks: LaunchCallbacks,
        experiments: "Sequence[Experiment]",
    ) -> None:
        self.project, self.request, self.callbacks = project, request, callbacks
        self.experiments = {experiment.number: experiment for experiment in experiments}
        self.by_unit: dict[Unit, UnitResult] = {}

    def record_done(self, units: Sequence[Unit]) -> list[Unit]:
        """Record the folds that are done already, and return the others."""
        if self.request.options.save_features:
            return list(units)  # only the run itself knows whether a finished fold has its features
        finished = {number: finished_folds(self.project, e) for number, e in self.experiments.items()}
        waiting = []
        for unit in units:
            if unit.fold in finished[unit.experiment] and not self._missing_tests(unit):
                self.record(unit, "already done")
            else:
                waiting.append(unit)
        return waiting

    def is_done(self, unit: Unit) -> bool:
        """Return whether the fold is trained and has predicted all test sets."""
        finished = finished_folds(self.project, self.experiments[unit.experiment])
        return unit.fold in finished and not self._missing_tests(unit)

    def _missing_tests(self, unit: Unit) -> bool:
        return bool(missing_tests(self.project, self.experiments[unit.experiment], unit.fold))

    def record(
        self,
        unit: Unit,
        state: UnitState,
        result: JobResult | None = None,
        log: JobLog | None = None,
        job: str | None = None,
    ) -> None:
        """Record the result of a fold, with its score."""
        recorded = UnitResult(
            unit.experiment, unit.fold, state, fold_score(self.project.store, unit.experiment, unit.fold), job=job
        )
        if result is not None and log is not None:
            reason = log.failure(result) if state == "failed" else None
            recorded = replace(recorded, seconds=result.seconds, log=self.relative(log.path), reason=reason)
        self._end(recorded)

    def record_holder(self, unit: Unit) -> bool:
        """Record the fold as held and return True if another live process runs it."""
        run = live_run(self.project.store, unit.experiment, unit.fold)
        if run is not None:
            self.record_held(unit, run)
        return run is not None

    def record_held(self, unit: Unit, run: "Run") -> None:
        """Record that another live process, `run`, has the fold."""
        holder = Holder(run.host, run.pid, run.started)
        self._end(UnitResult(unit.experiment, unit.fold, "held", holder=holder, job=run.job))

    def relative(self, log: "Path") -> str:
        """Return the path of a log within the workspace."""
        return log.relative_to(self.project.workspace.root).as_posix()

    def _end(self, result: UnitResult) -> None:
        self.by_unit[result.unit] = result
        self.callbacks.unit_ended(result)
