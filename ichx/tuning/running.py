"""One trial of a study, from its registration as an experiment to its end: done, pruned, failed, or interrupted."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from optuna.trial import TrialState

from ichx.errors import IchxError
from ichx.experiment_files import FoldFiles
from ichx.experiments.fold_status import fold_score, live_run
from ichx.jobs import Engine, Job, JobResult
from ichx.jobs.fold_job import failure, log_size
from ichx.jobs.resources import Shares
from ichx.recipe_text import from_toml
from ichx.training.checkpoint_files import remove_checkpoints
from ichx.tuning.budget import Value
from ichx.tuning.limits import Limits
from ichx.tuning.space import Space
from ichx.tuning.study_events import TrialResult, TuneEvents
from ichx.tuning.trial import Budget, UnfitError, register_trial, trial_job
from ichx.tuning.watch import Watch

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial

    from ichx.store import EpochRecord, Experiment, Store
    from ichx.workspace import Workspace

LOOK_SECONDS = 0.5
"""How often a trial is looked at for new epochs."""

MOST_UNREAD = 5
"""How often the store may fail to say what came of a trial; each time it has been waited for already."""


@dataclass
class Running:
    """A trial on its way; `handle` is None before its job, `ending` says why it is ended early once that is known."""

    trial: "Trial"
    experiment: int
    device: str
    job: Job
    watch: Watch
    handle: int | None = None
    log_start: int = 0
    ending: str | None = None
    looked: float = 0.0
    unread: int = 0
    told: bool = False


class TrialRunner:
    """Begins, watches and settles the trials of a study that this process holds."""

    def __init__(
        self,
        workspace: "Workspace",
        store: "Store",
        parent: "Experiment",
        engine: Engine,
        study: "Study",
        space: Space,
        budget: Budget,
        limits: Limits,
        events: TuneEvents,
    ) -> None:
        self.workspace, self.store, self.parent, self.engine = workspace, store, parent, engine
        self.study, self.space, self.budget, self.limits, self.events = study, space, budget, limits, events

    def finished(self) -> list[TrialResult]:
        """Return the trials that are over, in the order of their numbers."""
        over = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        return [_result(trial) for trial in self.study.get_trials(deepcopy=False, states=over)]

    def interrupted(self) -> list[int]:
        """Return the trials that an earlier process has begun and not ended."""
        return [t.number for t in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))]

    def begin(self, trial: "Trial", trials: int, device: str, shares: Shares) -> Running | None:
        """Return the trial with its experiment; None where it is over: its values are known, or do not go together."""
        values = self._values(trial)
        if values and self._is_known(trial):
            return None
        try:
            number = register_trial(self.store, self.parent, self.study.study_name, trial.number, values, self.budget)
        except UnfitError as error:
            # Told as pruned, not as failed: the sampler then keeps away from such values.
            self._settle_as(trial, TrialState.PRUNED, error.problem)
            return None
        trial.set_user_attr("experiment", number)
        recipe = from_toml(self.store.experiment(number).recipe)
        self.events.trial_started(trial.number, trials, number, values)
        job = trial_job(self.workspace, number, self.budget, device, shares)
        watch = Watch(trial, recipe, self.budget, self.limits)
        return Running(trial, number, device, job, watch, ending=trial.user_attrs.get("ended"))

    def ended(self, running: Running, stopping: bool) -> bool:
        """Move a trial on; return whether it has ended, or, where all are `stopping`, its job has."""
        if running.handle is None:
            if stopping:
                return True
            if self._held_elsewhere(running):
                return False
            if running.ending is not None:  # an earlier process had decided so, and was ended before it could tell
                self._prune(running, running.ending)
                return True
            running.log_start = log_size(running.job)
            running.handle = self.engine.submit(running.job)
        result = self.engine.poll(running.handle)
        try:
            if result is None:
                self._look(running, stopping)
                return False
            return self._settle(running, result, stopping)
        except IchxError:  # a store that is busy for a while is no reason to stop the trials
            running.unread += 1
            if result is None or running.unread <= MOST_UNREAD:
                return False
            raise

    def stop(self, running: Running, *, at_once: bool) -> None:
        """Have the trial's job stop after its step, or `at_once`."""
        if running.handle is not None:
            (self.engine.kill if at_once else self.engine.cancel)(running.handle)

    def cancel(self, running: Running, *, wait: bool) -> None:
        """Have the trial's job stop, or wait until it has."""
        if running.handle is not None:
            self.engine.wait(running.handle) if wait else self.engine.cancel(running.handle)

    def _values(self, trial: "Trial") -> Mapping[str, Value]:
        """Return what the trial tries: the same where it was interrupted; of the baseline Optuna only gets to know."""
        if not trial.user_attrs.get("baseline"):
            return {dimension.name: dimension.draw(trial) for dimension in self.space}
        fixed = self.study.get_trials(deepcopy=False)[trial.number].system_attrs.get("fixed_params", {})
        for dimension in self.space:
            if dimension.name in fixed:
                dimension.draw(trial)
        return {}

    def _is_known(self, trial: "Trial") -> bool:
        """Tell the score of a done trial that had the same values, where there is one: it would be the same again."""
        own = self.study.get_trials(deepcopy=False)[trial.number].params
        done = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        twin = next((t for t in done if t.params == own), None)
        if twin is None or twin.value is None:
            return False
        self.events.note(f"trial {trial.number + 1} has the values of trial {twin.number + 1}, and so its score")
        for name in ("experiment", "excess", "epochs", "seconds"):
            if name in twin.user_attrs:
                trial.set_user_attr(name, twin.user_attrs[name])
        for name, value in twin.constraints.items():
            if name not in trial.constraints:
                trial.set_constraint(name, value)
        self.study.tell(trial.number, twin.value)
        self._tell_ended(trial.number)
        return True

    def _files(self, experiment: int) -> FoldFiles:
        return self.workspace.experiment_files(experiment).fold(self.budget.fold)

    def _history(self, running: Running) -> "list[EpochRecord]":
        return self.store.history(running.experiment, self.budget.fold)

    def _look(self, running: Running, stopping: bool) -> None:
        if stopping or running.ending is not None or time.monotonic() - running.looked < LOOK_SECONDS:
            return
        running.looked = time.monotonic()
        history, watch = self._history(running), running.watch
        if len(history) > watch.seen:
            newest = history[-1].values["score"]
            self.events.trial_moved(running.trial.number, len(history), watch.epochs, newest)
        reason = watch.look(history)
        if reason is not None:
            running.ending = reason
            running.trial.set_user_attr("ended", reason)  # first: a study that is killed now does not go on with it
            assert running.handle is not None
            self.engine.cancel(running.handle)

    def _settle(self, running: Running, result: JobResult, stopping: bool) -> bool:
        """Tell what came of a trial whose job has ended; return whether it has to be run no more, now."""
        trial = running.trial
        score = fold_score(self.store, running.experiment, self.budget.fold)
        if result.exit_code == 0 and score is not None and math.isfinite(score):
            self._close(running, whole=True)
            self.study.tell(trial.number, score)
            self._tell_ended(trial.number)
        elif running.ending is not None:
            self._prune(running, running.ending)
        elif stopping:
            pass  # it stays as it is and goes on when the study does
        elif self._held_elsewhere(running):
            running.handle = None  # it lost the race against a job of an earlier process; run it again after that one
            return False
        elif self._files(running.experiment).not_finite.exists():
            self._prune(running, f"diverged: {failure(result, running.job.log, running.log_start)}")
        else:
            self._close(running, whole=False)
            trial.set_user_attr("log", running.job.log.relative_to(self.workspace.root).as_posix())
            if result.exit_code == 0:
                reason = "it ended without a finite score"
            else:
                reason = failure(result, running.job.log, running.log_start)
            self._settle_as(trial, TrialState.FAIL, reason)
        return True

    def _close(self, running: Running, *, whole: bool) -> None:
        excess = running.watch.close(self._history(running), whole=whole)
        running.trial.set_user_attr("excess", excess)
        running.trial.set_user_attr("seconds", self.store.experiment(running.experiment).seconds)

    def _prune(self, running: Running, reason: str) -> None:
        self._close(running, whole=False)
        self._settle_as(running.trial, TrialState.PRUNED, reason)

    def _settle_as(self, trial: "Trial", state: TrialState, reason: str) -> None:
        trial.set_user_attr("error" if state == TrialState.FAIL else "ended", reason)
        number = trial.user_attrs.get("experiment")
        if state == TrialState.PRUNED and number is not None:
            # Nothing goes on from them: thirty trials' checkpoints fill a disk.
            remove_checkpoints(self._files(number).folder)
            self.store.change_tags(number, add=["pruned"])
        self.study.tell(trial.number, state=state)  # last: what comes before may be done twice
        self._tell_ended(trial.number)

    def _held_elsewhere(self, running: Running) -> bool:
        run = live_run(self.store, running.experiment, self.budget.fold)
        if run is not None and not running.told:
            self.events.note(
                f"experiment {running.experiment} is still run by process {run.pid} on {run.host}; waiting"
            )
            running.told = True
        return run is not None

    def _tell_ended(self, number: int) -> None:
        results = {result.trial: result for result in self.finished()}
        self.events.trial_ended(results[number], best_of(list(results.values())))


def best_of(results: list[TrialResult]) -> TrialResult | None:
    """Return the best of the trials that are done and keep the limits; None where there is none."""
    kept = [r for r in results if r.state == "done" and not r.excess]
    return min(kept, key=lambda r: (math.inf if r.score is None else r.score, r.trial), default=None)


def _result(trial: "FrozenTrial") -> TrialResult:
    attrs = trial.user_attrs
    state = {TrialState.COMPLETE: "done", TrialState.PRUNED: "pruned"}.get(trial.state, "failed")
    return TrialResult(
        trial=trial.number,
        experiment=attrs.get("experiment"),
        state=state,
        values=trial.params,
        score=trial.value if state != "failed" else None,
        baseline=bool(attrs.get("baseline")),
        reason={"failed": attrs.get("error"), "pruned": attrs.get("ended")}.get(state),
        excess=attrs.get("excess", ""),
        log=attrs.get("log"),
    )
