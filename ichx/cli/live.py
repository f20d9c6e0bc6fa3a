"""The live view of a run: stage, epoch, loss, score, throughput, time left."""

import time
from typing import TYPE_CHECKING

from rich.progress import BarColumn, TextColumn

from ichx.cli.bars import Bars
from ichx.cli.formatting import format_duration
from ichx.cli.output import info
from ichx.experiments.callbacks import FoldPlan, RunCallbacks

if TYPE_CHECKING:
    from ichx.training.callbacks import EpochResult


class LiveView(Bars, RunCallbacks):
    """Shows a run on standard error: bars on a terminal, and a line per fold and epoch everywhere."""

    def __init__(self) -> None:
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            TextColumn("{task.fields[text]}"),
        )
        self._task = self._bars.add_task("", total=None, text="", visible=False)
        self._plan: FoldPlan | None = None
        self._label = ""
        self._began = self._epoch_began = time.monotonic()
        self._epochs_done = self._left_out = 0
        self._first = (0, 0)

    def note(self, message: str) -> None:
        """Print a note."""
        info(f"note: {message}", style="yellow")

    def fold_started(self, plan: FoldPlan) -> None:
        """Print what the fold is going to do."""
        self._plan, self._began = plan, time.monotonic()
        self._epochs_done = self._left_out = 0
        info(f"experiment {plan.experiment} ({plan.name}), fold {plan.fold} of 0..{plan.folds - 1}", style="bold")
        info(f"  device: {plan.hardware}")
        info(f"  from: {plan.start}; {plan.train:,} slices to train on, {plan.validation:,} to validate on")

    def epoch_started(self, stage: str, epoch: int, epochs: int, batches: int) -> None:
        """Set the bar up for an epoch."""
        self._label = f"{stage} {epoch}/{epochs}"
        self._epoch_began = time.monotonic()
        self._first = (0, 0)
        self._show(0, batches, "")

    def step(self, done: int, total: int, loss: float, images: int) -> None:
        """Move the bar; rates count from the first look, as an epoch may go on from its middle."""
        now = time.monotonic()
        text = f"loss {loss:.4f}"
        if self._first == (0, 0):
            self._first, self._epoch_began = (done, images), now
        elif now > self._epoch_began:
            rate = (images - self._first[1]) / (now - self._epoch_began)
            left = (total - done) * (now - self._epoch_began) / (done - self._first[0])
            text += f"  {rate:,.0f}/s  ends in {format_duration(left)}"
        self._show(done, total, text)

    def phase(self, name: str, done: int, total: int) -> None:
        """Show what goes on beside training."""
        label, self._label = self._label, name
        self._show(done, total, f"{done:,} of {total:,}")
        self._label = label

    def epoch_ended(self, result: "EpochResult") -> None:
        """Print the epoch's line."""
        values = result.values
        self._epochs_done += 1
        # within 80 columns, also with hours left; the run log has the rest
        line = f"  {result.stage} {result.epoch}: loss {values['loss']:.4f}, score {values['score']:.5f}"
        line += f", {format_duration(values['seconds'])}"
        if self._plan is not None:
            left = self._plan.epochs - self._plan.epochs_done - self._left_out - self._epochs_done
            if left > 0:
                line += f", {format_duration(left * (time.monotonic() - self._began) / self._epochs_done)} to go"
        info(line)

    def stage_ended(self, stage: str, best: int, trained: int, left_out: int) -> None:
        """Print which epoch a stage with patience hands on."""
        if self._epochs_done > 0:  # else an earlier attempt has trained it, and the plan knows
            self._left_out += left_out
        early = f"ends after {trained} of {trained + left_out} epochs" if left_out else "ends"
        info(f"  {stage} {early}; the weights of epoch {best} go on")

    def fold_ended(self, fold: int, score: float) -> None:
        """Print the fold's score."""
        self._bars.update(self._task, visible=False)
        mark = " [leaky folds]" if self._plan is not None and self._plan.leaked else ""
        info(f"  fold {fold} done: OOF score {score:.5f}{mark}")

    def _show(self, done: int, total: int, text: str) -> None:
        self._bars.update(self._task, completed=done, total=total, description=self._label, text=text, visible=True)
