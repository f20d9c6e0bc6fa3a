"""Progress bars that stand below what a view prints, on a terminal, and are gone at its end."""

from types import TracebackType
from typing import Self

from rich.progress import Progress, ProgressColumn

from ichx.cli.output import err


class Bars:
    """A view with bars on standard error; use it as a context."""

    def __init__(self, *columns: ProgressColumn) -> None:
        """Take what a bar's line consists of."""
        self._bars = Progress(*columns, console=err, transient=True, disable=not err.is_terminal)

    def __enter__(self) -> Self:
        """Start the bars."""
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the bars."""
        self._bars.stop()
