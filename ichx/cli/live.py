"""The live view of a run: stage, epoch, loss, score, throughput, remaining time."""

import time
from typing import TYPE_CHECKING

from rich.progress import TextColumn

from ichx.cli.bars import Bars
from ichx.cli.output import err, info, notice
from ichx.experiments.callbacks import FoldPlan, RunCallbacks
from ichx.formatting import format_duration
from ichx.training.callbacks import format_score

if TYPE_CHECKING:
    from ichx.training.callbacks import EpochResult


LINE_SECONDS = 30
"""Time between two lines about the same work, where no bar can be shown."""


class LiveView(Bars, RunCallbacks):
    """Shows a run on standard error: a bar on a terminal, and a line per fold and epoch everywhere."""

    def __init__(self) -> None:
        super().__init__(TextColumn("{task.fields[text]}"))
        self._task = self._bars.add_task("", total=None, text="", visible=False)
        self._plan: FoldPlan | None = None
        self._label = ""
        self._began = self._epoch_began = time.monotonic()
        self._epochs_done = self._left_out = 0
        self._first = (0, 0)
        self._phase, self._printed = "", 0.0

    def note(self, message: str) -> None:
        """Print a note."""
        notice(message)

    def fold_started(self, plan: FoldPlan) -> None:
        """Print experiment, device, weights and slices of the fold."""
        self._plan, self._began = plan, time.monotonic()
        self._epochs_done = self._left_out = 0
        info(f"experiment {plan.experiment} ({plan.name}), fold {plan.fold} of 0..{plan.folds - 1}", style="bold")
        info(f"  device: {plan.hardware}")
        info(f"  from: {plan.start}; {plan.train:,} slices to train on, {plan.validation:,} to validate on")

    def epoch_started(self, stage: str, epoch: int, epochs: int, batches: int) -> None:
        """Reset the bar for an epoch."""
        self._label = f"{stage} {epoch}/{epochs}"
        self._epoch_began = time.monotonic()
        self._first = (0, 0)
        self._show(0, batches, "")

    def step(self, done: int, total: int, loss: float, images: int) -> None:
        """Move the bar. Rates count from the first call, because an epoch may resume in its middle."""
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
        """Show the progress of work other than training; without a terminal, print a line of long work now and then."""
        if not err.is_terminal:
            self._print_phase(name, done, total)
        label, self._label = self._label, name
        self._show(done, total, f"{done:,} of {total:,}")
        self._label = label

    def _print_phase(self, name: str, done: int, total: int) -> None:
        now = time.monotonic()
        if name != self._phase:
            self._phase, self._printed = name, now
        if now - self._printed >= LINE_SECONDS:
            self._printed = now
            info(f"  {name}: {done:,} of {total:,}")

    def epoch_ended(self, result: "EpochResult") -> None:
        """Print the epoch's loss, score and time within 80 columns; the run log has all values."""
        values = result.values
        self._epochs_done += 1
        line = f"  {result.stage} {result.epoch}: loss {values['loss']:.4f}, {format_score(values)}"
        line += f", {format_duration(values['seconds'])}"
        if (plan := self._plan) is not None:
            left = plan.epochs - plan.epochs_done - self._left_out - self._epochs_done
            left += plan.folds_after * plan.epochs
            if left > 0:
                line += f", {format_duration(left * (time.monotonic() - self._began) / self._epochs_done)} to go"
        info(line)

    def stage_ended(self, stage: str, best: int, trained: int, left_out: int) -> None:
        """Print the epoch whose weights are used after a stage with patience."""
        if self._epochs_done > 0:  # otherwise an earlier run has trained the stage, and the plan includes it
            self._left_out += left_out
        early = f" after {trained} of {trained + left_out} epochs" if left_out else ""
        info(f"  {stage} ends{early} with the weights of epoch {best}")

    def fold_ended(self, fold: int, score: float) -> None:
        """Print the fold's score."""
        self._bars.update(self._task, visible=False)
        mark = " [leaky folds]" if self._plan is not None and self._plan.leaked else ""
        info(f"  fold {fold} done: OOF score {score:.5f}{mark}")

    def _show(self, done: int, total: int, text: str) -> None:
        self._bars.update(self._task, completed=done, total=total, description=self._label, text=text, visible=True)
