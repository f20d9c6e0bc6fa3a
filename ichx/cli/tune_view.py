"""The live view of a study."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ichx.cli.bars import JobBars
from ichx.cli.output import info, notice, warn
from ichx.formatting import format_value
from ichx.tuning.budget import Value
from ichx.tuning.describe import format_searched
from ichx.tuning.trial_view import TrialView
from ichx.tuning.tune_report import TuneCallbacks

MAX_VALUES: Final = 6
"""Number of searched values up to which they are printed."""


class TuneView(JobBars, TuneCallbacks):
    """Shows a study on standard error."""

    def __init__(self, root: Path, number: int) -> None:
        """Create the view for experiment `number`; paths of logs are relative to the workspace `root`."""
        super().__init__("trial")
        self._root, self._number = root, number

    def note(self, message: str) -> None:
        """Print a note."""
        notice(message)

    def trial_started(self, trial: int, trials: int, experiment: int, values: Mapping[str, Value]) -> None:
        """Print the values of a trial and add its bar."""
        text = ", ".join(f"{name} {format_searched(value)}" for name, value in values.items()) or "unchanged recipe"
        if len(values) > MAX_VALUES:
            text = f"{len(values)} values, see `ichx exp diff {self._number} {experiment}`"
        info(f"trial {trial + 1} of {trials}, experiment {experiment}: {text}")
        self._add(trial, f"trial {trial + 1}")

    def trial_progressed(self, trial: int, epochs_done: int, epochs: int, score: float) -> None:
        """Move the bar of a trial."""
        self._move(trial, epochs_done, epochs, f"score {format_value(score)}")

    def trial_ended(self, trial: TrialView, best: TrialView | None) -> None:
        """Print the score of a trial, or why it failed, and remove its bar."""
        self._end(trial.trial)
        name = f"trial {trial.trial + 1}"
        if trial.state == "failed":
            log = f"; log: {self._root / trial.log}" if trial.log else ""
            warn(f"{name} failed: {trial.error}{log}")
            return
        excess = f", but {trial.excess}" if trial.excess else ""
        outcome = f"pruned: {trial.error}" if trial.state == "pruned" else f"score {format_value(trial.score)}{excess}"
        so_far = "" if best is None else ", the best so far" if best == trial else f"; best {format_value(best.score)}"
        info(f"  {name}: {outcome}{so_far}")
