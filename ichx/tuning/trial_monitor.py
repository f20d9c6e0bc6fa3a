"""Monitors a trial: reports its scores to Optuna at steps that all trials share, and decides whether to prune it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ichx.evaluation.choices import CALIBRATED
from ichx.recipe import Recipe
from ichx.tuning.limits import Limits
from ichx.tuning.storage import STAGE_STEPS
from ichx.tuning.trial import Budget
from ichx.tuning.trial_score import epoch_score, newest_score

if TYPE_CHECKING:
    from optuna.trial import Trial

    from ichx.store import EpochRecord


def scores_by_step(history: "Sequence[EpochRecord]", recipe: Recipe) -> dict[int, float]:
    """Return the score at each step that a training by `recipe` has reached; a stage has `STAGE_STEPS` steps.

    An epoch sets the score of all steps since the previous epoch. The last epoch of a stage also sets those that
    patience left out.
    """
    scores: dict[int, float] = {}
    score = 0.0
    for record in history:
        begin = record.stage_index * STAGE_STEPS
        scores |= dict.fromkeys(range(len(scores) + 1, begin + 1), score)
        if CALIBRATED not in record.values:
            continue  # the next validation sets the steps of this epoch, too
        score = epoch_score(record)
        reached = begin + STAGE_STEPS * record.epoch // recipe.stage[record.stage_index].epochs
        scores |= dict.fromkeys(range(len(scores) + 1, reached + 1), score)
    return scores


class TrialMonitor:
    """Monitors one trial."""

    def __init__(self, trial: "Trial", recipe: Recipe, budget: Budget, limits: Limits) -> None:
        """Create the monitor of a trial that trains by `recipe`. The baseline is never pruned."""
        self._trial, self._recipe, self._budget, self._limits = trial, recipe, budget, limits
        self._is_baseline = bool(trial.user_attrs.get("baseline"))
        self.seen = 0
        """Number of epochs that are reported."""
        self.epochs = recipe.epochs

    def check(self, history: "Sequence[EpochRecord]") -> str | None:
        """Report new epochs; return why the trial should be pruned, or None."""
        if len(history) <= self.seen:
            return None
        self.seen = len(history)
        excess = self._limits.excess(history, self._budget.subset, complete=False)
        lags = self._report(history)
        if self._is_baseline or self.seen == self.epochs:
            return None
        if any(part > 0 for part in excess.values()):
            return self._limits.describe(excess)
        if lags:
            score = newest_score(history)
            return f"score {score:.5f} after {self.seen} of {self.epochs} epochs is worse than that of other trials"
        return None

    def finish(self, history: "Sequence[EpochRecord]", *, complete: bool) -> str:
        """Report the rest of a trial that has ended; return a description of the limits that it exceeds."""
        self._report(history)
        excess = self._limits.excess(history, self._budget.subset, complete=complete)
        for name, part in excess.items():
            if name not in self._trial.constraints:
                self._trial.set_constraint(name, part)
        self._trial.set_user_attr("epochs", [len(history), self.epochs])
        return self._limits.describe(excess)

    def _report(self, history: "Sequence[EpochRecord]") -> bool:
        """Report new steps; return whether the pruner would prune the trial at one of them."""
        known = self._trial.study.get_trials(deepcopy=False)[self._trial.number].intermediate_values
        lags = False
        for step, score in scores_by_step(history, self._recipe).items():
            if step not in known:
                self._trial.report(score, step)
                lags = lags or self._trial.should_prune()
        return lags
