"""An open study with everything that its trials need: values from Optuna, results, ends of trials."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from optuna.trial import TrialState

from ichx.jobs.engine import Resources
from ichx.training.checkpoint_files import remove_checkpoints
from ichx.tuning.budget import Value
from ichx.tuning.limits import Limits
from ichx.tuning.space import SWITCH, Space
from ichx.tuning.trial import Budget
from ichx.tuning.trial_view import FINISHED, TrialView, ranked_trials, trial_view
from ichx.tuning.tune_report import TuneCallbacks

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import Trial

    from ichx.experiment_files import FoldFiles
    from ichx.project import Project
    from ichx.store import Experiment


@dataclass(frozen=True)
class StudyContext:
    """A study that this process has locked, of the experiment `parent`."""

    project: "Project"
    parent: "Experiment"
    study: "Study"
    space: Space
    budget: Budget
    limits: Limits
    callbacks: TuneCallbacks
    resources: Resources = field(default_factory=Resources)
    """What a trial needs from a scheduler."""
    left: set[int] = field(default_factory=set)
    """Trials whose job somebody has cancelled; the next tuning resumes them."""

    def fold_files(self, experiment: int) -> "FoldFiles":
        """Return the files of a trial's fold."""
        return self.project.workspace.experiment_files(experiment).fold(self.budget.fold)

    def finished(self) -> list[TrialView]:
        """Return the finished trials in the order of their numbers."""
        return [trial_view(trial) for trial in self.study.get_trials(deepcopy=False, states=FINISHED)]

    def interrupted(self) -> list[int]:
        """Return the trials that an earlier process has started and not finished."""
        return [t.number for t in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))]

    def suggest(self, trial: "Trial") -> Mapping[str, Value]:
        """Return the values of a trial, the same ones after an interruption; none for the baseline.

        Optuna records the baseline's values, too, as far as the space contains them.
        """
        if not trial.user_attrs.get("baseline"):
            return {dimension.name: dimension.suggest(trial) for dimension in self.space}
        fixed = self.study.get_trials(deepcopy=False)[trial.number].system_attrs.get("fixed_params", {})
        for dimension in self.space:
            if fixed.keys() & {dimension.name, f"{dimension.name}{SWITCH}"}:
                dimension.suggest(trial)
        return {}

    def copy_known_score(self, trial: "Trial") -> bool:
        """Finish a trial with the score of a done one that has the same values; return whether there is one."""
        values = self.study.get_trials(deepcopy=False)[trial.number].params
        done = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        twin = next((t for t in done if t.params == values), None)
        if twin is None or twin.value is None:
            return False
        self.callbacks.note(f"trial {trial.number + 1} has the same values as trial {twin.number + 1} and its score")
        for name in ("experiment", "excess", "epochs", "seconds", "raw_score"):
            if name in twin.user_attrs:
                trial.set_user_attr(name, twin.user_attrs[name])
        for name, value in twin.constraints.items():
            if name not in trial.constraints:
                trial.set_constraint(name, value)
        self.finish(trial, TrialState.COMPLETE, twin.value)
        return True

    def finish_early(self, trial: "Trial", state: TrialState, reason: str) -> None:
        """Record why a trial failed or was pruned, and finish it."""
        trial.set_user_attr("error" if state == TrialState.FAIL else "ended", reason)
        number = trial.user_attrs.get("experiment")
        if state == TrialState.PRUNED and number is not None:
            # Nothing resumes from its checkpoints, and those of thirty trials fill a disk.
            remove_checkpoints(self.fold_files(number).folder)
            self.project.store.change_tags(number, add=["pruned"])
        self.finish(trial, state)  # last, because everything above can be repeated

    def finish(self, trial: "Trial", state: TrialState, score: float | None = None) -> None:
        """Report the end of a trial to Optuna and to the callbacks."""
        self.study.tell(trial.number, score, state=state)
        views = self.finished()
        ended = next(view for view in views if view.trial == trial.number)
        self.callbacks.trial_ended(ended, next(iter(ranked_trials(views)), None))
