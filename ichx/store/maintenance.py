"""Maintenance of a store: integrity check, backup, and read-only SQL queries of a SQLite store."""

import contextlib
import resource
import sqlite3
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, exc, exists, func, inspect, select, text

from ichx.errors import (
    ConflictError,
    CorruptFileError,
    IchxError,
    InvalidInputError,
    ResourceError,
    StorageError,
    UnsupportedError,
)
from ichx.files import atomic_path
from ichx.store import database
from ichx.store.migrate import HEAD, prepare
from ichx.store.tables import METADATA, VERSION_TABLE
from ichx.text import format_bytes

_STATM = Path("/proc/self/statm")
_ALLOWED = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE})
_QUERY_REMEDY = "Use one SELECT statement; `ichx store schema` lists the tables."
_LIMIT_REMEDY = "Ask for less, e.g. with LIMIT, or allow more: `ichx store sql --timeout 10m --memory 4GB`."
_TICK = 100_000
"""Instructions of SQLite's virtual machine between two checks of the limits."""


@dataclass(frozen=True)
class CheckResult:
    """The result of one check."""

    what: str
    """What was checked."""
    problems: tuple[str, ...]


@dataclass(frozen=True)
class QueryLimits:
    """What a query may use before it is ended."""

    seconds: float = 60.0
    nbytes: int = 1_000_000_000
    """Memory for the result and for SQLite's temporary tables."""


@dataclass(frozen=True)
class QueryResult:
    """The result of a SQL query."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


def check_file(engine: Engine, network: str | None) -> list[CheckResult]:
    """Check rows, references, version, tables, values and location of a store.

    Args:
        engine: The store, or a copy of it.
        network: The network file system on which the store itself is; None for a local disk.
    """
    if not database.is_sqlite(engine.url):
        return _check_server(engine)
    found = []
    with database.reading(engine) as connection:
        lines = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
        found.append(CheckResult("pages and indices", tuple(line for line in lines if line != "ok")))
        found.append(_check_tables(connection))
        found.append(CheckResult("references between tables", _broken_references(connection)))
        found.append(_check_version(connection))
    found.append(CheckResult("dates, JSON and other values", tuple(database.invalid_values(engine, limit=20))))
    problems = (f"its folder is on a network file system ({network}), where locks may fail",) if network else ()
    found.append(CheckResult("local disk", problems))
    return found


def _check_server(engine: Engine) -> list[CheckResult]:
    """Check a store on a server. It checks types itself, and each row that it reads has passed its page's checksum."""
    with database.reading(engine) as connection:
        tables = _check_tables(connection)
        found = [tables, _check_version(connection)]
    problems = []
    for table in METADATA.sorted_tables if not tables.problems else ():
        try:
            with database.reading(engine) as connection:  # a transaction ends with its first error
                for _ in connection.execute(select(table), execution_options={"yield_per": 1000}):
                    pass
        except (IchxError, exc.DBAPIError, ValueError, TypeError) as error:
            reason = error.problem if isinstance(error, IchxError) else str(error).partition("\n")[0]
            problems.append(f"the table {table.name}: {reason}")
    found.append(CheckResult("rows of all tables", tuple(problems)))
    if tables.problems:
        return found
    with database.reading(engine) as connection:
        found.append(CheckResult("references between tables", tuple(_missing_rows(connection))))
        if database.is_postgres(engine.url):
            found.append(CheckResult("sequences of keys", tuple(_late_sequences(connection))))
    return found


def _missing_rows(connection: Connection) -> Iterator[str]:
    """Yield a line for each reference to rows that do not exist, e.g. because a check was disabled."""
    for table in METADATA.sorted_tables:
        for key in table.foreign_keys:
            other = key.column.table.alias()
            missing = ~exists().where(other.c[key.column.name] == key.parent)
            count = connection.scalar(select(func.count()).select_from(table).where(key.parent.is_not(None), missing))
            if count:
                yield f"{count:,} rows of {table.name} refer to a missing {key.column.table.name} ({key.parent.name})"


def _late_sequences(connection: Connection) -> Iterator[str]:
    """Yield a line for each sequence that would assign a key that exists already."""
    for table in METADATA.sorted_tables:
        key = table.autoincrement_column
        name = None if key is None else connection.scalar(select(func.pg_get_serial_sequence(table.name, key.name)))
        if key is None or name is None:
            continue
        following = connection.scalar(text(f"SELECT last_value + is_called::int FROM {name}"))
        last = connection.scalar(select(func.max(key)))
        if last is not None and last >= following:
            yield f"the next key of {table.name} would be {following}, but {last} exists"


def _check_version(connection: Connection) -> CheckResult:
    stamps = connection.exec_driver_sql(f"SELECT version_num FROM {VERSION_TABLE}").scalars().all()
    problems = () if list(stamps) == [HEAD] else (f"version stamps are {stamps}, not {HEAD}",)
    return CheckResult(f"version {HEAD}", problems)


def _check_tables(connection: Connection) -> CheckResult:
    """Compare tables, columns and indices with those of this version; more of them are allowed."""
    inspector = inspect(connection)
    tables = set(inspector.get_table_names())
    problems = []
    for table in METADATA.sorted_tables:
        if table.name not in tables:
            problems.append(f"the table {table.name} is missing")
            continue
        columns = {column["name"] for column in inspector.get_columns(table.name)}
        problems += [
            f"the column {column.name} of the table {table.name} is missing"
            for column in table.columns
            if column.name not in columns
        ]
        indexed = {index["name"] for index in inspector.get_indexes(table.name)}
        problems += [
            f"the index {index.name} of the table {table.name} is missing"
            for index in sorted(table.indexes, key=lambda index: str(index.name))
            if index.name not in indexed
        ]
    return CheckResult("tables, columns and indices", tuple(problems))


def _broken_references(connection: Connection) -> tuple[str, ...]:
    try:
        broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
    except exc.OperationalError as error:  # a missing table
        return (str(error.orig),)
    return tuple(f"{row[0]} row {row[1]} refers to a missing {row[2]}" for row in broken[:20])


def back_up(engine: Engine, target: Path) -> int:
    """Copy the store to the SQLite file `target`; see `copy_database`. Rows of a server are copied and verified."""
    if not database.is_postgres(engine.url):
        return copy_database(_file(engine), target)
    from ichx.store.copying import copy_records

    with new_sqlite_file(target) as draft:
        copy = database.connect(str(draft))
        try:
            prepare(copy)
            with database.reading(engine) as connection:
                copy_records(connection, copy)
        finally:
            copy.dispose()
    return target.stat().st_size


@contextlib.contextmanager
def new_sqlite_file(target: Path, source: str = "") -> Iterator[Path]:
    """Yield the path of a draft that becomes the SQLite database `target`, a single file, if the block succeeds.

    Args:
        target: The new file.
        source: Name of the file that is copied, for messages.

    Raises:
        ConflictError: `target` exists.
        StorageError: `target` cannot be written.
    """
    if target.exists():
        raise ConflictError(f"{target} already exists.", "Use another file name.")
    try:
        with atomic_path(target) as draft:
            yield draft
            with contextlib.closing(sqlite3.connect(draft)) as copy:
                copy.execute("PRAGMA journal_mode = DELETE")  # without -wal and -shm
    except (OSError, sqlite3.Error) as error:
        what = f"copy {source} to" if source else "write"
        reason = error.strerror if isinstance(error, OSError) else str(error)
        remedy = "Choose a writable place with enough space."
        raise StorageError(f"Cannot {what} {target}: {reason}.", remedy) from error


def copy_database(file: Path, target: Path) -> int:
    """Copy the SQLite database `file` to `target`, while others may write to it; return the size of the copy in bytes.

    Raises like `new_sqlite_file`, and `CorruptFileError` if the database is damaged.
    """
    with (
        new_sqlite_file(target, file.name) as draft,
        contextlib.closing(database.open_read_only(file)) as source,
        contextlib.closing(sqlite3.connect(draft)) as copy,
    ):
        source.backup(copy)
        if copy.execute("PRAGMA integrity_check").fetchone() != ("ok",):
            raise CorruptFileError(f"The copy of {file} is damaged.", "Run `ichx store check` to check the store.")
    return target.stat().st_size


def query(engine: Engine, sql: str, limits: QueryLimits) -> QueryResult:
    """Return the result of one SELECT statement. The file is opened read-only, and other statements are rejected.

    Raises:
        InvalidInputError: `sql` is not one valid SELECT statement.
        ResourceError: It takes longer, or needs more memory, than `limits` allow.
        UnsupportedError: The store is not a SQLite file.
    """
    with contextlib.closing(database.open_read_only(_file(engine))) as connection:
        connection.execute("PRAGMA temp_store = MEMORY")  # an endless query must not fill the disk either
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, min(limits.nbytes, 1_000_000_000))
        connection.set_authorizer(_authorize)
        guard = _Guard(limits)
        connection.set_progress_handler(guard.check, _TICK)
        try:
            cursor = connection.execute(sql)
            rows = []
            for row in cursor:
                guard.add(row)
                rows.append(row)
        except (sqlite3.Error, sqlite3.Warning, MemoryError, OverflowError) as error:
            if guard.exceeded:
                raise ResourceError(guard.exceeded, _LIMIT_REMEDY) from error
            if str(error) == "interrupted":
                raise KeyboardInterrupt from error
            if "too big" in str(error):
                raise ResourceError(f"A value is larger than {format_bytes(limits.nbytes)}.", _LIMIT_REMEDY) from error
            reason = str(error).replace("not authorized", "only reading is allowed")
            raise InvalidInputError(f"The query failed: {reason}.", _QUERY_REMEDY) from error
        if cursor.description is None:
            raise InvalidInputError("The query returns no table.", _QUERY_REMEDY)
    return QueryResult(tuple(column[0] for column in cursor.description), rows)


class _Guard:
    """Ends a query at its limits. SQLite calls `check` regularly, which also lets Ctrl-C interrupt it.

    Python's signal handlers run only between bytecode instructions; an exception in a callback ends the query.
    """

    def __init__(self, limits: QueryLimits) -> None:
        self.exceeded: str | None = None
        self._limits = limits
        self._deadline = time.monotonic() + limits.seconds
        self._memory = _resident_bytes()
        self._nbytes = 0

    def check(self) -> bool:
        """Return whether to end the query."""
        if time.monotonic() > self._deadline:
            self.exceeded = f"The query takes longer than {self._limits.seconds:g} s."
        elif _resident_bytes() - self._memory > self._limits.nbytes:
            self.exceeded = f"The query needs more memory than {format_bytes(self._limits.nbytes)}."
        return self.exceeded is not None

    def add(self, row: tuple[Any, ...]) -> None:
        """Count a row; its values may be large although SQLite works little for them."""
        self._nbytes += 64 + sum(len(value) if isinstance(value, str | bytes) else 8 for value in row)
        if self._nbytes > self._limits.nbytes:
            self.exceeded = f"The result is larger than {format_bytes(self._limits.nbytes)}."
            raise MemoryError


def _resident_bytes() -> int:
    """Return the memory of this process, or its largest so far."""
    try:
        return int(_STATM.read_bytes().split()[1]) * resource.getpagesize()
    except OSError:  # not Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _file(engine: Engine) -> Path:
    file = database.sqlite_file(engine.url) if database.is_sqlite(engine.url) else None
    if file is None:
        raise UnsupportedError(
            f"The store {database.display_name(engine.url)} is not a SQLite file.",
            "Use the client of that database instead.",
        )
    return file


def _authorize(action: int, _first: str | None, _second: str | None, _db: str | None, _trigger: str | None) -> int:
    return sqlite3.SQLITE_OK if action in _ALLOWED else sqlite3.SQLITE_DENY
