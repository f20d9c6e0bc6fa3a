"""Hooks of a training: a base class of no-ops. The hooks of a whole run are in `ichx.experiments.callbacks`."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class EpochResult:
    """What one epoch came to."""

    stage: str
    stage_index: int
    """From 0."""
    epoch: int
    """From 1, within the stage."""
    values: Mapping[str, float]
    """`loss`, `score`, `score_LABEL`, `lr`, `seconds`, `images`, `images_per_second`, `memory_gb`, `dice*`, and for
    tuning `calibrated_score`."""


class Callbacks:
    """Hooks of a training; override what you need.

    They are called in the thread that trains and must be quick; `note` may also come from other threads.
    """

    def note(self, message: str) -> None:
        """Receive something that the user should know."""

    def epoch_started(self, stage: str, epoch: int, epochs: int, batches: int) -> None:
        """Epoch `epoch` (from 1) of the `epochs` of a stage begins."""

    def step(self, done: int, total: int, loss: float, images: int) -> None:
        """`done` of `total` batches are trained on.

        Args:
            done: Batches of this epoch, at a sync point.
            total: All batches of this epoch.
            loss: Mean loss of this epoch so far.
            images: Images of this epoch so far.
        """

    def phase(self, name: str, done: int, total: int) -> None:
        """Work other than training progresses: caching, validation, prediction."""

    def epoch_ended(self, result: EpochResult) -> None:
        """An epoch is trained and validated; its checkpoint is written."""

    def stage_ended(self, stage: str, best: int, trained: int, left_out: int) -> None:
        """A stage with patience has ended.

        Args:
            stage: Name of the stage.
            best: The epoch (from 1) whose weights the next stage starts from.
            trained: Epochs that were trained.
            left_out: Epochs that patience saved.
        """
