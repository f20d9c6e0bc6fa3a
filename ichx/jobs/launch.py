"""Launches: folds of several experiments as jobs, several at a time. A run of a fold is in `ichx.experiments.run`.

Finished folds are skipped, a failed fold does not stop the others, and a stopped launch resumes when rerun. Jobs that
outlive this process are submitted and followed in `ichx.jobs.submitted_folds`.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ichx.errors import IchxError
from ichx.experiments.fold_status import live_run
from ichx.experiments.folder_record import check_folder
from ichx.jobs.engine import Engine, Job, JobResult
from ichx.jobs.fold_job import fold_job
from ichx.jobs.job_log import JobLog
from ichx.jobs.launch_report import (
    LaunchCallbacks,
    LaunchedScore,
    LaunchReport,
    LaunchRequest,
    Unit,
    UnitProgress,
)
from ichx.jobs.launch_results import LaunchResults
from ichx.jobs.recorded_engine import STOP_CODES, RecordedEngine
from ichx.jobs.resources import Shares
from ichx.jobs.scheduler import Admission, Scheduler, Task
from ichx.jobs.submitted_folds import SubmittedFolds
from ichx.recipe_text import from_toml
from ichx.store import pooled_score, require_network
from ichx.training.run_options import RunOptions

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import Experiment


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
        stop_level: Returns 0, or 1 to stop all jobs after their step, or more to kill them. Jobs of an engine that
            outlive this process continue; it only stops following them.

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
    results = LaunchResults(project, request, callbacks or LaunchCallbacks(), experiments)
    waiting = results.record_done(units)
    if not waiting:
        stopped = False
    elif isinstance(engine, RecordedEngine):
        stopped = SubmittedFolds(results, engine).run(waiting, lambda: stop_level() > 0)
    else:
        stopped = _run_here(results, waiting, engine, stop_level)
    done = not stopped and not request.detach
    return LaunchReport(
        units=tuple(results.by_unit[unit] for unit in units),
        experiments=tuple(_score(project, e.number, update=done) for e in experiments),
        stopped=stopped,
        detached=request.detach,
    )


def _check_start(project: "Project", experiments: "Sequence[Experiment]", options: RunOptions) -> None:
    """Raise `IchxError` if an experiment cannot start from the requested weights."""
    from ichx.training.weights import choose_start  # imports torch

    for experiment in experiments:
        home = project.workspace.experiment_dir(experiment.number)
        recipe = from_toml(experiment.recipe)
        choose_start(home, recipe, pretrained=options.pretrained, weights=options.weights)


def _run_here(results: LaunchResults, units: Sequence[Unit], engine: Engine, stop_level: Callable[[], int]) -> bool:
    """Run folds on this machine; return whether the user stopped the launch before all were done."""
    waiting = deque(units)
    jobs = min(results.request.jobs or 1, len(waiting))
    scheduler = Scheduler(engine, results.request.options.device, jobs)
    results.callbacks.planned(len(waiting), jobs, scheduler.shares.describe())
    scheduler.run(
        lambda running: _FoldTask(results, waiting.popleft()) if waiting else None, stop_level, results.callbacks
    )
    for unit in waiting:
        results.record(unit, "not begun")
    return any(result.state in {"stopped", "not begun"} for result in results.by_unit.values())


class _FoldTask(Task):
    def __init__(self, launched: LaunchResults, unit: Unit) -> None:
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


def _score(project: "Project", number: int, *, update: bool) -> LaunchedScore:
    """Return an experiment's score, if needed after updating it: the job of its last fold may have been killed."""
    error = None
    if update:
        from ichx.evaluation.scorecard import update_scores  # imports pandas, which the jobs need not wait for

        try:
            update_scores(project, number)
        except IchxError as problem:
            error = problem.problem
    return LaunchedScore(**vars(pooled_score(project.store.experiment(number))), error=error)
