"""The live view of several folds that run side by side: a bar for each on a terminal, and lines everywhere."""

from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column

from ichx.cli.bars import Bars
from ichx.cli.formatting import format_duration, format_value
from ichx.cli.output import info
from ichx.jobs.launch_events import LaunchEvents, Unit, UnitProgress, UnitResult
from ichx.text import format_count


class LaunchView(Bars, LaunchEvents):
    """Shows a launch on standard error."""

    def __init__(self) -> None:
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            TextColumn("{task.completed} of {task.total} {task.fields[what]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[words]}", table_column=Column(no_wrap=True, overflow="ellipsis"), markup=False),
        )
        self._all = self._bars.add_task("all", total=0, what="folds", words="", visible=False)
        self._tasks: dict[Unit, TaskID] = {}
        self._words: dict[Unit, str] = {}

    def planned(self, units: int, jobs: int, shares: str) -> None:
        """Print what is going to happen."""
        info(
            f"{format_count(units, 'fold')} to run, {jobs} at a time" + (f": {shares}" if shares else ""), style="bold"
        )
        self._bars.update(self._all, total=units, visible=True)

    def unit_started(self, unit: Unit, device: str, log: str) -> None:
        """Print where a fold runs, and add its bar."""
        where = "" if device == "auto" else f" on {device}"
        info(f"{unit} begins{where}; its log: {log}")
        self._tasks[unit] = self._bars.add_task(str(unit), total=None, what="epochs", words="")

    def unit_moved(self, unit: Unit, progress: UnitProgress) -> None:
        """Move a fold's bar, and print what it has said last."""
        self._bars.update(
            self._tasks[unit], completed=progress.epochs_done, total=progress.epochs, words=progress.words
        )
        if self._bars.disable and progress.words and progress.words != self._words.get(unit):
            info(f"{unit}: {progress.words}")
        self._words[unit] = progress.words

    def unit_ended(self, result: UnitResult) -> None:
        """Print what came of a fold, and take its bar away."""
        unit = Unit(result.experiment, result.fold)
        if result.state == "already done":
            info(f"{unit} had been done before")
            return
        told = "is held by another process" if result.holder else f"is {result.state}"
        told = "failed" if result.state == "failed" else told
        told += f": {result.reason}" if result.reason else ""
        told += f": OOF score {format_value(result.score)}" if result.state == "done" else ""
        took = "" if result.seconds is None else f" after {format_duration(result.seconds)}"
        info(f"{unit} {told}{took}", style="yellow" if result.reason or result.holder else "")
        if unit in self._tasks:
            self._bars.remove_task(self._tasks.pop(unit))
        self._bars.advance(self._all)

    def stopping(self, running: int, at_once: bool) -> None:
        """Print that the jobs are told to stop."""
        how = "killing" if at_once else "stopping, each after its step (again kills):"
        info(f"{how} {format_count(running, 'job')}", style="yellow")
