"""Values in a SQLite store that cannot be decoded: dates, JSON, texts, and values of another type than their column.

SQLite stores any value in any column. Other databases check values when they are written.
"""

import sqlite3
from collections.abc import Callable, Iterator
from typing import Any, Final

from sqlalchemy import JSON, Boolean, Column, Dialect, Float, Integer, String, Table

from ichx.store.snapshots import TuningInfo
from ichx.store.tables import METADATA, UtcDateTime
from ichx.text import parse_json

_Decode = Callable[[Any], object]
_SHAPES: Final[dict[tuple[str, str], tuple[type, ...]]] = {
    ("dataset_version", "summary"): (dict,),
    ("experiment", "origin"): (dict, type(None)),
    ("run", "libraries"): (dict,),
    ("run", "provenance"): (dict, type(None)),
    ("ensemble", "submissions"): (list,),
}
"""Types of JSON values."""
_SHOWN: Final = 60
"""Characters of an invalid value in a message."""


def undecodable_values(connection: sqlite3.Connection, dialect: Dialect) -> Iterator[str]:
    """Yield a line for each value of a SQLite store that cannot be decoded, with its table, row and column."""
    connection.text_factory = bytes
    for table in METADATA.sorted_tables:
        names = {bytes(row[1]).decode() for row in connection.execute(f"PRAGMA table_info({table.name})")}
        columns = [column for column in table.columns if column.name in names]
        if not columns:
            continue  # a missing table or column is another problem
        decoders = [(column, _decoder(table, column, dialect)) for column in columns]
        listed = ", ".join(f'"{column.name}"' for column in columns)
        for row in connection.execute(f"SELECT {listed} FROM {table.name}"):
            for (column, decode), value in zip(decoders, row, strict=True):
                if value is None and column.nullable:
                    continue
                try:
                    decode(value)
                except (ValueError, TypeError) as error:
                    key = ", ".join(f"{c.name} {_shown(v)}" for c, v in zip(columns, row, strict=True) if c.primary_key)
                    yield (
                        f"table {table.name}, row {key}, column {column.name}: "
                        f"{_shown(value)} is not a valid {_kind(column)} ({type(error).__name__})"
                    )


def _decoder(table: Table, column: Column[Any], dialect: Dialect) -> _Decode:
    """Return a function that raises `ValueError` or `TypeError` for an invalid value of `column`."""
    kind = column.type
    if isinstance(kind, JSON):
        return lambda value: _check_json(table.name, column.name, parse_json(_text(value)))
    if isinstance(kind, UtcDateTime):
        process = kind.dialect_impl(dialect).result_processor(dialect, None)
        assert process is not None
        return lambda value: process(_text(value))
    if isinstance(kind, String):
        return _text
    numbers: tuple[type, ...] = (int, float) if isinstance(kind, Float) else (int,)
    choices = (0, 1) if isinstance(kind, Boolean) else None
    assert isinstance(kind, Integer | Float | Boolean), kind
    return lambda value: _check_number(value, numbers, choices)


def _text(value: object) -> str:
    if not isinstance(value, bytes):
        raise TypeError("no text")
    return value.decode("utf-8")


def _check_number(value: object, numbers: tuple[type, ...], choices: tuple[int, ...] | None) -> None:
    if not isinstance(value, numbers) or (choices is not None and value not in choices):
        raise TypeError("no number")


def _check_json(table: str, column: str, value: Any) -> None:
    shapes = _SHAPES.get((table, column))
    if shapes is not None and not isinstance(value, shapes):
        raise TypeError("another shape")
    if (table, column) == ("experiment", "tuned") and value is not None:
        TuningInfo(**value)


def _kind(column: Column[Any]) -> str:
    kinds = ((JSON, "JSON value"), (UtcDateTime, "date"), (String, "text"), (Boolean, "truth value"))
    return next((name for kind, name in kinds if isinstance(column.type, kind)), "number")


def _shown(value: object) -> str:
    text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
    return repr(text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…") if isinstance(value, bytes) else text


def require_objects(*values: object) -> None:
    """Raise `TypeError` unless all JSON values are objects or None; `database.reading` names the row."""
    if not all(value is None or isinstance(value, dict) for value in values):
        raise TypeError("a JSON value is not an object")
