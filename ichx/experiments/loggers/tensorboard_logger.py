"""Logs curves for TensorBoard: one folder per fold, to which each run adds."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ichx.errors import MissingDependencyError
from ichx.experiments.callbacks import RunCallbacks
from ichx.recipe_text import to_toml
from ichx.training.callbacks import EpochResult

if TYPE_CHECKING:
    from ichx.recipe import Recipe
    from ichx.store import Run


class TensorBoardLogger(RunCallbacks):
    """Writes a run's event files below `folder`, as `NUMBER/fold-K`."""

    label = "tensorboard"

    def __init__(self, folder: Path, recipe: "Recipe") -> None:
        self._folder, self._recipe = folder, recipe
        self._writer: Any = None

    def run_started(self, run: "Run") -> None:
        """Open the fold's event file and write the recipe."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingDependencyError(
                f"It cannot be imported ({error}).", "Install it: pip install 'ichx[tensorboard]'."
            ) from error
        self._writer = SummaryWriter(str(self._folder / str(run.experiment) / f"fold-{run.fold}"))
        self._writer.add_text("recipe", "\n".join(f"    {line}" for line in to_toml(self._recipe).splitlines()))

    def epoch_ended(self, result: EpochResult) -> None:
        """Write an epoch's values as `STAGE/NAME`."""
        for name, value in result.values.items():
            self._writer.add_scalar(f"{result.stage}/{name}", value, result.epoch)
        self._writer.flush()

    def fold_ended(self, fold: int, score: float) -> None:
        """Write the fold's OOF score."""
        self._writer.add_scalar("oof_score", score, 0)

    def run_finished(self, state: str, reason: str | None) -> None:
        """Close the event file."""
        self._writer.close()
