"""Launches: folds of several experiments as jobs, several at a time. A run of a fold is in `ichx.experiments.run`.

Finished folds are skipped, a failed fold does not stop the others, and a stopped launch resumes when rerun.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ichx.errors import IchxError
from ichx.experiments.fold_status import finished_folds, fold_score, live_run, missing_tests
from ichx.experiments.folder_record import check_folder
from ichx.jobs.engine import Engine, Job, JobResult
from ichx.jobs.fold_job import fold_job
from ichx.jobs.job_log import JobLog
from ichx.jobs.launch_report import (
    Holder,
    LaunchCallbacks,
    LaunchedScore,
    LaunchReport,
    Unit,
    UnitProgress,
    UnitResult,
    UnitState,
)
from ichx.jobs.resources import Shares
from ichx.jobs.scheduler import Admission, Scheduler, Task
from ichx.recipe_text import from_toml
from ichx.store import pooled_score, require_network
from ichx.training.run_options import RunOptions

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import Experiment

STOP_CODES: Final = {129, 130, 143, -1, -2, -9, -15}
"""Exit codes of jobs that end on request: of `ichx` itself, and of signals."""


@dataclass(frozen=True)
class LaunchRequest:
    """The folds to run."""

    experiments: tuple[int, ...]
    """Numbers of the experiments, in the order in which they run."""
    folds: tuple[int, ...] | None = None
    """Folds of each experiment, in the order in which they run; None: all."""
    jobs: int = 1
    """Number of folds that run at the same time."""
    options: RunOptions = field(default_factory=RunOptions)


def launch(
    project: "Project",
    request: LaunchRequest,
    engine: Engine,
    *,
    callbacks: LaunchCallbacks | None = None,
    stop_level: Callable[[], int] = lambda: 0,
) -> LaunchReport:
    """Run the requested folds as jobs and return their results.

    Args:
        project: The open project.
        request: Experiments, folds and options.
        engine: Executes the jobs.
        callbacks: Receives progress and results.
        stop_level: Returns 0, or 1 to stop all jobs after their step, or more to kill them.

    Raises:
        NotFoundError: An experiment or fold does not exist.
        ConflictError: The folder of an experiment contains another one.
        IchxError: An experiment cannot start from the requested weights.
    """
    experiments = [project.store.experiment(number) for number in dict.fromkeys(request.experiments)]
    for e in experiments:
        require_network(e, "run it")
        e.check_folds(request.folds or ())
        check_folder(project, e)  # before the log of a job is written there
    units = [Unit(e.number, fold) for e in experiments for fold in dict.fromkeys(request.folds or range(e.folds))]
    if request.options.pretrained is not None or request.options.weights is not None:
        _check_start(project, experiments, request.options)
    launched = _Launch(project, request, callbacks or LaunchCallbacks(), experiments)
    stopped = launched.run(units, engine, stop_level)
    return LaunchReport(
        units=tuple(launched.results[unit] for unit in units),
        experiments=tuple(_score(project, e.number) for e in experiments),
        stopped=stopped,
    )


def _check_start(project: "Project", experiments: "Sequence[Experiment]", options: RunOptions) -> None:
    """Raise `IchxError` if an experiment cannot start from the requested weights."""
    from ichx.training.weights import choose_start  # imports torch

    for experiment in experiments:
        home = project.workspace.experiment_dir(experiment.number)
        recipe = from_toml(experiment.recipe)
        choose_start(home, recipe, pretrained=options.pretrained, weights=options.weights)


class _Launch:
    def __init__(
        self,
        project: "Project",
        request: LaunchRequest,
        callbacks: LaunchCallbacks,
        experiments: "Sequence[Experiment]",
    ) -> None:
        self.project, self.request, self.callbacks = project, request, callbacks
        self.experiments = {experiment.number: experiment for experiment in experiments}
        self.results: dict[Unit, UnitResult] = {}
        self._waiting: deque[Unit] = deque()

    def run(self, units: Sequence[Unit], engine: Engine, stop_level: Callable[[], int]) -> bool:
        """Set the result of each unit; return whether the user stopped the launch before all were done."""
        for unit in units:
            # Only the run itself knows whether a finished fold has its features.
            if self.is_done(unit) and not self.request.options.save_features:
                self.record(unit, "already done")
            else:
                self._waiting.append(unit)
        if not self._waiting:
            return False
        jobs = min(self.request.jobs, len(self._waiting))
        scheduler = Scheduler(engine, self.request.options.device, jobs)
        self.callbacks.planned(len(self._waiting), jobs, scheduler.shares.describe())
        scheduler.run(self._next_task, stop_level, self.callbacks)
        for unit in self._waiting:
            self.record(unit, "not begun")
        return any(result.state in {"stopped", "not begun"} for result in self.results.values())

    def is_done(self, unit: Unit) -> bool:
        """Return whether the fold is trained and has predicted all test sets."""
        finished = unit.fold in finished_folds(self.project, unit.experiment)
        return finished and not missing_tests(self.project, self.experiments[unit.experiment], unit.fold)

    def record(self, unit: Unit, state: UnitState, result: JobResult | None = None, log: JobLog | None = None) -> None:
        """Record the result of a fold, with its score."""
        recorded = UnitResult(
            unit.experiment, unit.fold, state, fold_score(self.project.store, unit.experiment, unit.fold)
        )
        if result is not None and log is not None:
            reason = log.failure(result) if state == "failed" else None
            recorded = replace(recorded, seconds=result.seconds, log=self.relative(log.path), reason=reason)
        self._end(recorded)

    def record_holder(self, unit: Unit) -> bool:
        """Record the fold as held and return True if another live process runs it."""
        run = live_run(self.project.store, unit.experiment, unit.fold)
        if run is not None:
            self._end(UnitResult(unit.experiment, unit.fold, "held", holder=Holder(run.host, run.pid, run.started)))
        return run is not None

    def relative(self, log: Path) -> str:
        """Return the path of a log within the workspace."""
        return log.relative_to(self.project.workspace.root).as_posix()

    def _end(self, result: UnitResult) -> None:
        self.results[result.unit] = result
        self.callbacks.unit_ended(result)

    def _next_task(self, running: int) -> Task | None:
        return _FoldTask(self, self._waiting.popleft()) if self._waiting else None


class _FoldTask(Task):
    def __init__(self, launched: _Launch, unit: Unit) -> None:
        self._launch, self._unit = launched, unit
        self._progress = UnitProgress(0, launched.experiments[unit.experiment].epochs, "")

    def admit(self) -> Admission:
        return "skip" if self._launch.record_holder(self._unit) else "run"

    def start(self, device: str, shares: Shares) -> Job:
        workspace, options = self._launch.project.workspace, self._launch.request.options
        job = fold_job(workspace, self._unit.experiment, self._unit.fold, options, device, shares)
        self._launch.callbacks.unit_started(self._unit, device, self._launch.relative(job.log))
        return job

    def follow(self, log: JobLog) -> bool:
        done, message = self._progress.epochs_done, log.last_line()
        try:
            run = live_run(self._launch.project.store, self._unit.experiment, self._unit.fold)
            done = done if run is None else run.epochs_done
        except IchxError as error:  # a busy store must not end the jobs
            message = error.problem
        progress = replace(self._progress, epochs_done=done, message=message)
        if progress != self._progress:
            self._progress = progress
            self._launch.callbacks.unit_progressed(self._unit, progress)
        return True

    def settle(self, result: JobResult, log: JobLog, *, stopping: bool) -> bool:
        # A job that was stopped or killed while it updated the experiment's score has finished its fold.
        if result.exit_code == 0 or self._launch.is_done(self._unit):
            self._launch.record(self._unit, "done", result, log)
        elif stopping and result.exit_code in STOP_CODES:
            self._launch.record(self._unit, "stopped", result, log)
        elif not self._launch.record_holder(self._unit):  # the job may have lost the race for the fold
            self._launch.record(self._unit, "failed", result, log)
        return True


def _score(project: "Project", number: int) -> LaunchedScore:
    """Return an experiment's score after updating it: the job of its last fold may have been killed before that."""
    from ichx.evaluation.scorecard import update_scores  # imports pandas, which the jobs need not wait for

    error = None
    try:
        update_scores(project, number)
    except IchxError as problem:
        error = problem.problem
    return LaunchedScore(**vars(pooled_score(project.store.experiment(number))), error=error)
