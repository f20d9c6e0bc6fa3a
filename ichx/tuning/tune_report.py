"""Results of a tuning and its trials, and the callbacks that receive them while it runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ichx.jobs.scheduler import SchedulerCallbacks
from ichx.tuning.budget import Value

EndReason = Literal["complete", "stopped", "timeout"]


@dataclass(frozen=True)
class TrialResult:
    """A finished trial."""

    trial: int
    """Number in the study, from 0."""
    experiment: int | None
    """None if the values are not valid together."""
    state: Literal["done", "pruned", "failed"]
    values: Mapping[str, Value]
    """Searched values by name."""
    score: float | None
    """Score on the fold; of a pruned trial the last one."""
    baseline: bool = False
    """Whether it is the unchanged recipe."""
    reason: str | None = None
    """Why it was pruned or failed."""
    excess: str = ""
    """Description of the limits that it exceeds."""
    log: str | None = None
    """Path within the workspace, if it failed."""


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

    def trial_ended(self, result: TrialResult, best: TrialResult | None) -> None:
        """A trial is done, pruned or failed; `best` is the best one so far."""
