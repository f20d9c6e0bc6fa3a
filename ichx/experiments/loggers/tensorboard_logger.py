"""Curves for TensorBoard: a folder for each fold, to which each attempt adds."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ichx.errors import IchxError
from ichx.recipe_text import to_toml
from ichx.training.callbacks import RunEvents

if TYPE_CHECKING:
    from ichx.recipe import Recipe
    from ichx.store import EpochRecord, Run


class TensorBoard(RunEvents):
    """Writes a run's event files below `folder`, as `NUMBER/fold-K`."""

    label = "tensorboard"

    def __init__(self, folder: Path, recipe: "Recipe") -> None:
        self._folder, self._recipe = folder, recipe
        self._writer: Any = None

    def attempt_started(self, run: "Run") -> None:
        """Open the fold's event file, and put the recipe into it."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise IchxError(f"it cannot be imported ({error})", "pip install 'ichx[tensorboard]'") from error
        self._writer = SummaryWriter(str(self._folder / str(run.experiment) / f"fold-{run.fold}"))
        self._writer.add_text("recipe", "\n".join(f"    {line}" for line in to_toml(self._recipe).splitlines()))

    def epoch_ended(self, record: "EpochRecord") -> None:
        """Write an epoch's values as `STAGE/NAME`."""
        for name, value in record.values.items():
            self._writer.add_scalar(f"{record.stage}/{name}", value, record.epoch)
        self._writer.flush()

    def fold_ended(self, fold: int, score: float) -> None:
        """Write the fold's OOF score."""
        self._writer.add_scalar("oof_score", score, 0)

    def attempt_ended(self, state: str, reason: str | None) -> None:
        """Close the event file."""
        self._writer.close()
