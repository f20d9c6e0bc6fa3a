"""A study: asks Optuna for values, has each trial run, tells the score, and reports. Asked again, it goes on."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from optuna.trial import TrialState

from ichx.engine import Engine, Job, JobResult
from ichx.errors import IchxError, raise_problems
from ichx.recipe_text import from_toml
from ichx.training.fold_job import failure, log_size
from ichx.training.fold_state import fold_score, live_run
from ichx.tuning.events import TrialResult, TuneEvents, TuneReport
from ichx.tuning.space import Space, default_space, parse_space
from ichx.tuning.storage import ask, open_study, reopen
from ichx.tuning.trial import RunChoices, register_trial, trial_job

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial

    from ichx.store import Experiment, Store
    from ichx.workspace import Workspace

TICK_SECONDS = 0.2


def tune(
    workspace: "Workspace",
    store: "Store",
    number: int,
    engine: Engine,
    *,
    trials: int,
    jobs: int = 1,
    searches: Sequence[str] = (),
    choices: RunChoices | None = None,
    events: TuneEvents | None = None,
) -> TuneReport:
    """Search better values for experiment `number` until its study has `trials` finished trials, `jobs` at a time.

    `searches` replace the default space. Raises `IchxError` before any trial for a wrong space, fold or study, and when
    a trial fails before any has succeeded. Interrupted at any moment, the study goes on when asked again.
    """
    choices = choices or RunChoices(fold=0)
    parent = store.experiment(number)
    recipe = from_toml(parent.recipe, source=f"the recipe of experiment {number}")
    problems = [f"--{name} must be 1 or more" for name, n in (("trials", trials), ("jobs", jobs)) if n < 1]
    if not 0 <= choices.fold < parent.folds:
        problems.append(f"experiment {number} has no fold {choices.fold}; its folds are 0 to {parent.folds - 1}")
    raise_problems(problems, "see `ichx tune --help`")
    space = parse_space(searches, recipe) if searches else default_space(recipe)
    setup = {
        "search space": sorted(map(str, space)),
        "recipe": parent.recipe_digest,
        "labels": parent.label_digest,
        "folds": parent.fold_digest,
        "start (pretrained)": choices.pretrained,
    }
    with open_study(workspace, f"experiment-{number}-fold-{choices.fold}", setup) as study:
        tuner = _Tuner(workspace, store, parent, engine, study, space, choices, events or TuneEvents(), recipe.seed)
        new = tuner.run(trials, jobs)
        results = tuple(sorted(map(_result, tuner.finished()), key=_rank))
    if results[0].score is None:
        raise IchxError(
            f"no trial of {len(results)} succeeded; the last one: {results[-1].error}",
            "mend this; a larger --trials tries on",
        )
    return TuneReport(
        experiment=number,
        fold=choices.fold,
        space=tuple(map(str, space)),
        as_is=fold_score(store, number, choices.fold),
        trials=results,
        new=new,
        marks=("selected", "leaky folds") if parent.leaked else ("selected",),
    )


@dataclass
class _Active:
    trial: "Trial"
    experiment: int
    job: Job
    handle: int | None = None
    log_start: int = 0
    told: bool = False


class _Tuner:
    def __init__(
        self,
        workspace: "Workspace",
        store: "Store",
        parent: "Experiment",
        engine: Engine,
        study: "Study",
        space: Space,
        choices: RunChoices,
        events: TuneEvents,
        seed: int,
    ) -> None:
        self.workspace, self.store, self.parent, self.engine = workspace, store, parent, engine
        self.study, self.space, self.choices, self.events, self.seed = study, space, choices, events, seed

    def finished(self) -> "list[FrozenTrial]":
        return self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL))

    def run(self, trials: int, jobs: int) -> int:
        """Run trials until `trials` are finished; return how many were finished now."""
        # This process holds the study, so a trial that runs in Optuna's eyes is one that was interrupted.
        interrupted = [t.number for t in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))]
        before = len(self.finished())
        active: list[_Active] = []
        try:
            while True:
                while len(active) < jobs and len(self.finished()) + len(active) < trials:
                    resumed = bool(interrupted)
                    trial = reopen(self.study, interrupted.pop(0), self.seed) if resumed else ask(self.study, self.seed)
                    active += self._begin(trial, trials)
                if not active:
                    return len(self.finished()) - before
                time.sleep(TICK_SECONDS)
                active = [a for a in active if not self._ended(a)]
        finally:
            handles = [a.handle for a in active if a.handle is not None]
            for handle in handles:
                self.engine.cancel(handle)
            for handle in handles:
                self.engine.wait(handle)

    def _begin(self, trial: "Trial", trials: int) -> list[_Active]:
        """Return the trial with its experiment; nothing where its values do not go together."""
        values = {dimension.name: dimension.draw(trial) for dimension in self.space}
        try:
            experiment = trial.user_attrs.get("experiment") or register_trial(
                self.store, self.parent, self.choices.fold, trial.number, values
            )
        except IchxError as error:
            self._fail(trial, error.problem, None)
            return []
        trial.set_user_attr("experiment", experiment)
        self.events.trial_started(trial.number, trials, experiment, values)
        return [_Active(trial, experiment, trial_job(self.workspace, experiment, self.choices))]

    def _ended(self, active: _Active) -> bool:
        """Move the trial on; return whether it has ended."""
        if active.handle is None:
            if self._held_elsewhere(active):
                return False
            active.log_start = log_size(active.job)
            active.handle = self.engine.submit(active.job)
        result = self.engine.poll(active.handle)
        if result is None:
            return False
        score = fold_score(self.store, active.experiment, self.choices.fold)
        if result.exit_code == 0 and score is not None and math.isfinite(score):
            self.study.tell(active.trial.number, score)
            self._tell_ended(active.trial.number)
        elif self._held_elsewhere(active):
            active.handle = None  # it lost the race against a job of an earlier process; run it again after that one
            return False
        else:
            active.handle = None
            self._fail(active.trial, _reason(result, active), active.job)
        return True

    def _held_elsewhere(self, active: _Active) -> bool:
        run = live_run(self.store, active.experiment, self.choices.fold)
        if run is not None and not active.told:
            self.events.note(f"experiment {active.experiment} is still run by process {run.pid} on {run.host}; waiting")
            active.told = True
        return run is not None

    def _fail(self, trial: "Trial", reason: str, job: Job | None) -> None:
        trial.set_user_attr("error", reason)
        if job is not None:
            trial.set_user_attr("log", job.log.relative_to(self.workspace.root).as_posix())
        self.study.tell(trial.number, state=TrialState.FAIL)
        self._tell_ended(trial.number)
        if not any(t.state == TrialState.COMPLETE for t in self.finished()):
            where = f"its log is {job.log}" if job is not None else "choose a space whose values go together"
            raise IchxError(
                f"trial {trial.number} failed before any succeeded: {reason}",
                f"mend this and tune again; {where}",
            )

    def _tell_ended(self, number: int) -> None:
        results = {t.number: _result(t) for t in self.finished()}
        best = min(results.values(), key=_rank)
        self.events.trial_ended(results[number], best if best.score is not None else None)


def _result(trial: "FrozenTrial") -> TrialResult:
    attrs = trial.user_attrs
    done = trial.state == TrialState.COMPLETE
    return TrialResult(
        trial=trial.number,
        experiment=attrs.get("experiment"),
        values=trial.params,
        score=trial.value if done else None,
        error=None if done else attrs.get("error"),
        log=None if done else attrs.get("log"),
    )


def _rank(result: TrialResult) -> tuple[float, int]:
    return (math.inf if result.score is None else result.score, result.trial)


def _reason(result: JobResult, active: _Active) -> str:
    if result.exit_code == 0:
        return "it ended without a finite score"
    return failure(result, active.job.log, active.log_start)
