"""The live view of folds that run at the same time."""

from ichx.cli.bars import JobBars
from ichx.cli.output import info
from ichx.formatting import format_duration, format_value
from ichx.jobs.launch_report import LaunchCallbacks, Unit, UnitProgress, UnitResult
from ichx.text import format_count


class LaunchView(JobBars, LaunchCallbacks):
    """Shows a launch on standard error."""

    def __init__(self) -> None:
        super().__init__("fold")
        self._messages: dict[Unit, str] = {}

    def unit_started(self, unit: Unit, device: str, log: str) -> None:
        """Print the device and the log of a fold, and add its bar."""
        where = "" if device == "auto" else f" on {device}"
        info(f"{unit} starts{where}; log: {log}")
        self._add(unit, f"exp {unit.experiment}, fold {unit.fold}")

    def submitted(self, new: int, adopted: int, at_once: int | None) -> None:
        """Print how many jobs a scheduler has, and show the bar for all."""
        parts = [f"{format_count(new, 'job')} submitted"] if new else []
        parts += [f"{at_once} at a time"] if new and at_once is not None and at_once < new else []
        parts += [f"following {format_count(adopted, 'job')} of earlier commands"] if adopted else []
        if parts:
            info(", ".join(parts), style="bold")
        self._count = new + adopted
        self._show_all()

    def waiting(self, queued: int, running: int) -> None:
        """Show how many jobs are queued and running."""
        self._bars.update(self._all, text=f"{queued} queued, {running} running")

    def unit_progressed(self, unit: Unit, progress: UnitProgress) -> None:
        """Move the bar of a fold; print its last message if there are no bars."""
        self._move(unit, progress.epochs_done, progress.epochs, progress.message)
        if self._bars.disable and progress.message and progress.message != self._messages.get(unit):
            info(f"{unit}: {progress.message}")
        self._messages[unit] = progress.message

    def unit_ended(self, result: UnitResult) -> None:
        """Print the result of a fold and remove its bar."""
        if result.state == "already done":
            info(f"{result.unit} is already done")
            return
        if result.state in ("queued", "running"):
            self._end(result.unit)
            return
        state = {"failed": "failed", "cancelled": "was cancelled", "held": "is running in another process"}.get(
            result.state, f"is {result.state}"
        )
        took = "" if result.seconds is None else f" after {format_duration(result.seconds)}"
        score = f": OOF score {format_value(result.score)}" if result.state == "done" else ""
        reason = f": {result.reason}" if result.reason else ""
        info(f"{result.unit} {state}{took}{score}{reason}", style="yellow" if reason or result.holder else "")
        self._end(result.unit)
