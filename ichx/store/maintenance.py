"""Maintenance of a SQLite store: integrity check, backup, read-only SQL queries. Not for other databases."""

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from ichx.errors import ConflictError, CorruptFileError, InvalidInputError, StorageError, UnsupportedError
from ichx.files import atomic_path
from ichx.store import database
from ichx.store.migrate import HEAD
from ichx.store.tables import VERSION_TABLE

NETWORK_FILE_SYSTEMS = (
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "9p", "lustre", "gpfs", "beegfs", "ceph", "glusterfs",
    "fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "fuse.rclone",
)  # fmt: skip
"""File systems on which SQLite's locks are unreliable: https://www.sqlite.org/faq.html#q5."""

_MOUNTS = Path("/proc/self/mountinfo")
_ALLOWED = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE})
_QUERY_REMEDY = "Use one SELECT statement; `ichx store schema` lists the tables."
_TICK = 100_000
"""Instructions of SQLite's virtual machine between two checks for Ctrl-C."""


@dataclass(frozen=True)
class CheckResult:
    """The result of one check."""

    what: str
    """What was checked."""
    problems: tuple[str, ...]


@dataclass(frozen=True)
class QueryResult:
    """The result of a SQL query."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


def check_file(engine: Engine) -> list[CheckResult]:
    """Check pages, references, version and location of the store's file; no checks for other databases."""
    if not database.is_sqlite(engine.url):
        return []
    found = []
    with database.reading(engine) as connection:
        lines = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
        found.append(CheckResult("pages and indices", tuple(line for line in lines if line != "ok")))
        broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
        problems = tuple(f"{row[0]} row {row[1]} refers to a missing {row[2]}" for row in broken[:20])
        found.append(CheckResult("references between tables", problems))
        stamps = connection.exec_driver_sql(f"SELECT version_num FROM {VERSION_TABLE}").scalars().all()
        problems = () if list(stamps) == [HEAD] else (f"version stamps are {stamps}, not {HEAD}",)
        found.append(CheckResult(f"version {HEAD}", problems))
    network = network_file_system(engine)
    problems = (f"its folder is on a network file system ({network}), where locks may fail",) if network else ()
    found.append(CheckResult("local disk", problems))
    return found


def back_up(engine: Engine, target: Path) -> int:
    """Copy the store to `target`; see `copy_database`."""
    return copy_database(_file(engine), target)


def copy_database(file: Path, target: Path) -> int:
    """Copy the SQLite database `file` to `target`, while others may write to it; return the size of the copy in bytes.

    Raises:
        ConflictError: `target` exists.
        CorruptFileError: The database is damaged.
        StorageError: `target` cannot be written.
    """
    if target.exists():
        raise ConflictError(f"{target} already exists.", "Use another file name.")
    try:
        with (
            atomic_path(target) as draft,
            contextlib.closing(_read_only(file)) as source,
            contextlib.closing(sqlite3.connect(draft)) as copy,
        ):
            source.backup(copy)
            if copy.execute("PRAGMA integrity_check").fetchone() != ("ok",):
                raise CorruptFileError(f"The copy of {file} is damaged.", "Run `ichx store check` to check the store.")
            copy.execute("PRAGMA journal_mode = DELETE")  # a single file, without -wal and -shm
    except (OSError, sqlite3.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise StorageError(
            f"Cannot copy {file.name} to {target}: {reason}.", "Choose a writable place with enough space."
        ) from error
    return target.stat().st_size


def query(engine: Engine, sql: str) -> QueryResult:
    """Return the result of one SELECT statement. The file is opened read-only, and other statements are rejected.

    Raises:
        InvalidInputError: `sql` is not one valid SELECT statement.
        UnsupportedError: The store is not a SQLite file.
    """
    with contextlib.closing(_read_only(_file(engine))) as connection, _interruptible(connection):
        connection.set_authorizer(_authorize)
        try:
            cursor = connection.execute(sql)
            rows = cursor.fetchall()
        except (sqlite3.Error, sqlite3.Warning) as error:
            if str(error) == "interrupted":
                raise KeyboardInterrupt from error
            reason = str(error).replace("not authorized", "only reading is allowed")
            raise InvalidInputError(f"The query failed: {reason}.", _QUERY_REMEDY) from error
        if cursor.description is None:
            raise InvalidInputError("The query returns no table.", _QUERY_REMEDY)
    return QueryResult(tuple(column[0] for column in cursor.description), rows)


def network_file_system(engine: Engine) -> str | None:
    """Return the network file system of the store's file; None for a local disk, or if unknown."""
    file = database.sqlite_file(engine.url) if database.is_sqlite(engine.url) else None
    if file is None:
        return None
    try:
        lines = _MOUNTS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None  # not Linux
    return network_mount(file.resolve(), lines)


def network_mount(file: Path, mounts: list[str]) -> str | None:
    """Return the network file system of `file` according to lines of mountinfo(5); None for a local one."""
    longest, kind = "", ""
    for line in mounts:
        left, _, right = line.partition(" - ")
        point = left.split()[4].encode().decode("unicode_escape")
        if file.is_relative_to(point) and len(point) >= len(longest):
            longest, kind = point, right.split()[0]
    return kind if kind in NETWORK_FILE_SYSTEMS else None


def _file(engine: Engine) -> Path:
    file = database.sqlite_file(engine.url) if database.is_sqlite(engine.url) else None
    if file is None:
        raise UnsupportedError(
            f"The store {database.display_name(engine.url)} is not a SQLite file.",
            "Use the client of that database instead.",
        )
    return file


def _read_only(file: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True, timeout=database.BUSY_SECONDS)


def _authorize(action: int, _first: str | None, _second: str | None, _db: str | None, _trigger: str | None) -> int:
    return sqlite3.SQLITE_OK if action in _ALLOWED else sqlite3.SQLITE_DENY


@contextlib.contextmanager
def _interruptible(connection: sqlite3.Connection) -> Iterator[None]:
    """Let Ctrl-C interrupt SQLite: Python's signal handlers run only between bytecode instructions."""
    connection.set_progress_handler(lambda: 0, _TICK)
    try:
        yield
    finally:
        connection.set_progress_handler(None, 0)
