"""The log of a fold: the events of its runs, one line each with the time, in `run.log` next to its weights.

If a fold runs as a job, the engine appends the job's output to the same file, and the job shows nothing else.
"""

import os
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ichx.experiments.callbacks import FoldPlan, RunCallbacks
from ichx.text import escape
from ichx.training.callbacks import EpochResult, format_score

if TYPE_CHECKING:
    from ichx.store import Run
    from ichx.workspace import Workspace

STAMP = "%Y-%m-%d %H:%M:%S"


def prints_into(log: Path) -> bool:
    """Return whether standard error of this process goes into the file `log`."""
    try:
        return os.path.samestat(os.fstat(2), log.stat())
    except OSError:  # no such file, or standard error is closed
        return False


def unstamped(line: str) -> str:
    """Return a line of a log without its time."""
    words = line.split(" ", 2)
    try:
        datetime.strptime(" ".join(words[:2]), STAMP)
    except ValueError:
        return line
    return words[2].strip() if len(words) == 3 else ""


class RunLog(RunCallbacks):
    """Appends the events of a run to the logs of its folds. Raises `OSError` if a line cannot be written."""

    label = "the run log"

    def __init__(self, workspace: "Workspace") -> None:
        self._workspace = workspace
        self._path: Path | None = None
        self._early: list[str] = []

    def run_started(self, run: "Run") -> None:
        """Write host, command and device of the run; then the notes that came before it held the fold."""
        self._path = self._workspace.experiment_files(run.experiment).fold(run.fold).log
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._write(f"experiment {run.experiment}, fold {run.fold}: run {run.attempt} begins")
        self._write(f"  on {run.host}, process {run.pid}, ichx {run.code_version}")
        self._write(f"  command: {run.command}")
        self._write(f"  device: {run.device}")
        early, self._early = self._early, []
        for message in early:
            self._write(f"note: {message}")

    def run_finished(self, state: str, reason: str | None) -> None:
        """Write how the run ended."""
        self._write(f"run ends: {state}" + (f": {reason}" if reason else ""))
        self._path = None

    def note(self, message: str) -> None:
        """Write a note."""
        if self._path is None:
            self._early.append(message)
        else:
            self._write(f"note: {message}")

    def fold_started(self, plan: FoldPlan) -> None:
        """Write the fold's data and start weights."""
        self._write(f"  from: {plan.start}")
        self._write(f"  {plan.train:,} slices to train on, {plan.validation:,} to validate on")
        self._write(f"  {plan.epochs_done} of {plan.epochs} epochs are done")

    def epoch_ended(self, result: EpochResult) -> None:
        """Write the metrics of an epoch."""
        v = result.values
        self._write(
            f"{result.stage} {result.epoch}: loss {v['loss']:.5f}, {format_score(v)}, lr {v['lr']:.1e}, "
            f"{v['images_per_second']:,.0f} images/s, {v['seconds']:,.1f} s"
        )

    def stage_ended(self, stage: str, best: int, trained: int, left_out: int) -> None:
        """Write which epoch a stage with patience passes on."""
        self._write(
            f"{stage} ends after {trained} of {trained + left_out} epochs; continuing with the weights of epoch {best}"
        )

    def fold_ended(self, fold: int, score: float) -> None:
        """Write the fold's score."""
        self._write(f"fold {fold} done: OOF score {score:.5f}")

    def _write(self, line: str) -> None:
        """Append a line in one write: other processes may append to the same file."""
        if self._path is None:
            return
        stamped = f"{datetime.now():{STAMP}} {escape(line).replace(chr(10), ' ')}\n".encode()
        with self._path.open("ab", buffering=0) as file:
            file.write(stamped)
