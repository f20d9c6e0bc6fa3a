"""The live view of a study: bars for the trials that run on a terminal, and a line for each beginning and end."""

from collections.abc import Mapping
from pathlib import Path

from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn

from ichx.cli.bars import Bars
from ichx.cli.formatting import format_value
from ichx.cli.output import info, warn
from ichx.text import format_count
from ichx.tuning.budget import Value
from ichx.tuning.describe import told
from ichx.tuning.study_events import TrialResult, TuneEvents

MOST_NAMED = 6
"""So many values of a trial are told in its line."""


class TuneView(Bars, TuneEvents):
    """Shows a study on standard error."""

    def __init__(self, root: Path, number: int) -> None:
        """Take the workspace's `root`, which logs are told from, and the `number` of the experiment that is tuned."""
        self._root, self._number = root, number
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            TextColumn("{task.fields[at]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[score]}"),
        )
        self._all = self._bars.add_task("all", total=0, at="", score="", visible=False)
        self._tasks: dict[int, TaskID] = {}
        self._left = self._ended = 0

    def note(self, message: str) -> None:
        """Print a note."""
        info(f"note: {message}", style="yellow")

    def planned(self, left: int, jobs: int, shares: str) -> None:
        """Print how many trials are to come."""
        self._left = left
        beside = f", {jobs} at a time" + (f": {shares}" if shares else "") if jobs > 1 else ""
        info(f"{format_count(left, 'trial')} to run{beside}", style="bold")
        self._bars.update(self._all, total=left, at=f"0 of {left} trials", visible=True)

    def trial_started(self, trial: int, trials: int, experiment: int, values: Mapping[str, Value]) -> None:
        """Print what a trial tries, and add its bar."""
        tried = ", ".join(f"{name} {told(value)}" for name, value in values.items()) or "the recipe as it is"
        if len(values) > MOST_NAMED:
            tried = f"{len(values)} values, see `ichx exp diff {self._number} {experiment}`"
        info(f"trial {trial + 1} of {trials}, experiment {experiment}: {tried}")
        self._tasks[trial] = self._bars.add_task(f"trial {trial + 1}", total=None, at="starting", score="")

    def trial_moved(self, trial: int, epochs_done: int, epochs: int, score: float) -> None:
        """Move a trial's bar."""
        at = f"{epochs_done} of {epochs} epochs"
        self._bars.update(
            self._tasks[trial], completed=epochs_done, total=epochs, at=at, score=f"score {format_value(score)}"
        )

    def trial_ended(self, result: TrialResult, best: TrialResult | None) -> None:
        """Print a trial's score, or why it has none, and take its bar away."""
        if result.trial in self._tasks:
            self._bars.remove_task(self._tasks.pop(result.trial))
        self._ended += 1
        self._bars.update(self._all, completed=self._ended, at=f"{self._ended} of {self._left} trials")
        name = f"trial {result.trial + 1}"
        if result.state == "failed":
            log = f"; its log: {self._root / result.log}" if result.log else ""
            warn(f"{name} failed: {result.reason}{log}")
            return
        over = f", but {result.excess}" if result.excess else ""
        came = (
            f"score {format_value(result.score)}{over}" if result.state == "done" else f"ended early: {result.reason}"
        )
        so_far = "" if best is None else ", the best so far" if best == result else f"; best {format_value(best.score)}"
        info(f"  {name}: {came}{so_far}")

    def stopping(self, jobs: int, at_once: bool) -> None:
        """Print that the trials that run are being stopped."""
        how = "killing" if at_once else "stopping, each after its step (again kills):"
        info(f"{how} {format_count(jobs, 'trial')}", style="yellow")
