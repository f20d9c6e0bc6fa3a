"""Output of all commands: data on standard output, messages, warnings, errors and progress on standard error.

Names, notes, paths and logs may come from strangers. Everything printed here is escaped: a terminal shows control
characters as text, and a spreadsheet does not compute text in CSV.

Tables are in `ichx.cli.tables`, the formats of single values in `ichx.formatting`.
"""

import contextlib
import errno
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from ichx.formatting import format_interval, format_marks, format_value, json_value, write_csv
from ichx.text import UNSAFE, escape
from ichx.views import with_views

if TYPE_CHECKING:
    from ichx.store import PooledScore

_WORD: Final = re.compile(r"\s*(?:[^\s`]*`[^`]+`[^\s`]*|\S+)")
"""A word, or a command in backticks, with the blanks before it."""


class _Terminal(io.FileIO):
    """A terminal that discards what is written after it was closed: a run that survives it must not fail for that."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data) or 0
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return memoryview(data).nbytes


def _prepare_streams() -> None:
    """Give a process without standard streams some, and escape what an encoding such as ASCII lacks."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8", errors="replace"))  # noqa: SIM115
        elif isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
            if stream.isatty():
                raw = io.BufferedWriter(_Terminal(stream.fileno(), "w", closefd=False))
                wrapped = io.TextIOWrapper(raw, stream.encoding, "backslashreplace", line_buffering=True)
                setattr(sys, name, wrapped)


class EscapingConsole(Console):
    """A console that escapes control characters in all text."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render an object, and the objects in it, with this method."""
        if isinstance(renderable, Text) and UNSAFE.search(renderable.plain):
            renderable = renderable.copy()
            renderable.plain = escape(renderable.plain)
        return super().render(renderable, options)

    def render_str(self, text: str, **style: Any) -> Text:
        """Escape a string before rich removes some control characters."""
        return super().render_str(escape(text), **style)


_prepare_streams()
console = EscapingConsole(highlight=False, emoji=False, soft_wrap=not sys.stdout.isatty())
err = EscapingConsole(stderr=True, highlight=False, emoji=False, soft_wrap=not sys.stderr.isatty())


def print_json(value: object) -> None:
    """Print `value` (dataclasses, paths and dates allowed) as JSON and nothing else."""
    sys.stdout.write(_json_text(value, sys.stdout, indent=2) + "\n")
    sys.stdout.flush()  # an error at the exit of the interpreter has no message


def print_csv(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows as CSV; None is an empty field."""
    write_csv(sys.stdout, heads, rows)
    sys.stdout.flush()


def print_score(scored: "PooledScore") -> None:
    """Print one line with an experiment's pooled OOF score; print nothing if it has none."""
    if scored.score is None:
        return
    spread = f" ± {format_value(scored.spread)} over folds" if scored.spread is not None else ""
    bounds = format_interval(scored.score_low, scored.score_high)
    interval = f", 95 % interval over patients {bounds}" if bounds else ""
    line = f"experiment {scored.experiment}: OOF score {scored.score:.5f}{spread}{interval}, "
    console.print(
        line + f"{with_views(scored.views)} {format_value(scored.score_tta)}{format_marks(scored.marks)}", markup=False
    )


def info(message: str, *, style: str = "") -> None:
    """Print a message on standard error; markup in it is not interpreted."""
    _print_wrapped(message, style=style, to=err)


def notice(message: str) -> None:
    """Print a note on standard error."""
    info(f"note: {message}", style="yellow")


def warn(message: str) -> None:
    """Print a warning on standard error."""
    print_labelled("warning:", message, style="yellow", to=err)


def print_error(problem: str, remedy: str) -> None:
    """Print an error on standard error, the remedy indented below the problem."""
    print_labelled("error:", f"{problem}\n{remedy}", style="bold red", to=err)


def print_labelled(label: str, text: str, *, style: str = "", to: Console) -> None:
    """Print `text` after its label, all lines indented alike; on a terminal they wrap within its width."""
    to.print(label, style=style, end=" ")
    _print_wrapped(text, indent=len(label) + 1, to=to)


def _print_wrapped(text: str, *, style: str = "", indent: int = 0, to: Console) -> None:
    """Print `text`; on a terminal its lines wrap between words.

    A command in backticks stays on one line, so that it can be copied. The terminal wraps what is longer than a line.
    """
    text = escape(text)
    if not to.soft_wrap:
        text = "\n".join(line for part in text.split("\n") for line in _wrap(part, to.width - indent))
    to.print(text.replace("\n", "\n" + " " * indent), style=style, markup=False, soft_wrap=True)


def _wrap(text: str, width: int) -> list[str]:
    lines = [""]
    for word in _WORD.findall(text):
        if lines[-1] and cell_len(lines[-1] + word) > width:
            lines.append(word.lstrip())
        else:
            lines[-1] += word
    return lines


def print_json_error(error: Mapping[str, object]) -> None:
    """Print `{"error": {"code", "problem", "remedy"}}` as one line on standard error."""
    sys.stderr.write(_json_text({"error": dict(error)}, sys.stderr) + "\n")


def json_requested(arguments: Sequence[str]) -> bool:
    """Return whether the command line `arguments` have the option `--json`."""
    end = arguments.index("--") if "--" in arguments else None
    return "--json" in arguments[:end]


@contextlib.contextmanager
def progress(description: str) -> Iterator[Callable[[int, int], None]]:
    """Yield `report(done, total)`: a bar with rate and time left on a terminal, one final line elsewhere."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        "[progress.description]{task.description}",
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(description, total=None, rate="")
        last = (0, 0)

        def report(done: int, total: int) -> None:
            nonlocal last
            last = (done, total)
            speed = bar.tasks[0].finished_speed or bar.tasks[0].speed
            bar.update(task, completed=done, total=total, rate=f"{speed:,.0f}/s" if speed else "")

        yield report
    if last[1]:
        info(f"{description}: {last[0]:,} of {last[1]:,}")


def _json_text(value: object, stream: TextIO, indent: int | None = None) -> str:
    """Return `value` as JSON that `stream` can encode; its error handler would escape letters as no JSON does."""
    text = json.dumps(json_value(value), indent=indent, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(stream.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(json_value(value), indent=indent, allow_nan=False)
    return UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)  # json itself escapes ASCII only up to 31
