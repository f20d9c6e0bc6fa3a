"""What a study tells: while it goes, through hooks that do nothing until overridden, and in the end, as a report."""

from collections.abc import Mapping
from dataclasses import dataclass

from ichx.tuning.space import Value


@dataclass(frozen=True)
class TrialResult:
    """A finished trial: its experiment, the values it tried, and its score on the fold, or why there is none."""

    trial: int
    experiment: int | None
    values: Mapping[str, Value]
    score: float | None
    error: str | None = None
    log: str | None = None


@dataclass(frozen=True)
class TuneReport:
    """What a study has found. `trials` are all finished ones, the best first; `as_is` is the experiment's own score.

    The scores chose the best trials on `fold`, so they flatter them: their `marks` say `selected`.
    """

    experiment: int
    fold: int
    space: tuple[str, ...]
    as_is: float | None
    trials: tuple[TrialResult, ...]
    new: int
    marks: tuple[str, ...]

    @property
    def scored(self) -> list[TrialResult]:
        """The trials that did not fail, the best first."""
        return [t for t in self.trials if t.score is not None]


class TuneEvents:
    """Hooks of a study; override what you need."""

    def note(self, message: str) -> None:
        """Something that the user should know."""

    def trial_started(self, trial: int, trials: int, experiment: int, values: Mapping[str, Value]) -> None:
        """The job of a trial (from 0, of `trials`) is on its way."""

    def trial_ended(self, result: TrialResult, best: TrialResult | None) -> None:
        """A trial has its score or has failed; `best` is the best one so far."""
