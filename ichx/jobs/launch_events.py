"""What a launch of several folds tells: while it goes, through hooks to override, and in the end, as a report."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Unit:
    """A unit of work: one fold of one experiment."""

    experiment: int
    fold: int

    def __str__(self) -> str:
        return f"experiment {self.experiment}, fold {self.fold}"


@dataclass(frozen=True)
class Holder:
    """The live process that holds a fold."""

    host: str
    pid: int
    since: datetime


@dataclass(frozen=True)
class UnitResult:
    """What came of a unit.

    `state` is `done`, `already done`, `failed`, `held` (by `holder`, another process), `stopped` or `not begun`;
    `score` the fold's OOF score without test-time augmentation, where it has one; `seconds` those of its job; `reason`
    why it failed, in a line; `log` its log within the workspace.
    """

    experiment: int
    fold: int
    state: str
    score: float | None = None
    seconds: float | None = None
    reason: str | None = None
    log: str | None = None
    holder: Holder | None = None


@dataclass(frozen=True)
class PooledScore:
    """The score of an experiment after a launch, over `folds_done` of its `folds`; `error` says why there is none."""

    experiment: int
    folds_done: int
    folds: int
    score: float | None
    score_low: float | None
    score_high: float | None
    spread: float | None
    score_tta: float | None
    marks: tuple[str, ...]
    error: str | None = None


@dataclass(frozen=True)
class LaunchReport:
    """What came of a launch; `units` and `experiments` in the order they were asked for."""

    units: tuple[UnitResult, ...]
    experiments: tuple[PooledScore, ...]
    stopped: bool

    @property
    def complete(self) -> bool:
        """Whether everything that was asked for is done."""
        units = all(unit.state in {"done", "already done"} for unit in self.units)
        return units and all(experiment.error is None for experiment in self.experiments)


@dataclass(frozen=True)
class UnitProgress:
    """How far a unit's job has come, and what it has said last."""

    epochs_done: int
    epochs: int
    words: str


class LaunchEvents:
    """Hooks of a launch; override what you need."""

    def planned(self, units: int, jobs: int, shares: str) -> None:
        """`units` are to be run, `jobs` at a time; `shares` says what each gets of the machine, if that is special."""

    def unit_started(self, unit: Unit, device: str, log: str) -> None:
        """The job of a unit is on its way."""

    def unit_moved(self, unit: Unit, progress: UnitProgress) -> None:
        """A unit's job has come further or said something."""

    def unit_ended(self, result: UnitResult) -> None:
        """A unit has its result."""

    def stopping(self, running: int, at_once: bool) -> None:
        """The `running` jobs are told to stop: after their step, or killed `at_once`."""
