"""The log of a fold: what its attempts told, line by line with the time, in `run.log` beside its weights.

Where a fold runs as a job, the engine appends what the job prints to the same file; the job then shows nothing else.
"""

import os
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ichx.training.callbacks import FoldPlan, RunEvents

if TYPE_CHECKING:
    from ichx.store import EpochRecord, Run
    from ichx.workspace import Workspace

STAMP = "%Y-%m-%d %H:%M:%S"


def prints_into(log: Path) -> bool:
    """Tell whether what this process prints as errors goes into the file `log`."""
    try:
        return os.path.samestat(os.fstat(2), log.stat())
    except OSError:  # there is no such file, or nothing to print to
        return False


def unstamped(line: str) -> str:
    """Return a line of a log without its time, if it has one."""
    words = line.split(" ", 2)
    try:
        datetime.strptime(" ".join(words[:2]), STAMP)
    except ValueError:
        return line
    return words[2].strip() if len(words) == 3 else ""


class RunLog(RunEvents):
    """Appends what a run tells to the logs of its folds. A line that cannot be written raises `OSError`."""

    label = "the run log"

    def __init__(self, workspace: "Workspace") -> None:
        self._workspace = workspace
        self._path: Path | None = None
        self._early: list[str] = []

    def attempt_started(self, run: "Run") -> None:
        """Write where it runs, and how it was started; then what was told before it held the fold."""
        self._path = self._workspace.experiment_files(run.experiment).fold(run.fold).log
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._write(f"experiment {run.experiment}, fold {run.fold}: attempt {run.attempt} begins")
        self._write(f"  on {run.host}, process {run.pid}, ichx {run.code_version}")
        self._write(f"  command: {run.command}")
        self._write(f"  device: {run.device}")
        early, self._early = self._early, []
        for message in early:
            self._write(f"note: {message}")

    def attempt_ended(self, state: str, reason: str | None) -> None:
        """Write how it ended."""
        self._write(f"attempt ends: {state}" + (f": {reason}" if reason else ""))
        self._path = None

    def note(self, message: str) -> None:
        """Write a note."""
        if self._path is None:
            self._early.append(message)
        else:
            self._write(f"note: {message}")

    def fold_started(self, plan: FoldPlan) -> None:
        """Write what the fold learns from, and what its weights start from."""
        self._write(f"  from: {plan.start}")
        self._write(f"  {plan.train:,} slices to train on, {plan.validation:,} to validate on")
        self._write(f"  {plan.epochs_done} of {plan.epochs} epochs are done")

    def epoch_ended(self, record: "EpochRecord") -> None:
        """Write what an epoch came to."""
        v = record.values
        self._write(
            f"{record.stage} {record.epoch}: loss {v['loss']:.5f}, score {v['score']:.5f}, lr {v['lr']:.1e}, "
            f"{v['images_per_second']:,.0f} images/s, {v['seconds']:,.1f} s"
        )

    def stage_ended(self, stage: str, best: int, trained: int, left_out: int) -> None:
        """Write which epoch a stage with patience hands on."""
        self._write(f"{stage} ends after {trained} of {trained + left_out} epochs; the weights of epoch {best} go on")

    def fold_ended(self, fold: int, score: float) -> None:
        """Write the fold's score."""
        self._write(f"fold {fold} done: OOF score {score:.5f}")

    def _write(self, line: str) -> None:
        """Append a line in one piece: other processes may append to the same file."""
        if self._path is None:
            return
        stamped = f"{datetime.now():{STAMP}} {line.replace(chr(10), ' ')}\n".encode()
        with self._path.open("ab", buffering=0) as file:
            file.write(stamped)
