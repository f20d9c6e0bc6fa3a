"""How results reach a person or a program: tables, JSON, progress, errors. No command has its own way.

Data goes to standard output; progress and messages go to standard error.
"""

import contextlib
import gc
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from ichx.experiments.run import RunReport
    from ichx.jobs.launch_events import PooledScore
    from ichx.project import Project
    from ichx.store import Ensemble, ExperimentSummary

console = Console(highlight=False, emoji=False, soft_wrap=not sys.stdout.isatty())
err = Console(stderr=True, highlight=False, emoji=False, soft_wrap=not sys.stderr.isatty())


def print_json(value: object) -> None:
    """Print `value` (dataclasses, paths and dates allowed) as JSON and nothing else."""
    sys.stdout.write(json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    caption: str = "",
    drop: Sequence[str] = (),
    cut: Mapping[str, int] | None = None,
    split: bool = False,
) -> None:
    """Print a table as `sheet` makes it; with `split`, as several that fit, each with the first column."""
    groups = _groups(columns, rows) if split else [list(range(len(columns)))]
    for group in groups:
        made = sheet(
            title if group is groups[0] else "",
            [columns[i] for i in group],
            [[row[i] for i in group] for row in rows],
            caption=caption if group is groups[-1] else "",
            drop=drop,
            cut=cut,
        )
        console.print(made)


def sheet(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    caption: str = "",
    drop: Sequence[str] = (),
    cut: Mapping[str, int] | None = None,
) -> Group:
    """Return a table; columns of numbers are aligned to the right, `None` is shown as a dash.

    Where it is too wide, the columns of `drop` are left out, the first one first, and those of `cut` end in an
    ellipsis, at that many characters or more; the others fold between words. Where that is not enough, each row is
    a paragraph, with a line for each value.
    """
    texts = [[cell(value) for value in row] for row in rows]
    shown, widths = _fit(columns, texts, drop, cut or {})
    # Text, never markup: marks stand in brackets
    parts: list[Text | Table] = [Text(title, style="italic", no_wrap=False, overflow="fold")] if title else []
    if widths is None:
        parts += [_paragraph(columns, row) for row in texts]
    else:
        made = Table()
        for index in shown:
            numeric = all(isinstance(row[index], int | float | None) for row in rows)
            limited = columns[index] in (cut or {})
            made.add_column(
                columns[index],
                justify="right" if numeric else "left",
                overflow="ellipsis" if limited else "fold",
                no_wrap=limited,
                width=widths[index],
            )
        for row in texts:
            made.add_row(*(Text(row[index]) for index in shown))
        parts.append(made)
    if caption:
        parts.append(Text(caption, style="dim italic", no_wrap=False, overflow="fold"))
    return Group(*parts)


SHORT = 12
"""A cell of up to so many characters, such as `3 min 20 s`, does not fold."""


def _wide(text: str) -> int:
    return max(map(cell_len, text.split("\n")))


def _least(text: str) -> int:
    """Return how narrow a cell can be without a fold inside a word."""
    return wide if (wide := _wide(text)) <= SHORT else max(map(cell_len, text.split()))


def _fit(
    columns: Sequence[str], texts: Sequence[Sequence[str]], drop: Sequence[str], cut: Mapping[str, int]
) -> tuple[list[int], dict[int, int] | None]:
    """Return which columns are shown and how wide each is; no widths where words would have to be folded."""
    wide = [max(map(_wide, (name, *(row[i] for row in texts)))) for i, name in enumerate(columns)]
    least = [
        min(wide[i], max(cut[name], cell_len(name)))
        if name in cut
        else max((*map(cell_len, name.split()), *(_least(row[i]) for row in texts), 1))
        for i, name in enumerate(columns)
    ]
    shown = list(range(len(columns)))
    going = [name for name in drop if name in columns]
    while True:
        room = console.width - 1 - 3 * len(shown)
        whole = {i: least[i] if columns[i] in cut else wide[i] for i in shown}
        if sum(whole.values()) <= room or not going:
            break
        shown.remove(columns.index(going.pop(0)))
    widths = whole if sum(whole.values()) <= room else {i: least[i] for i in shown}
    spare = room - sum(widths.values())
    if spare < 0:
        return shown, None
    # What lacks least is served first, and the columns that may be cut in their order, after the others.
    for index in sorted(shown, key=lambda i: (columns[i] in cut, 0 if columns[i] in cut else wide[i] - widths[i])):
        more = min(spare, wide[index] - widths[index])
        widths[index] += more
        spare -= more
    return shown, widths


def _groups(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[list[int]]:
    """Return the columns of as few tables as it takes for each to fit, the first column in all, the others evenly."""
    others = range(1, len(columns))
    for tables in range(1, len(others)):
        most = math.ceil(len(others) / tables)
        groups = [[0, *others[start : start + most]] for start in range(0, len(others), most)]
        texts = [[[cell(row[i]) for i in group] for row in rows] for group in groups]
        if all(_fit([columns[i] for i in g], t, (), {})[1] for g, t in zip(groups, texts, strict=True)):
            return groups
    return [[0, index] for index in others]


def _paragraph(columns: Sequence[str], row: Sequence[str]) -> Text:
    """Return a row as lines: its first value, and below it the others, each after its column's name."""
    wide = max(map(cell_len, columns[1:]), default=0)
    head, *lines = (
        f"{name:<{wide}}  {' '.join(text.split())}" if place else f"{name} {text}".strip()
        for place, (name, text) in enumerate(zip(columns, row, strict=True))
    )
    return Text("\n  ".join([head, *lines]), no_wrap=False, overflow="fold")


def cell(value: object) -> str:
    """Return what a table shows for `value`: scores with five decimals, as the challenge counts them."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.5f}"
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M")
    return str(value)


def interval(low: float | None, high: float | None) -> str:
    """Return `0.05123 to 0.06544`, or nothing where there is no interval."""
    return "" if low is None or high is None else f"{cell(low)} to {cell(high)}"


def marked(scored: "ExperimentSummary | Ensemble") -> str:
    """Return the marks that must follow a score everywhere, in brackets after a space; nothing where there are none."""
    from ichx.store import marks

    said = ", ".join(marks(scored))
    return f" [{said}]" if said else ""


def print_score(experiment: int, scored: "RunReport | PooledScore") -> None:
    """Print the line of an experiment's pooled OOF score, where it has one."""
    if scored.score is None:
        return
    spread = f" ± {cell(scored.spread)} over folds" if scored.spread is not None else ""
    bounds = interval(scored.score_low, scored.score_high)
    told = f", 95 % interval over patients {bounds}" if bounds else ""
    said = f" [{', '.join(scored.marks)}]" if scored.marks else ""
    line = f"experiment {experiment}: OOF score {scored.score:.5f}{spread}{told}, "
    console.print(line + f"with hflip {cell(scored.score_tta)}{said}", markup=False)


def say(message: str, *, style: str = "") -> None:
    """Print a message for the person, beside the data; markup in it is not interpreted."""
    err.print(message, style=style, markup=False)


def warn(message: str) -> None:
    """Print a warning, one line."""
    err.print("warning: ", style="yellow", end="")
    err.print(message, markup=False)


def duration(seconds: float) -> str:
    """Return a duration as people say it: `45 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


@contextlib.contextmanager
def progress(description: str) -> Iterator[Callable[[int, int], None]]:
    """Yield `report(done, total)`, shown as a bar with rate and time left on a terminal, as a last line elsewhere."""
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
        say(f"{description}: {last[0]:,} of {last[1]:,}")


@contextlib.contextmanager
def session() -> Iterator["Project"]:
    """Yield the open project; plugins that cannot be used are reported when the registry is loaded."""
    with _uncollected():
        from ichx.project import Project
        from ichx.store import open_store
        from ichx.workspace import find_workspace

        workspace = find_workspace()
        opened = open_store(workspace)
    with opened as store:
        yield Project(workspace, store, warn=warn)


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Import without garbage collection: modules are no garbage, and searching them takes as long as importing some."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.unfreeze()  # these two move all that there is to the oldest generation, unsearched
        if enabled:
            gc.enable()


def _plain(value: object) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(inner) for inner in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if hasattr(value, "item"):
        return _plain(value.item())  # a NumPy scalar
    raise TypeError(f"cannot show a {type(value).__name__} as JSON")
