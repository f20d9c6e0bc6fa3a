"""What a run tells while it goes: a base of no-op hooks, from which the live view, logs and sinks are made."""

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ichx.errors import IchxError

if TYPE_CHECKING:
    from ichx.store import EpochRecord, Run


@dataclass(frozen=True)
class FoldPlan:
    """What a fold is going to do; `leaked` marks its score: the folds split patients."""

    experiment: int
    name: str
    fold: int
    folds: int
    hardware: str
    start: str
    train: int
    validation: int
    epochs: int
    epochs_done: int
    leaked: bool


class RunEvents:
    """Hooks of a run; override what you need. They are called in the run's own thread and must be quick.

    `note` may also come from other threads. `label` is what messages call who listens.
    """

    label = "the view"

    def attempt_started(self, run: "Run") -> None:
        """An attempt at a fold holds it from now on."""

    def attempt_ended(self, state: str, reason: str | None) -> None:
        """The attempt is over: `done`, `stopped`, `failed`, or `lost` to another process; `reason` says why."""

    def note(self, message: str) -> None:
        """Something that the user should know."""

    def fold_started(self, plan: FoldPlan) -> None:
        """Training of a fold begins or goes on."""

    def epoch_started(self, stage: str, epoch: int, epochs: int, batches: int) -> None:
        """Epoch `epoch` (from 1) of a stage's `epochs` begins."""

    def step(self, done: int, total: int, loss: float, images: int) -> None:
        """`done` of `total` batches are trained on; `loss` is the epoch's mean so far, `images` its images so far."""

    def phase(self, name: str, done: int, total: int) -> None:
        """Something beside training goes on: caching, validation, prediction."""

    def epoch_ended(self, record: "EpochRecord") -> None:
        """An epoch is trained, validated and recorded."""

    def stage_ended(self, stage: str, best: int, trained: int, left_out: int) -> None:
        """A stage with patience is over after `trained` epochs, `left_out` fewer than it could have.

        It hands on the weights of epoch `best` (from 1).
        """

    def fold_ended(self, fold: int, score: float) -> None:
        """A fold is finished; `score` is its OOF score without test-time augmentation."""

    def run_ended(self) -> None:
        """Nothing more comes; called once for all folds of a run."""


class Fanout(RunEvents):
    """Passes a run's events on to several that listen.

    One that fails gets no more of them, of which the others get one note: what listens to a run cannot stop it.
    """

    def __init__(self, *sinks: RunEvents) -> None:
        self._sinks = sinks
        self._lock = threading.Lock()

    def attempt_started(self, run: "Run") -> None:
        """Pass it on."""
        self._tell("attempt_started", run)

    def attempt_ended(self, state: str, reason: str | None) -> None:
        """Pass it on."""
        self._tell("attempt_ended", state, reason)

    def note(self, message: str) -> None:
        """Pass it on."""
        self._tell("note", message)

    def fold_started(self, plan: FoldPlan) -> None:
        """Pass it on."""
        self._tell("fold_started", plan)

    def epoch_started(self, stage: str, epoch: int, epochs: int, batches: int) -> None:
        """Pass it on."""
        self._tell("epoch_started", stage, epoch, epochs, batches)

    def step(self, done: int, total: int, loss: float, images: int) -> None:
        """Pass it on."""
        self._tell("step", done, total, loss, images)

    def phase(self, name: str, done: int, total: int) -> None:
        """Pass it on."""
        self._tell("phase", name, done, total)

    def epoch_ended(self, record: "EpochRecord") -> None:
        """Pass it on."""
        self._tell("epoch_ended", record)

    def stage_ended(self, stage: str, best: int, trained: int, left_out: int) -> None:
        """Pass it on."""
        self._tell("stage_ended", stage, best, trained, left_out)

    def fold_ended(self, fold: int, score: float) -> None:
        """Pass it on."""
        self._tell("fold_ended", fold, score)

    def run_ended(self) -> None:
        """Pass it on."""
        self._tell("run_ended")

    def _tell(self, hook: str, *arguments: object) -> None:
        for sink in self._sinks:
            try:
                getattr(sink, hook)(*arguments)
            except Exception as error:  # a disk is full, a server away, another's code broken
                self._leave_out(sink, error)

    def _leave_out(self, sink: RunEvents, error: Exception) -> None:
        with self._lock:
            if sink not in self._sinks:  # another thread was first
                return
            self._sinks = tuple(other for other in self._sinks if other is not sink)
        told = (
            f"{error.problem}: {error.remedy}" if isinstance(error, IchxError) else f"{type(error).__name__}: {error}"
        )
        self.note(f"{sink.label} gets nothing more of this run: {told}")
