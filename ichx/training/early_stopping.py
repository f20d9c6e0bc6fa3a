"""Patience: when a stage ends early, and which of its epochs it passes on. A stage without patience runs to its end."""

import math
from collections.abc import Callable, Sequence
from typing import Any


def best_epoch(scores: Sequence[float]) -> int:
    """Return the index of the lowest score, the first of equal ones; NaN is the worst."""
    return min(range(len(scores)), key=lambda epoch: math.inf if math.isnan(scores[epoch]) else scores[epoch])


def runs_out(scores: Sequence[float], patience: int) -> bool:
    """Return whether the last `patience` scores brought no improvement; 0 waits forever."""
    return 0 < patience < len(scores) and len(scores) - 1 - best_epoch(scores) >= patience


class EarlyStopping:
    """Validation scores of a stage so far, and the weights of its best epoch.

    The weights are part of the checkpoint, not a separate file: whichever checkpoint a run resumes from, they belong to
    the epochs that it has trained.
    """

    def __init__(self, patience: int) -> None:
        """Begin a stage that waits `patience` epochs for a better score; with 0 scores are ignored."""
        self.patience = patience
        self.scores: list[float] = []
        self.weights: Any = None
        self._validated = False

    def update(self, score: float | None, weights: Callable[[], Any]) -> None:
        """Record an epoch's `score`, None if it was not validated; call `weights` if it is the best so far."""
        if self.patience > 0:
            self._validated = score is not None
            self.scores.append(math.nan if score is None else score)
            if self._validated and self.best == len(self.scores) - 1:
                self.weights = weights()

    @property
    def best(self) -> int:
        """The best epoch so far, from 0."""
        return best_epoch(self.scores)

    @property
    def keeps_last(self) -> bool:
        """Whether the stage passes on the weights of its last epoch: the best so far, or no patience."""
        return not self.scores or self.best == len(self.scores) - 1

    @property
    def over(self) -> bool:
        """Whether the stage ends here, after a validation."""
        return self._validated and runs_out(self.scores, self.patience)

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs."""
        return {"scores": list(self.scores), "weights": self.weights}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self.scores, self.weights = list(state["scores"]), state["weights"]
