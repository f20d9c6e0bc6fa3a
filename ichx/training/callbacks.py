"""Hooks of a training: a base class of no-ops. The hooks of a whole run are in `ichx.experiments.callbacks`."""

from collections.abc import Mapping
from dataclasses import dataclass

from ichx.evaluation.choices import CALIBRATED


@dataclass(frozen=True)
class EpochResult:
    """What one epoch came to."""

    stage: str
    stage_index: int
    """From 0."""
    epoch: int
    """From 1, within the stage."""
    values: Mapping[str, float]
    """`loss`, `score`, `score_LABEL`, `lr`, `seconds`, `images`, `images_per_second`, `memory_gb`, `dice*`. Without a
    validation on all rows no `score`; `subset_score` where the stage is validated on a subset; for tuning
    `calibrated_score`."""

    @property
    def compared_score(self) -> float | None:
        """The score that is comparable between the epochs of the stage; None without a validation."""
        return compared_score(self.values)


def compared_score(values: Mapping[str, float]) -> float | None:
    """Return the score in the `values` of an epoch that is comparable within its stage and between trainings.

    Where a stage is validated on a subset, that is the score of the subset, in its last epoch, too. None without a
    validation. While tuning it is the calibrated score.
    """
    return values.get(CALIBRATED, values.get("subset_score", values.get("score")))


def format_score(values: Mapping[str, float]) -> str:
    """Return the score in the `values` of an epoch for a line of text."""
    if "score" in values:
        return f"score {values['score']:.5f}"
    return f"subset score {values['subset_score']:.5f}" if "subset_score" in values else "not validated"


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
