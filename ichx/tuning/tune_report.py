"""The result of a tuning, and the callbacks that receive its progress."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ichx.jobs.scheduler import SchedulerCallbacks
from ichx.tuning.budget import Value
from ichx.tuning.trial_view import TrialView

EndReason = Literal["complete", "stopped", "timeout"]


@dataclass(frozen=True)
class TuneReport:
    """How a tuning ended."""

    finished: int
    """Finished trials of the study."""
    new: int
    """Trials that this tuning has finished."""
    reason: EndReason
    """`complete`, `stopped` by the user, or `timeout`."""


class TuneCallbacks(SchedulerCallbacks):
    """Hooks of a tuning; override what you need."""

    def note(self, message: str) -> None:
        """Receive something that the user should know."""

    def trial_started(self, trial: int, trials: int, experiment: int, values: Mapping[str, Value]) -> None:
        """Trial `trial` (from 0, of `trials`) is registered and will run; the baseline has no values."""

    def trial_progressed(self, trial: int, epochs_done: int, epochs: int, score: float) -> None:
        """A trial has finished an epoch with this score on the fold."""

    def trial_ended(self, trial: TrialView, best: TrialView | None) -> None:
        """A trial is done, pruned or failed; `best` is the best one so far."""
