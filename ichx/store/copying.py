"""Copying all records of a store to another database, e.g. from SQLite to PostgreSQL."""

from sqlalchemy import Connection, Engine, Integer, Table, func, insert, select, text

from ichx.errors import ConflictError
from ichx.store import database, runs
from ichx.store.clock import store_time
from ichx.store.tables import METADATA, counter, dataset, experiment, run

_ROWS = 1000
"""Rows of one statement."""


def check_empty(target: Engine) -> None:
    """Raise `ConflictError` if the store `target` has records."""
    with database.reading(target) as connection:
        for table in METADATA.sorted_tables:
            if table is not counter and connection.scalar(select(func.count()).select_from(table)):
                raise ConflictError(
                    f"The store {database.display_name(target.url)} has records in its table {table.name}.",
                    "Choose an empty database.",
                )


def copy_records(old: Connection, target: Engine) -> dict[str, int]:
    """Copy all records to the empty store `target`, in one transaction; return the number of rows by table.

    Raises:
        ConflictError: A run is active in `old`.
    """
    _check_idle(old)
    with database.writing(target) as new:
        new.execute(counter.delete())
        return {table.name: _copy_table(old, new, table) for table in METADATA.sorted_tables}


def _check_idle(connection: Connection) -> None:
    now = store_time(connection)
    for row in connection.execute(select(*runs.STATE_COLUMNS).where(run.c.state == "running")):
        if runs.current_state(row, now) in runs.LIVE_STATES:
            raise ConflictError(
                f"Fold {row.fold} of experiment {row.experiment} is running in process {row.pid} on {row.host}.",
                "Wait for it, or end that run first.",
            )


def _copy_table(old: Connection, new: Connection, table: Table) -> int:
    # Referenced rows of the same table come first: training sets before test sets, parents before children.
    order = {dataset: dataset.c.test_of.is_not(None), experiment: experiment.c.number}.get(table)
    query = select(table) if order is None else select(table).order_by(order)
    copied = 0
    for rows in old.execution_options(yield_per=_ROWS).execute(query).mappings().partitions():
        new.execute(insert(table), [dict(row) for row in rows])
        copied += len(rows)
    key = table.autoincrement_column
    if copied and key is not None and isinstance(key.type, Integer) and new.dialect.name == "postgresql":
        # Rows with a given key do not advance the sequence.
        name = f"pg_get_serial_sequence('{table.name}', '{key.name}')"
        new.execute(text(f"SELECT setval({name}, (SELECT max({key.name}) FROM {table.name}))"))
    return copied
