"""What a study tells: while it goes, through hooks that do nothing until overridden, and how it came to an end."""

from collections.abc import Mapping
from dataclasses import dataclass

from ichx.tuning.budget import Value


@dataclass(frozen=True)
class TrialResult:
    """A finished trial: its experiment, the values it tried, and its score on the fold, or why there is none.

    `state` is `done`, `pruned` (its last score counts; `reason` says why it was ended) or `failed`. The `baseline` is
    the tuned experiment's own recipe. `excess` says which limits it exceeds, in words; nothing where it keeps them.
    """

    trial: int
    experiment: int | None
    state: str
    values: Mapping[str, Value]
    score: float | None
    baseline: bool = False
    reason: str | None = None
    excess: str = ""
    log: str | None = None


@dataclass(frozen=True)
class TuneEnding:
    """How a tuning ended: `finished` trials of the study in all, `new` ones of them now, and why it ended.

    `why` is `complete`, `stopped` (by the user) or `timeout`.
    """

    finished: int
    new: int
    why: str


class TuneEvents:
    """Hooks of a study; override what you need."""

    def note(self, message: str) -> None:
        """Something that the user should know."""

    def planned(self, left: int, jobs: int, shares: str) -> None:
        """`left` trials are to come, `jobs` at a time; `shares` says what each has of the machine."""

    def trial_started(self, trial: int, trials: int, experiment: int, values: Mapping[str, Value]) -> None:
        """The job of a trial (from 0, of `trials`) is on its way; the baseline has no values."""

    def trial_moved(self, trial: int, epochs_done: int, epochs: int, score: float) -> None:
        """A trial has come further; `score` is its newest on the fold."""

    def trial_ended(self, result: TrialResult, best: TrialResult | None) -> None:
        """A trial has its score, was pruned or has failed; `best` is the best one so far."""

    def stopping(self, jobs: int, at_once: bool) -> None:
        """The jobs that are running are told to stop, or are killed."""
