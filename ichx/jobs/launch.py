"""Launching: folds of several experiments, each in a process of its own, some at a time, through an engine.

What is done is not done again, what fails does not stop the others, and a launch that was stopped goes on when asked
again. What a fold's run is, is not known here (`ichx.experiments.run`).
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ichx.errors import IchxError, raise_problems
from ichx.experiments.fold_status import finished_folds, fold_score, live_run, missing_tests
from ichx.jobs import Engine, Job, JobResult
from ichx.jobs.fold_job import failure, fold_job, last_line, log_size
from ichx.jobs.launch_events import (
    Holder,
    LaunchEvents,
    LaunchReport,
    PooledScore,
    Unit,
    UnitProgress,
    UnitResult,
)
from ichx.jobs.resources import Shares, share_machine
from ichx.project import Project
from ichx.recipe_text import from_toml
from ichx.store import marks
from ichx.training.run_options import RunOptions

if TYPE_CHECKING:
    from ichx.store import Experiment, Store
    from ichx.workspace import Workspace

TICK_SECONDS = 0.2
LOOK_SECONDS = 1.0
"""How often a job is looked at for its progress."""

MOST_UNREAD = 5
"""How often the store may fail to say what came of a job; each time it has been waited for already."""

STOPPED_CODES = {130, 143, -2, -9, -15}
"""How a job ends that was told to stop: the first two are of `ichx` itself."""


def launch(
    project: "Project",
    numbers: Sequence[int],
    engine: Engine,
    *,
    jobs: int = 1,
    folds: Sequence[int] | None = None,
    options: RunOptions | None = None,
    events: LaunchEvents | None = None,
    stops: Callable[[], int] = lambda: 0,
) -> LaunchReport:
    """Run `folds` (all) of the experiments `numbers`, in this order, `jobs` at a time; return what came of it.

    `stops` says how often the user asked to stop: once has the jobs stop after their step, twice kills them. Raises
    `IchxError` before anything runs for unknown experiments and folds, and options that do not fit.
    """
    options = options or RunOptions()
    experiments = [project.store.experiment(number) for number in dict.fromkeys(numbers)]
    units = _units(experiments, folds)
    if options.pretrained is not None or options.weights is not None:
        _check_start(project.workspace, experiments, options)
    launched = _Launch(project.workspace, project.store, engine, options, events or LaunchEvents(), stops, experiments)
    stopped = launched.run(units, jobs)
    return LaunchReport(
        units=tuple(launched.results[unit] for unit in units),
        experiments=tuple(_pooled(project, e.number) for e in experiments),
        stopped=stopped,
    )


def _units(experiments: "Sequence[Experiment]", folds: Sequence[int] | None) -> list[Unit]:
    problems = [
        f"experiment {e.number} has no fold {fold}; its folds are 0 to {e.folds - 1}"
        for e in experiments
        for fold in folds or ()
        if not 0 <= fold < e.folds
    ]
    raise_problems(problems, "give folds that each experiment has, or leave out --fold")
    return [Unit(e.number, fold) for e in experiments for fold in dict.fromkeys(folds or range(e.folds))]


def _check_start(workspace: "Workspace", experiments: "Sequence[Experiment]", options: RunOptions) -> None:
    """Raise `IchxError` where an experiment cannot start from the weights that are asked for."""
    from ichx.training.weights import choose_start  # imports torch

    for experiment in experiments:
        home = workspace.experiment_dir(experiment.number)
        recipe = from_toml(experiment.recipe)
        choose_start(home, recipe, pretrained=options.pretrained, weights=options.weights)


@dataclass
class _Active:
    unit: Unit
    device: str
    job: Job
    handle: int
    log_start: int
    progress: UnitProgress
    looked: float
    unread: int = 0


class _Launch:
    def __init__(
        self,
        workspace: "Workspace",
        store: "Store",
        engine: Engine,
        options: RunOptions,
        events: LaunchEvents,
        stops: Callable[[], int],
        experiments: "Sequence[Experiment]",
    ) -> None:
        self.workspace, self.store, self.engine = workspace, store, engine
        self.options, self.events, self.stops = options, events, stops
        self.experiments = {experiment.number: experiment for experiment in experiments}
        self.results: dict[Unit, UnitResult] = {}
        self.active: list[_Active] = []
        self.shares = Shares((options.device,))

    def run(self, units: Sequence[Unit], jobs: int) -> bool:
        """Give each unit its result; return whether the user stopped that."""
        waiting = deque(self._not_done(units))
        if not waiting:
            return False
        jobs = min(jobs, len(waiting))
        self.shares = share_machine(self.options.device, jobs)
        self.events.planned(len(waiting), jobs, str(self.shares))
        heard = 0
        try:
            while waiting or self.active:
                if (asked := self.stops()) > heard:
                    heard = asked
                    self._stop(at_once=asked > 1)
                    while waiting:
                        self._end(waiting.popleft(), "not begun")
                while waiting and len(self.active) < jobs:
                    self._begin(waiting.popleft())
                self.active = [a for a in self.active if not self._ended(a, stopping=heard > 0)]
                if self.active:
                    time.sleep(TICK_SECONDS)
        finally:
            for a in self.active:
                self.engine.cancel(a.handle)
            for a in self.active:
                self.engine.wait(a.handle)
        return heard > 0

    def _not_done(self, units: Sequence[Unit]) -> list[Unit]:
        left = []
        for unit in units:
            # Whether a finished fold has its features, its own run knows.
            if self._is_done(unit) and not self.options.save_features:
                self._end(unit, "already done")
            else:
                left.append(unit)
        return left

    def _is_done(self, unit: Unit) -> bool:
        finished = unit.fold in finished_folds(Project(self.workspace, self.store), unit.experiment)
        experiment = self.experiments[unit.experiment]
        return finished and not missing_tests(Project(self.workspace, self.store), experiment, unit.fold)

    def _begin(self, unit: Unit) -> None:
        if self._is_held(unit):
            return
        device = self.shares.device([a.device for a in self.active])
        workers = self.shares.workers if self.options.workers is None else self.options.workers
        log = self.workspace.experiment_files(unit.experiment).fold(unit.fold).log
        job = fold_job(
            self.workspace,
            unit.experiment,
            unit.fold,
            replace(self.options, device=device, workers=workers),
            log,
            self.shares.environment,
        )
        start = log_size(job)
        progress = UnitProgress(0, self.experiments[unit.experiment].epochs, "")
        self.active.append(_Active(unit, device, job, self.engine.submit(job), start, progress, time.monotonic()))
        self.events.unit_started(unit, device, self._told(job))

    def _ended(self, active: _Active, *, stopping: bool) -> bool:
        """Look how a job does; return whether it has ended, with its result recorded."""
        result = self.engine.poll(active.handle)
        if result is None:
            self._look(active)
            return False
        try:
            self._settle(active, result, stopping=stopping)
        except IchxError:  # a store that is busy for a while is no reason to stop the other jobs
            active.unread += 1
            if active.unread > MOST_UNREAD:
                raise
            return False
        return True

    def _settle(self, active: _Active, result: JobResult, *, stopping: bool) -> None:
        """Record what came of a job that has ended."""
        # One that was stopped or killed while it updated the experiment's score has done its work.
        if result.exit_code == 0 or self._is_done(active.unit):
            self._end(active.unit, "done", active, result)
        elif stopping and result.exit_code in STOPPED_CODES:
            self._end(active.unit, "stopped", active, result)
        elif not self._is_held(active.unit):  # it may have lost the race for the fold against another process
            self._end(active.unit, "failed", active, result)

    def _look(self, active: _Active) -> None:
        """Tell what has changed since a job was looked at last."""
        if time.monotonic() - active.looked < LOOK_SECONDS:
            return
        active.looked = time.monotonic()
        done, words = active.progress.epochs_done, last_line(active.job.log, active.log_start)
        try:
            run = live_run(self.store, active.unit.experiment, active.unit.fold)
            done = done if run is None else run.epochs_done
        except IchxError as error:  # a store that is busy for a while is no reason to stop the jobs
            words = error.problem
        progress = UnitProgress(done, active.progress.epochs, words)
        if progress != active.progress:
            active.progress = progress
            self.events.unit_moved(active.unit, progress)

    def _is_held(self, unit: Unit) -> bool:
        """Record a unit as held, where another live process has its fold; return whether that is so."""
        run = live_run(self.store, unit.experiment, unit.fold)
        if run is not None:
            self._record(UnitResult(unit.experiment, unit.fold, "held", holder=Holder(run.host, run.pid, run.started)))
        return run is not None

    def _end(self, unit: Unit, state: str, active: _Active | None = None, result: JobResult | None = None) -> None:
        known = UnitResult(unit.experiment, unit.fold, state, fold_score(self.store, unit.experiment, unit.fold))
        if active is not None and result is not None:
            known = replace(known, seconds=result.seconds, log=self._told(active.job))
            if state == "failed":
                known = replace(known, reason=failure(result, active.job.log, active.log_start))
        self._record(known)

    def _record(self, result: UnitResult) -> None:
        self.results[Unit(result.experiment, result.fold)] = result
        self.events.unit_ended(result)

    def _stop(self, *, at_once: bool) -> None:
        self.events.stopping(len(self.active), at_once)
        for active in self.active:
            if at_once:
                self.engine.kill(active.handle)
            else:
                self.engine.cancel(active.handle)

    def _told(self, job: Job) -> str:
        return job.log.relative_to(self.workspace.root).as_posix()


def _pooled(project: "Project", number: int) -> PooledScore:
    """Return an experiment's score, brought up to date: the job of its last fold may have been killed before that."""
    from ichx.evaluation.scorecard import update_scores  # imports pandas, which the jobs need not wait for

    error = None
    try:
        update_scores(project, number)
    except IchxError as problem:
        error = problem.problem
    after = project.store.experiment(number)
    return PooledScore(
        experiment=number,
        folds_done=after.folds_done,
        folds=after.folds,
        score=after.score,
        score_low=after.score_low,
        score_high=after.score_high,
        spread=after.spread,
        score_tta=after.score_tta,
        marks=marks(after),
        error=error,
    )
