"""Markdown with texts of unknown origin: names, header fields and authors' texts cannot become markup."""

import re
from collections.abc import Iterable, Sequence
from typing import Final

from ichx.text import escape

_SPECIAL: Final = re.compile(r"([\\`*_{}\[\]<>|#!~])")


def plain(value: object) -> str:
    """Return a text as Markdown shows it: on one line, with no markup of its own."""
    text = " ".join(escape(str(value)).split())
    return _SPECIAL.sub(r"\\\1", text)


def paragraph(text: str) -> str:
    """Return a text of several lines as one paragraph per line."""
    return "\n\n".join(plain(line) for line in text.splitlines() if line.strip())


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table. Cells are Markdown already; escape texts of unknown origin with `plain`."""
    lines = [f"| {' | '.join(heads)} |", f"| {' | '.join('---' for _ in heads)} |"]
    lines += [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines)


def number(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """Return e.g. `0.9123 (0.8801-0.9410)`; a dash for an undefined value."""
    if value is None:
        return "-"
    interval = "" if low is None or high is None else f" ({low:.4f}-{high:.4f})"
    return f"{value:.4f}{interval}"
