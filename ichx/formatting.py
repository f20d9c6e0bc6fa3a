"""Formats of values in tables, messages, CSV and JSON: numbers, dates, durations, intervals, scores and marks."""

import csv
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, is_dataclass
from datetime import datetime
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ichx.text import csv_text

if TYPE_CHECKING:
    from ichx.store import Ensemble, ExperimentSummary


def format_value(value: object) -> str:
    """Return the text of a table cell; floats are scores and get five decimals."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.5f}"
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M")
    return str(value)


def format_duration(seconds: float) -> str:
    """Return e.g. `45 s`, `3 min 20 s` or `2 h 05 min`."""
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60:02d} s"
    return f"{total // 3600} h {total % 3600 // 60:02d} min"


def format_interval(low: float | None, high: float | None) -> str:
    """Return e.g. `0.05123 to 0.06544`; an empty string if a bound is missing."""
    return "" if low is None or high is None else f"{format_value(low)} to {format_value(high)}"


def format_marks(marks: Sequence[str]) -> str:
    """Return the marks of a score in brackets after a space, e.g. ` [selected]`; an empty string if there are none."""
    return f" [{', '.join(marks)}]" if marks else ""


def marks_of(scored: "ExperimentSummary | Ensemble", *, folds_shown: bool = False) -> str:
    """Return the formatted marks of an experiment or ensemble; see `shown_marks`."""
    return format_marks(shown_marks(scored, folds_shown=folds_shown))


def shown_marks(scored: "ExperimentSummary | Ensemble", *, folds_shown: bool = False) -> tuple[str, ...]:
    """Return the marks of an experiment or ensemble; `partial` is left out if its folds are shown."""
    from ichx.store import marks

    return tuple(mark for mark in marks(scored) if not (folds_shown and mark.startswith("partial (")))


def format_score(e: "ExperimentSummary") -> str:
    """Return an experiment's OOF score with its spread over folds and its marks; see `marks_of`."""
    if e.score is None:
        return "-"
    spread = f" ± {format_value(e.spread)}" if e.spread is not None else ""
    return format_value(e.score) + spread + marks_of(e)


def write_csv(stream: TextIO, heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write rows as CSV that spreadsheets show as they are, without computing a text; None is an empty field."""
    for part in csv_parts(heads, rows):
        stream.write(part)


CSV_ROWS = 1000
"""Rows of a part of a CSV."""


def csv_parts(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """Yield the text of `write_csv` in parts, each with some of the rows."""
    table = chain([heads], rows)
    while part := list(islice(table, CSV_ROWS)):
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([csv_text(value) if isinstance(value, str) else value for value in row] for row in part)
        yield text.getvalue()


LONG_NUMBER = 10
"""Numbers with more characters, e.g. values drawn by a search, are rounded to six digits."""


def format_recipe_value(value: object) -> str:
    """Return a recipe value as TOML writes it, without quotes; a dash if it is None."""
    from ichx.recipe import literal

    if value is None or isinstance(value, str):
        return value or "-"
    if isinstance(value, tuple):
        return "[" + ", ".join(map(format_recipe_value, value)) + "]"
    if isinstance(value, float) and len(literal(value)) > LONG_NUMBER:
        return f"{value:.6g}"
    return literal(value)


def json_value(value: object) -> Any:
    """Return dataclasses, dates, paths, sets and NumPy scalars as JSON values; NaN and infinity are null."""
    if is_dataclass(value) and not isinstance(value, type):
        return json_value(asdict(value))
    if isinstance(value, dict):
        return {str(key): json_value(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [json_value(inner) for inner in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if hasattr(value, "item"):
        return json_value(value.item())  # a NumPy scalar
    raise TypeError(f"cannot show a {type(value).__name__} as JSON")
