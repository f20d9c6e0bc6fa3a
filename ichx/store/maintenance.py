"""Care for the store's file: whether it is whole, a copy while others write, questions in SQL that change nothing.

SQLite only; another database has tools of its own for this.
"""

import contextlib
import os
import secrets
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from ichx.errors import IchxError
from ichx.store import database
from ichx.store.migrate import HEAD
from ichx.store.tables import VERSION_TABLE

NETWORK_FILE_SYSTEMS = (
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "9p", "lustre", "gpfs", "beegfs", "ceph", "glusterfs",
    "fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "fuse.rclone",
)  # fmt: skip
"""Kinds of mounts on which SQLite's locks are not to be trusted: https://www.sqlite.org/faq.html#q5."""

_MOUNTS = Path("/proc/self/mountinfo")
_ALLOWED = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE})
_QUESTION = "ask one SELECT; `ichx store schema` lists the tables"
_TICK = 100_000
"""Steps of SQLite's machine between two chances for Ctrl-C."""


@dataclass(frozen=True)
class Checked:
    """One thing that was looked at, and every problem that was found there."""

    what: str
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """What a question in SQL came to."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


def check_file(engine: Engine) -> list[Checked]:
    """Return what is wrong with the store's file: its pages, its references, its version, where it lies."""
    if not database.is_sqlite(engine.url):
        return []
    found = []
    with database.reading(engine) as connection:
        said = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
        found.append(Checked("every page and index", tuple(line for line in said if line != "ok")))
        broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
        lines = tuple(f"{row[0]} row {row[1]} refers to a missing {row[2]}" for row in broken[:20])
        found.append(Checked("references between tables", lines))
        stamps = connection.exec_driver_sql(f"SELECT version_num FROM {VERSION_TABLE}").scalars().all()
        wrong = () if list(stamps) == [HEAD] else (f"version stamps are {stamps}, not {HEAD}",)
        found.append(Checked(f"version {HEAD}", wrong))
    network = network_file_system(engine)
    lies = (f"its folder is on a network file system ({network}): locks may fail there",) if network else ()
    found.append(Checked("a disk of this machine", lies))
    return found


def back_up(engine: Engine, target: Path) -> int:
    """Write a whole copy of the store to `target`, as `copy_database` does."""
    return copy_database(_file(engine), target)


def copy_database(file: Path, target: Path) -> int:
    """Write a whole copy of the SQLite database `file` to `target`, while others may write to it; return its bytes.

    Raises `IchxError` where `target` is there already or cannot be written; no half-written file is left.
    """
    if target.exists():
        raise IchxError(f"{target} is there already", "name another file")
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(_read_only(file)) as source, contextlib.closing(sqlite3.connect(draft)) as copy:
            source.backup(copy)
            if copy.execute("PRAGMA integrity_check").fetchone() != ("ok",):
                raise IchxError(f"the copy of {file} is damaged", "`ichx store check` tells whether the store is whole")
            copy.execute("PRAGMA journal_mode = DELETE")  # one file, that needs no other beside it
        with draft.open("rb+") as handle:
            os.fsync(handle.fileno())
        draft.replace(target)
    except (OSError, sqlite3.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise IchxError(
            f"cannot copy {file.name} to {target}: {reason}", "choose a writable place with enough space"
        ) from error
    finally:
        if draft.exists():
            draft.unlink()
    return target.stat().st_size


def ask(engine: Engine, question: str) -> Answer:
    """Return what one SELECT comes to. The file is opened to be read only, and everything but reading is refused.

    Raises `IchxError` for anything else than one whole SELECT.
    """
    with contextlib.closing(_read_only(_file(engine))) as connection, _interruptible(connection):
        connection.set_authorizer(_authorize)
        try:
            cursor = connection.execute(question)
            rows = cursor.fetchall()
        except (sqlite3.Error, sqlite3.Warning) as error:
            if str(error) == "interrupted":
                raise KeyboardInterrupt from error
            told = str(error).replace("not authorized", "only reading is allowed")
            raise IchxError(f"the question failed: {told}", _QUESTION) from error
        if cursor.description is None:
            raise IchxError("that is no question", _QUESTION)
    return Answer(tuple(column[0] for column in cursor.description), rows)


def network_file_system(engine: Engine) -> str | None:
    """Return the kind of network file system that the store's file lies on; None on a local disk, or where unknown."""
    file = database.sqlite_file(engine.url) if database.is_sqlite(engine.url) else None
    if file is None:
        return None
    try:
        lines = _MOUNTS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None  # no Linux
    return mount_kind(file.resolve(), lines)


def mount_kind(file: Path, mounts: list[str]) -> str | None:
    """Return the network file system on which `file` lies after lines of mountinfo(5); None for a local one."""
    best, kind = "", ""
    for line in mounts:
        left, _, right = line.partition(" - ")
        point = left.split()[4].encode().decode("unicode_escape")
        if file.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, right.split()[0]
    return kind if kind in NETWORK_FILE_SYSTEMS else None


def _file(engine: Engine) -> Path:
    file = database.sqlite_file(engine.url) if database.is_sqlite(engine.url) else None
    if file is None:
        raise IchxError(
            f"the store {database.shown(engine.url)} is no SQLite file", "use that database's own client for this"
        )
    return file


def _read_only(file: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True, timeout=database.BUSY_SECONDS)


def _authorize(action: int, _first: str | None, _second: str | None, _db: str | None, _trigger: str | None) -> int:
    return sqlite3.SQLITE_OK if action in _ALLOWED else sqlite3.SQLITE_DENY


@contextlib.contextmanager
def _interruptible(connection: sqlite3.Connection) -> Iterator[None]:
    """Let Ctrl-C through while SQLite works: Python's handlers run only between steps."""
    connection.set_progress_handler(lambda: 0, _TICK)
    try:
        yield
    finally:
        connection.set_progress_handler(None, 0)
