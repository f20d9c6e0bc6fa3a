"""Request and results of a launch of several folds, and the callbacks that receive them while it runs."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from ichx.jobs.engine import Resources
from ichx.jobs.scheduler import SchedulerCallbacks
from ichx.store import PooledScore
from ichx.training.run_options import RunOptions

UnitState = Literal["done", "already done", "failed", "held", "stopped", "not begun", "queued", "running", "cancelled"]
"""`queued` and `running`: the scheduler has the job, which nobody follows any more."""


@dataclass(frozen=True)
class LaunchRequest:
    """The folds to run."""

    experiments: tuple[int, ...]
    """Numbers of the experiments, in the order in which they run."""
    folds: tuple[int, ...] | None = None
    """Folds of each experiment, in the order in which they run; None: all."""
    jobs: int | None = None
    """Number of folds that run at the same time; None: one on this machine, all on a cluster."""
    options: RunOptions = field(default_factory=RunOptions)
    resources: Resources = field(default_factory=Resources)
    """What each fold needs from a scheduler."""
    arguments: tuple[str, ...] = ()
    """Further arguments of `ichx run`, for jobs of a scheduler."""
    detach: bool = False
    """Submit the jobs without following them."""


@dataclass(frozen=True)
class Unit:
    """One fold of one experiment."""

    experiment: int
    fold: int

    def __str__(self) -> str:
        return f"experiment {self.experiment}, fold {self.fold}"


@dataclass(frozen=True)
class Holder:
    """The live process that runs a fold."""

    host: str
    pid: int
    since: datetime


@dataclass(frozen=True)
class UnitResult:
    """Result of one fold."""

    experiment: int
    fold: int
    state: UnitState
    score: float | None = None
    """OOF score without test-time augmentation, if the fold has one."""
    seconds: float | None = None
    """Duration of the job."""
    reason: str | None = None
    """Why the job failed, in one line."""
    log: str | None = None
    """Path within the workspace."""
    holder: Holder | None = None
    """The other process, if the state is `held`."""
    job: str | None = None
    """Handle of the scheduler's job."""

    @property
    def unit(self) -> Unit:
        """The fold."""
        return Unit(self.experiment, self.fold)


@dataclass(frozen=True, kw_only=True)
class LaunchedScore(PooledScore):
    """Score of an experiment after a launch."""

    error: str | None = None
    """Why there is no score, if predictions cannot be read."""


@dataclass(frozen=True)
class LaunchReport:
    """Results of a launch, in the order of the request."""

    units: tuple[UnitResult, ...]
    experiments: tuple[LaunchedScore, ...]
    stopped: bool
    """Whether the user stopped it before everything was done, or stopped following jobs that continue."""
    detached: bool = False
    """Whether the jobs were only submitted, as requested."""

    @property
    def complete(self) -> bool:
        """Whether all folds are done and all experiments are scored."""
        units = all(unit.state in {"done", "already done"} for unit in self.units)
        return units and all(experiment.error is None for experiment in self.experiments)


@dataclass(frozen=True)
class UnitProgress:
    """Progress of a fold's job."""

    epochs_done: int
    epochs: int
    message: str
    """Last line of its log."""


class LaunchCallbacks(SchedulerCallbacks):
    """Hooks of a launch; override what you need."""

    def unit_started(self, unit: Unit, device: str, log: str) -> None:
        """The job of a fold is about to be submitted."""

    def unit_progressed(self, unit: Unit, progress: UnitProgress) -> None:
        """The job of a fold has finished an epoch or written a line."""

    def submitted(self, new: int, adopted: int, at_once: int | None) -> None:
        """A scheduler has `new` jobs, `at_once` of which run at a time, and `adopted` ones of earlier commands."""

    def waiting(self, queued: int, running: int) -> None:
        """So many jobs are queued and running."""

    def unit_ended(self, result: UnitResult) -> None:
        """The result of a fold is known."""
