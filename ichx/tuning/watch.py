"""A trial's history as Optuna gets it: scores at steps that trials have in common, and why a trial is ended early."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ichx.recipe import Recipe
from ichx.tuning.limits import Limits
from ichx.tuning.storage import STAGE_STEPS
from ichx.tuning.trial import Budget

if TYPE_CHECKING:
    from optuna.trial import Trial

    from ichx.store import EpochRecord


def steps(history: "Sequence[EpochRecord]", recipe: Recipe) -> dict[int, float]:
    """Return the score at each step that a training by `recipe` has come to, `STAGE_STEPS` of them in each stage.

    An epoch's score stands for all steps since the epoch before it. What patience leaves out of a stage, its last
    epoch stands for.
    """
    found: dict[int, float] = {}
    score = 0.0
    for record in history:
        begin = record.stage_index * STAGE_STEPS
        found |= dict.fromkeys(range(len(found) + 1, begin + 1), score)
        score = record.values["score"]
        reached = begin + STAGE_STEPS * record.epoch // recipe.stage[record.stage_index].epochs
        found |= dict.fromkeys(range(len(found) + 1, reached + 1), score)
    return found


class Watch:
    """Watches one trial: tells Optuna its scores, and says when it need not go on."""

    def __init__(self, trial: "Trial", recipe: Recipe, budget: Budget, limits: Limits) -> None:
        """Take the trial's own `recipe`; the baseline always goes on, for the others are held against it."""
        self._trial, self._recipe, self._budget, self._limits = trial, recipe, budget, limits
        self._spared = bool(trial.user_attrs.get("baseline"))
        self.seen = 0
        self.epochs = recipe.epochs

    def look(self, history: "Sequence[EpochRecord]") -> str | None:
        """Tell what is new in the trial's `history`; return why it should end, or None."""
        if len(history) <= self.seen:
            return None
        self.seen = len(history)
        excess = self._limits.excess(history, self._budget.subset, whole=False)
        lags = self._report(history)
        if self._spared or self.seen == self.epochs:
            return None
        if any(over > 0 for over in excess.values()):
            return self._limits.told(excess)
        if lags:
            score = history[-1].values["score"]
            return f"with {score:.5f} after {self.seen} of {self.epochs} epochs it lags behind"
        return None

    def close(self, history: "Sequence[EpochRecord]", *, whole: bool) -> str:
        """Tell all that is left of a trial that has ended; return in words which limits it exceeds."""
        self._report(history)
        excess = self._limits.excess(history, self._budget.subset, whole=whole)
        for name, over in excess.items():
            if name not in self._trial.constraints:
                self._trial.set_constraint(name, over)
        self._trial.set_user_attr("epochs", [len(history), self.epochs])
        return self._limits.told(excess)

    def _report(self, history: "Sequence[EpochRecord]") -> bool:
        """Report the steps that are new; return whether the pruner would end the trial at one of them."""
        known = self._trial.study.get_trials(deepcopy=False)[self._trial.number].intermediate_values
        lags = False
        for step, score in steps(history, self._recipe).items():
            if step not in known:
                self._trial.report(score, step)
                lags = lags or self._trial.should_prune()
        return lags
