"""Live views on standard error: progress bars on a terminal, which disappear at the end, and lines everywhere."""

from collections.abc import Hashable
from types import TracebackType
from typing import Final, Self

from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

from ichx.cli.output import err, info, notice
from ichx.jobs.scheduler import SchedulerCallbacks
from ichx.text import format_count

BAR_WIDTH: Final = 10
"""Characters of a bar: at 80 columns, the last line of a job's log needs the space."""


class Bars:
    """A view with progress bars; use it as a context manager."""

    def __init__(self, *columns: ProgressColumn) -> None:
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=BAR_WIDTH),
            *columns,
            console=err,
            transient=True,
            disable=not err.is_terminal,
        )

    def __enter__(self) -> Self:
        """Show the bars."""
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the bars."""
        self._bars.stop()


class _Message(ProgressColumn):
    """The text of a job in the space that the other columns leave."""

    def render(self, task: Task) -> Text:
        """Return the text, cut at the end."""
        return Text(task.fields["text"], no_wrap=True, overflow="ellipsis")


class JobBars(Bars, SchedulerCallbacks):
    """A view of jobs that run at the same time: one bar per job, and one for all."""

    def __init__(self, noun: str) -> None:
        """Create the view of jobs that are called `noun`."""
        super().__init__(
            TextColumn("{task.fields[at]}"),
            TimeElapsedColumn(),
            _Message(Column()),
        )
        self._noun, self._count, self._ended = noun, 0, 0
        self._all = self._bars.add_task("all", total=0, at="", text="", visible=False)
        self._tasks: dict[Hashable, TaskID] = {}
        self._trouble = ""

    def planned(self, count: int, jobs: int, shares: str) -> None:
        """Print the number of jobs and show the bar for all."""
        self._count = count
        parallel = f", {jobs} at a time" if jobs > 1 else ""
        info(f"{format_count(count, self._noun)} to run{parallel}{shares and f': {shares}'}", style="bold")
        self._show_all()

    def stopping(self, running: int, at_once: bool) -> None:
        """Print that the jobs are being stopped."""
        jobs = format_count(running, self._noun)
        info(
            f"killing {jobs}" if at_once else f"stopping {jobs} after the current step; another Ctrl-C kills",
            style="yellow",
        )

    def leaving(self, running: int) -> None:
        """Print that the jobs continue."""
        if running:
            info(f"{format_count(running, self._noun)} on the cluster continue without this command", style="yellow")

    def trouble(self, problem: str) -> None:
        """Print a problem once."""
        if problem != self._trouble:
            notice(problem)
        self._trouble = problem

    def _add(self, key: Hashable, label: str) -> None:
        self._tasks[key] = self._bars.add_task(label, total=None, at="starting", text="")

    def _move(self, key: Hashable, epochs_done: int, epochs: int, text: str) -> None:
        at = f"{epochs_done}/{epochs} epochs"
        self._bars.update(self._tasks[key], completed=epochs_done, total=epochs, at=at, text=text)

    def _end(self, key: Hashable) -> None:
        if key in self._tasks:
            self._bars.remove_task(self._tasks.pop(key))
        self._ended += 1
        self._show_all()

    def _show_all(self) -> None:
        at = f"{self._ended}/{self._count} {self._noun}s"
        self._bars.update(self._all, completed=self._ended, total=self._count, at=at, visible=True)
