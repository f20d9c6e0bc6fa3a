"""What a run tells while it goes: a base of no-op hooks, from which the live view, logs and sinks are made."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ichx.store import EpochRecord


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
    """Hooks of a run; override what you need. They are called in the run's own thread and must be quick."""

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
