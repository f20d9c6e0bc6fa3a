"""Copying all rows between databases, e.g. from SQLite to PostgreSQL, verified by number and content.

`ichx.store.transfer` copies and moves stores, `ichx.tuning.study_transfer` Optuna's studies.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Engine, Integer, Row, Table, exc, func, insert, select, text

from ichx.errors import ConflictError, StoreError
from ichx.store import database, runs
from ichx.store.clock import store_time
from ichx.store.tables import METADATA, counter, dataset, experiment, run

_ROWS: Final = 1000
"""Rows of one statement."""
_MODULUS: Final = 1 << 256


class _Content:
    """Number and digest of the rows of a table, whatever their order: databases sort text differently."""

    def __init__(self) -> None:
        self.rows, self._sum = 0, 0

    def add(self, rows: Iterable[Row[Any]]) -> None:
        """Add rows, whose values are Python's and therefore the same for every database."""
        for row in rows:
            self.rows += 1
            digest = hashlib.sha256(repr(tuple(row)).encode("utf-8", "backslashreplace")).digest()
            self._sum = (self._sum + int.from_bytes(digest, "big")) % _MODULUS

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Content) and (self.rows, self._sum) == (other.rows, other._sum)

    __hash__ = None  # type: ignore[assignment]


def check_empty(target: Engine) -> None:
    """Raise `ConflictError` if the store `target` has records."""
    with database.reading(target) as connection:
        for table in METADATA.sorted_tables:
            if table is not counter and connection.scalar(select(func.count()).select_from(table)):
                raise ConflictError(
                    f"The store {database.display_name(target.url)} has records in its table {table.name}.",
                    "Choose an empty database.",
                )


def check_idle(connection: Connection) -> None:
    """Raise `ConflictError` if a run is active."""
    now = store_time(connection)
    for row in connection.execute(select(*runs.STATE_COLUMNS).where(run.c.state == "running")):
        if runs.current_state(row, now) in runs.LIVE_STATES:
            raise ConflictError(
                f"Fold {row.fold} of experiment {row.experiment} is running in process {row.pid} on {row.host}.",
                "Wait for it, or end that run first.",
            )


def copy_records(old: Connection, target: Engine) -> dict[str, int]:
    """Copy all records to the empty store `target`, in one transaction; return the number of rows by table.

    Raises:
        StoreError: The copy differs, or `target` cannot store a value.
    """
    return copy_tables(old, target, METADATA.sorted_tables)


def copy_tables(old: Connection, target: Engine, tables: Sequence[Table]) -> dict[str, int]:
    """Copy all rows of `tables`, referred ones first, and verify them, in one transaction. Earlier rows are replaced.

    Raises:
        StoreError: The copy differs, or `target` cannot store a value.
    """
    with database.writing(target) as new:
        for table in reversed(tables):
            new.execute(table.delete())
        return {table.name: _copy_table(old, new, table) for table in tables}


def _copy_table(old: Connection, new: Connection, table: Table) -> int:
    # Referred rows of the same table come first: training sets before test sets, parents before children.
    order = {dataset: dataset.c.test_of.is_not(None), experiment: experiment.c.number}.get(table)
    query = select(table) if order is None else select(table).order_by(order)
    source, copy = _Content(), _Content()
    for rows in old.execute(query, execution_options={"yield_per": _ROWS}).partitions():
        source.add(rows)
        _insert(new, table, [dict(row._mapping) for row in rows])
    for rows in new.execute(select(table), execution_options={"yield_per": _ROWS}).partitions():
        copy.add(rows)
    if source != copy:
        raise StoreError(
            f"The copy of the table {table.name} in {database.display_name(new.engine.url)} differs: it has "
            f"{copy.rows:,} rows of {source.rows:,}, or other values.",
            "Nothing was copied. Run `ichx store check` to check the store, then retry.",
        )
    key = table.autoincrement_column
    if source.rows and key is not None and isinstance(key.type, Integer) and new.dialect.name == "postgresql":
        # Rows with a given key do not advance the sequence.
        name = f"pg_get_serial_sequence('{table.name}', '{key.name}')"
        new.execute(text(f"SELECT setval({name}, (SELECT max({key.name}) FROM {table.name}))"))
    return source.rows


def _insert(new: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    """Insert rows; raise `StoreError` with the first one that the database cannot store."""
    try:
        with new.begin_nested():
            new.execute(insert(table), rows)
    except exc.DataError:
        for row in rows:
            try:
                with new.begin_nested():
                    new.execute(insert(table), [row])
            except exc.DataError as error:
                key = ", ".join(f"{column.name} {row[column.name]!r}" for column in table.primary_key)
                reason = str(error.orig).partition("\n")[0]
                raise StoreError(
                    f"The database cannot store the row {key} of the table {table.name}: {reason}.",
                    "Correct that value, then retry. Nothing was copied.",
                ) from error
        raise
