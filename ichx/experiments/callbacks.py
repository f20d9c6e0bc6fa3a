"""Hooks of a run: those of a training, and the start and end of runs and folds."""

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ichx.errors import IchxError
from ichx.training.callbacks import Callbacks, EpochResult

if TYPE_CHECKING:
    from ichx.store import Run


@dataclass(frozen=True)
class FoldPlan:
    """What a fold is about to do."""

    experiment: int
    name: str
    fold: int
    folds: int
    hardware: str
    start: str
    """What its weights start from: pretrained, random, a file, a checkpoint."""
    train: int
    """Slices to train on."""
    validation: int
    """Slices to validate on."""
    epochs: int
    epochs_done: int
    leaked: bool
    """Whether its folds split patients, which marks its score."""
    folds_after: int = 0
    """Folds that the same run trains after this one."""


class RunCallbacks(Callbacks):
    """Hooks of a run of one or more folds; override what you need. `label` names the receiver in messages."""

    label = "the view"

    def run_started(self, run: "Run") -> None:
        """A run holds its fold from now on."""

    def run_finished(self, state: str, reason: str | None) -> None:
        """A run has ended.

        Args:
            state: `done`, `stopped`, `failed`, or `lost` to another process.
            reason: Why, if there is one.
        """

    def fold_started(self, plan: FoldPlan) -> None:
        """Training of a fold begins or resumes."""

    def fold_ended(self, fold: int, score: float) -> None:
        """A fold is finished; `score` is its OOF score without test-time augmentation."""

    def close(self) -> None:
        """No more calls follow; called once, after all folds."""


class CallbackList(RunCallbacks):
    """Passes all calls to several receivers.

    One that raises gets no more calls, and the others get a note about it: no receiver can stop a run.
    """

    def __init__(self, *receivers: RunCallbacks) -> None:
        self._receivers = receivers
        self._lock = threading.Lock()

    def run_started(self, run: "Run") -> None:
        """Pass on."""
        self._call("run_started", run)

    def run_finished(self, state: str, reason: str | None) -> None:
        """Pass on."""
        self._call("run_finished", state, reason)

    def note(self, message: str) -> None:
        """Pass on."""
        self._call("note", message)

    def fold_started(self, plan: FoldPlan) -> None:
        """Pass on."""
        self._call("fold_started", plan)

    def epoch_started(self, stage: str, epoch: int, epochs: int, batches: int) -> None:
        """Pass on."""
        self._call("epoch_started", stage, epoch, epochs, batches)

    def step(self, done: int, total: int, loss: float, images: int) -> None:
        """Pass on."""
        self._call("step", done, total, loss, images)

    def phase(self, name: str, done: int, total: int) -> None:
        """Pass on."""
        self._call("phase", name, done, total)

    def epoch_ended(self, result: EpochResult) -> None:
        """Pass on."""
        self._call("epoch_ended", result)

    def stage_ended(self, stage: str, best: int, trained: int, left_out: int) -> None:
        """Pass on."""
        self._call("stage_ended", stage, best, trained, left_out)

    def fold_ended(self, fold: int, score: float) -> None:
        """Pass on."""
        self._call("fold_ended", fold, score)

    def close(self) -> None:
        """Pass on."""
        self._call("close")

    def _call(self, hook: str, *arguments: object) -> None:
        for receiver in self._receivers:
            try:
                getattr(receiver, hook)(*arguments)
            except Exception as error:  # a full disk, a server that is away, third-party code
                self._remove(receiver, error)

    def _remove(self, receiver: RunCallbacks, error: Exception) -> None:
        with self._lock:
            if receiver not in self._receivers:  # another thread was first
                return
            self._receivers = tuple(other for other in self._receivers if other is not receiver)
        reason = (
            f"{error.problem} {error.remedy}" if isinstance(error, IchxError) else f"{type(error).__name__}: {error}"
        )
        self.note(f"{receiver.label} gets no more events of this run: {reason}")
