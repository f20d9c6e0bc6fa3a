"""Tables that fit the terminal by dropping, shortening and wrapping columns; the last resort are paragraphs."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from rich.cells import cell_len, set_cell_size
from rich.console import Group
from rich.table import Table
from rich.text import Text

from ichx.cli import output
from ichx.formatting import format_value
from ichx.text import escape

if TYPE_CHECKING:
    from ichx.evaluation.bootstrap import Interval

NO_WRAP = 12
"""Cells of at most this many characters, e.g. `3 min 20 s`, are not wrapped."""


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    caption: str = "",
    drop: Sequence[str] = (),
    cut: Mapping[str, int] | None = None,
    dim: Collection[int] = (),
    split: bool = False,
) -> None:
    """Print the table that `build_table` returns; with `split`, print a wide one as several that fit.

    Each part of a split table repeats the first column.
    """
    parts = _split_columns(columns, rows) if split else [list(range(len(columns)))]
    for part in parts:
        built = build_table(
            title if part is parts[0] else "",
            [columns[i] for i in part],
            [[row[i] for i in part] for row in rows],
            caption=caption if part is parts[-1] else "",
            drop=drop,
            cut=cut,
            dim=dim,
        )
        output.console.print(built)


def format_bounds(
    found: "Interval", digits: int = 3, *, bounds: int | None = None, joint: str = " to ", sign: str = ""
) -> str:
    """Return a value above its interval, e.g. for a cell; a dash for what is undefined.

    Args:
        found: The value with its interval.
        digits: Decimals of the value.
        bounds: Decimals of the ends of the interval, by default as many.
        joint: What is between the ends.
        sign: `+` to show the sign of positive numbers.
    """
    value = "-" if found.value is None else f"{found.value:{sign}z.{digits}f}"
    if found.low is None or found.high is None:
        return f"{value}\n-"
    form = f"{sign}z.{digits if bounds is None else bounds}f"
    return f"{value}\n{found.low:{form}}{joint}{found.high:{form}}"


def build_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    caption: str = "",
    drop: Sequence[str] = (),
    cut: Mapping[str, int] | None = None,
    dim: Collection[int] = (),
) -> Group:
    """Return a table as wide as the terminal at most; numeric columns are right-aligned, None is shown as a dash.

    Args:
        title: Line above the table; none if empty.
        columns: Headers.
        rows: Cells of each row.
        caption: Line below the table; none if empty.
        drop: Columns to leave out if the table is too wide, the first one first.
        cut: Columns to shorten in the middle, and the least width of each: names often differ at their end. Other
            columns wrap between words.
        dim: Rows to print dimmed.

    If all this is not enough, each row is printed as a paragraph with one line per value.
    """
    texts = [[escape(format_value(value)) for value in row] for row in rows]
    columns = [escape(name) for name in columns]
    shown, widths = _fit(columns, texts, drop, cut or {})
    # Text instead of markup: marks are printed in brackets
    parts: list[Text | Table] = [Text(title, style="italic", no_wrap=False, overflow="fold")] if title else []
    if widths is None:
        parts += [_paragraph(columns, row) for row in texts]
    else:
        grid = Table()
        for index in shown:
            numeric = all(isinstance(row[index], int | float | None) for row in rows)
            justify: Literal["left", "right"] = "right" if numeric else "left"
            grid.add_column(columns[index], justify=justify, overflow="fold", width=widths[index])
        limited = {index for index in shown if columns[index] in (cut or {})}
        for number, row in enumerate(texts):
            cells = (Text(_shortened(row[i], widths[i]) if i in limited else row[i]) for i in shown)
            grid.add_row(*cells, style="dim" if number in dim else None)
        parts.append(grid)
    if caption:
        parts.append(Text(caption, style="dim italic", no_wrap=False, overflow="fold"))
    return Group(*parts)


def _shortened(text: str, width: int) -> str:
    """Return `text` with an ellipsis if it is too wide: in the middle of a name or UID, which may differ at the end."""
    if cell_len(text) <= width:
        return text
    end = 0 if " " in text else (width - 1) // 2
    return set_cell_size(text, width - 1 - end) + "…" + set_cell_size(text[::-1], end)[::-1]


def _full_width(text: str) -> int:
    return max(map(cell_len, text.split("\n")))


def _min_width(text: str) -> int:
    """Return the least width at which no word is broken."""
    return full if (full := _full_width(text)) <= NO_WRAP else max(map(cell_len, text.split()), default=0)


def _fit(
    columns: Sequence[str], texts: Sequence[Sequence[str]], drop: Sequence[str], cut: Mapping[str, int]
) -> tuple[list[int], dict[int, int] | None]:
    """Return the indices of the shown columns and their widths; None for the widths if words would be broken."""
    full = [max(map(_full_width, (name, *(row[i] for row in texts)))) for i, name in enumerate(columns)]
    least = [
        min(full[i], max(cut[name], cell_len(name)))
        if name in cut
        else max((*map(cell_len, name.split()), *(_min_width(row[i]) for row in texts), 1))
        for i, name in enumerate(columns)
    ]
    shown = list(range(len(columns)))
    droppable = [name for name in drop if name in columns]
    while True:
        room = output.console.width - 1 - 3 * len(shown)
        unwrapped = {i: least[i] if columns[i] in cut else full[i] for i in shown}
        if sum(unwrapped.values()) <= room or not droppable:
            break
        shown.remove(columns.index(droppable.pop(0)))
    widths = unwrapped if sum(unwrapped.values()) <= room else {i: least[i] for i in shown}
    spare = room - sum(widths.values())
    if spare < 0:
        return shown, None
    # Widen the columns that need least first, those that may be cut last and in their order.
    order = sorted(shown, key=lambda i: (columns[i] in cut, 0 if columns[i] in cut else full[i] - widths[i]))
    # Columns that wrap share the rest.
    wrapped = sum(name not in cut for name in (columns[i] for i in order))
    for number, index in enumerate(order):
        share = spare if columns[index] in cut else spare // (wrapped - number)
        extra = min(share, full[index] - widths[index])
        widths[index] += extra
        spare -= extra
    return shown, widths


def _split_columns(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[list[int]]:
    """Return the column indices of as few tables as possible that each fit; all start with the first column."""
    others = range(1, len(columns))
    for count in range(1, len(others)):
        size = math.ceil(len(others) / count)
        parts = [[0, *others[start : start + size]] for start in range(0, len(others), size)]
        texts = [[[format_value(row[i]) for i in part] for row in rows] for part in parts]
        if all(_fit([columns[i] for i in p], t, (), {})[1] for p, t in zip(parts, texts, strict=True)):
            return parts
    return [[0, index] for index in others]


def _paragraph(columns: Sequence[str], row: Sequence[str]) -> Text:
    """Return a row as lines: its first value, and below it each other value after its column's name."""
    indent = max(map(cell_len, columns[1:]), default=0)
    head, *lines = (
        f"{name:<{indent}}  {' '.join(text.split())}" if index else f"{name} {text}".strip()
        for index, (name, text) in enumerate(zip(columns, row, strict=True))
    )
    return Text("\n  ".join([head, *lines]), no_wrap=False, overflow="fold")
