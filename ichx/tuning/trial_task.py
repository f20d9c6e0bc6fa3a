"""The task of one trial: its job, its progress, and its end as done, pruned or failed."""

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from optuna.trial import TrialState

from ichx.experiments.fold_status import fold_score, live_run
from ichx.jobs.engine import Job, JobResult
from ichx.jobs.fold_job import fold_job
from ichx.jobs.job_log import JobLog
from ichx.jobs.reconcile import reconcile
from ichx.jobs.recorded_engine import RecordedEngine, recorded_end
from ichx.jobs.resources import Shares
from ichx.jobs.scheduler import Admission, Task
from ichx.recipe_text import from_toml
from ichx.store.jobs import ACTIVE
from ichx.tuning.server_storage import HEARTBEAT_SECONDS, send_heartbeat
from ichx.tuning.study_context import StudyContext
from ichx.tuning.trial import IncompatibleValuesError, register_trial
from ichx.tuning.trial_monitor import TrialMonitor
from ichx.tuning.trial_score import newest_score, trial_score

if TYPE_CHECKING:
    from optuna.trial import Trial

    from ichx.store import EpochRecord


MAX_RESTARTS: Final = 3
"""How often a trial is submitted again after its job was lost or ended by the scheduler."""


def create_task(context: StudyContext, trial: "Trial", trials: int) -> "TrialTask | None":
    """Return the task of a trial of a study that shall have `trials`.

    Return None if the trial is finished at once: its score is known, or its values are not valid together.
    """
    values = context.suggest(trial)
    if values and context.copy_known_score(trial):
        return None
    store, study = context.project.store, context.study.study_name
    try:
        number = register_trial(store, context.parent, study, trial.number, values, context.budget)
    except IncompatibleValuesError as error:
        # Not failed: the sampler avoids values that were pruned.
        context.finish_early(trial, TrialState.PRUNED, error.problem)
        return None
    trial.set_user_attr("experiment", number)
    context.callbacks.trial_started(trial.number, trials, number, values)
    return TrialTask(context, trial, number)


class TrialTask(Task):
    """Runs the fold of a trial's experiment."""

    def __init__(self, context: StudyContext, trial: "Trial", experiment: int) -> None:
        self._context, self._trial, self._experiment = context, trial, experiment
        recipe = from_toml(context.project.store.experiment(experiment).recipe)
        self._monitor = TrialMonitor(trial, recipe, context.budget, context.limits)
        self._prune_reason: str | None = trial.user_attrs.get("ended")
        self._noted = False
        self._heartbeat = -math.inf
        self._restarts = 0

    def admit(self) -> Admission:
        """Wait while another process runs the fold; skip a trial that an earlier process decided to prune."""
        if self._is_held():
            return "wait"
        if self._prune_reason is not None:
            self._prune(self._prune_reason)
            return "skip"
        return "run"

    def submitted(self, engine: RecordedEngine) -> tuple[str, Path] | Admission:
        """Return the active job of the trial, which an earlier process has submitted; else as `admit`."""
        workspace, store = self._context.project.workspace, self._context.project.store
        for problem in reconcile(workspace, store, experiments=[self._experiment], opened={engine.name: engine}):
            self._context.callbacks.trouble(problem)
        # The experiment of a trial may have jobs that predict, too.
        active = store.jobs(ACTIVE, experiments=[self._experiment])
        record = next((record for record in active if record.fold == self._context.budget.fold), None)
        if record is None:
            if self._complete():  # its job ended while no tuner followed it
                return "skip"
            return self.admit()
        if record.handle is None:
            return "wait"  # its submission may still arrive
        engine.adopt([record])
        return record.handle, workspace.root / record.log

    def start(self, device: str, shares: Shares) -> Job:
        """Return the job of the fold."""
        budget, workspace = self._context.budget, self._context.project.workspace
        job = fold_job(workspace, self._experiment, budget.fold, budget.options, device, shares)
        name = f"trial {self._trial.number + 1} of {self._context.study.study_name}"
        return replace(job, kind="trial", resources=self._context.resources, name=name)

    def follow(self, log: JobLog) -> bool:
        """Report new epochs; return False if the trial should be pruned."""
        if time.monotonic() - self._heartbeat > HEARTBEAT_SECONDS / 2:
            send_heartbeat(self._context.study, self._trial)
            self._heartbeat = time.monotonic()
        if self._prune_reason is not None:
            return False  # an earlier process decided that
        history, monitor = self._history(), self._monitor
        if len(history) > monitor.seen:
            newest = newest_score(history)
            self._context.callbacks.trial_progressed(self._trial.number, len(history), monitor.epochs, newest)
        self._prune_reason = monitor.check(history)
        if self._prune_reason is None:
            return True
        self._trial.set_user_attr("ended", self._prune_reason)  # before the job ends: it must not be resumed
        return False

    def settle(self, result: JobResult, log: JobLog, *, stopping: bool) -> bool:
        """Finish the trial, or leave it unfinished if the study stops."""
        if result.exit_code == 0 and self._complete():
            pass
        elif self._prune_reason is not None:
            self._prune(self._prune_reason)
        elif stopping:
            pass  # the next tuning resumes it
        elif recorded_end(result).state == "cancelled":
            self._context.left.add(self._trial.number)
            self._context.callbacks.note(f"trial {self._trial.number + 1} was cancelled; the next tuning resumes it")
        elif result.reason is not None and self._restarts < MAX_RESTARTS:
            self._restarts += 1
            self._context.callbacks.note(f"trial {self._trial.number + 1} is submitted again: {result.reason}")
            return False
        elif self._is_held():
            return False  # the job lost the race for the fold against a job of an earlier process
        elif self._context.fold_files(self._experiment).not_finite.exists():
            self._prune(f"diverged: {log.failure(result)}")
        else:
            self._close(complete=False)
            self._trial.set_user_attr("log", log.path.relative_to(self._context.project.workspace.root).as_posix())
            reason = "no finite score" if result.exit_code == 0 else log.failure(result)
            self._context.finish_early(self._trial, TrialState.FAIL, reason)
        return True

    def _complete(self) -> bool:
        """Finish the trial with its score; return whether it has one."""
        project, fold = self._context.project, self._context.budget.fold
        score = trial_score(project, project.store.experiment(self._experiment), fold)
        if score is None or not math.isfinite(score):
            return False
        self._close(complete=True)
        self._trial.set_user_attr("raw_score", fold_score(project.store, self._experiment, fold))
        self._context.finish(self._trial, TrialState.COMPLETE, score)
        return True

    def _history(self) -> "list[EpochRecord]":
        return self._context.project.store.history(self._experiment, self._context.budget.fold)

    def _close(self, *, complete: bool) -> None:
        history = self._history()
        self._trial.set_user_attr("excess", self._monitor.finish(history, complete=complete))
        if history:
            self._trial.set_user_attr("raw_score", history[-1].values["score"])
        self._trial.set_user_attr("seconds", self._context.project.store.experiment(self._experiment).seconds)

    def _prune(self, reason: str) -> None:
        self._close(complete=False)
        self._context.finish_early(self._trial, TrialState.PRUNED, reason)

    def _is_held(self) -> bool:
        run = live_run(self._context.project.store, self._experiment, self._context.budget.fold)
        if run is not None and not self._noted:
            self._context.callbacks.note(
                f"waiting for experiment {self._experiment}, which process {run.pid} on {run.host} still runs"
            )
            self._noted = True
        return run is not None
