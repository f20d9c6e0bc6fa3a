"""When a stage with patience ends, and which of its epochs it hands on. A stage without trains to its end."""

import math
from collections.abc import Callable, Sequence
from typing import Any


def best_epoch(scores: Sequence[float]) -> int:
    """Return the place of the lowest score, the first of equal ones; one that is no number is the worst."""
    return min(range(len(scores)), key=lambda epoch: math.inf if math.isnan(scores[epoch]) else scores[epoch])


def runs_out(scores: Sequence[float], patience: int) -> bool:
    """Return whether the last `patience` scores have brought no better one than those before; 0 waits for ever."""
    return 0 < patience < len(scores) and len(scores) - 1 - best_epoch(scores) >= patience


class Patience:
    """The validation scores of a stage so far, and the weights of its best epoch. Its state goes into the checkpoint.

    The weights are in the checkpoint too, and not in a file beside it: whichever checkpoint a run goes on from, they
    are those of the epochs that it knows.
    """

    def __init__(self, patience: int) -> None:
        """Begin a stage that waits `patience` epochs for a better score, 0 for one that does not look at it."""
        self.patience = patience
        self.scores: list[float] = []
        self.weights: Any = None

    def look(self, score: float, weights: Callable[[], Any]) -> None:
        """Take in an epoch's `score`; `weights` are asked for where it is the best so far."""
        if self.patience > 0:
            self.scores.append(score)
            if self.best == len(self.scores) - 1:
                self.weights = weights()

    @property
    def best(self) -> int:
        """The best epoch so far, from 0."""
        return best_epoch(self.scores)

    @property
    def stays(self) -> bool:
        """Whether the weights of the last epoch go on: they are the best so far, or nothing is looked at."""
        return not self.scores or self.best == len(self.scores) - 1

    @property
    def over(self) -> bool:
        """Whether the stage ends here."""
        return runs_out(self.scores, self.patience)

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs."""
        return {"scores": list(self.scores), "weights": self.weights}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.scores, self.weights = list(state["scores"]), state["weights"]
