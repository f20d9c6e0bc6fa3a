"""The connection to the store's database: its settings, its transactions, and what its failures mean to a user.

SQLite's particulars stand here and in `migrate.py`, nowhere else in the store. No tables and no queries.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, exc, make_url

from ichx.errors import IchxError

BUSY_SECONDS = 30.0
"""How long a transaction waits for another process's; `?timeout=` in a SQLite URL overrides."""

_WRITES = "ichx_writes"


def connect(url: str) -> Engine:
    """Return an engine for `url`; a SQLite file's missing folder is made. Nothing is read yet.

    An engine belongs to the process that made it: a forked child opens its own.
    """
    parsed = _parse(url)
    options: dict[str, Any] = {}
    if is_sqlite(parsed):
        options = {} if "timeout" in parsed.query else {"connect_args": {"timeout": BUSY_SECONDS}}
        file = sqlite_file(parsed)
        if file is not None:
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                problem = f"cannot make the folder of the store {file}: {error.strerror}"
                raise IchxError(problem, "choose a writable place, or set ICHX_STORE") from error
    try:
        engine = create_engine(parsed, **options)
    except ModuleNotFoundError as error:
        raise IchxError(f"the store {shown(parsed)} needs the package {error.name}", f"install {error.name}") from error
    except (exc.ArgumentError, TypeError, ValueError) as error:
        raise IchxError(f"the store's URL {shown(parsed)} cannot be used: {error}", _URL_REMEDY) from error
    if is_sqlite(parsed):
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Yield a connection in one transaction that sees one state of the store."""
    with translated(engine.url), engine.connect() as connection:
        yield connection


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """Yield a connection in one transaction that is committed at the end, and undone by an exception.

    On SQLite it is the only writer from its beginning on; elsewhere the caller locks the row that it counts on.
    """
    with translated(engine.url), engine.execution_options(**{_WRITES: True}).begin() as connection:
        yield connection


@contextmanager
def translated(url: URL) -> Iterator[None]:
    """Turn the database failures that a user can mend into `IchxError`; others pass as the bugs they are."""
    try:
        yield
    except (exc.DBAPIError, sqlite3.Error) as error:  # a new connection's settings fail without SQLAlchemy around them
        message = str(error.orig) if isinstance(error, exc.DBAPIError) else str(error)
        remedy = _remedy(url, message)
        if remedy is None and not isinstance(error, exc.OperationalError):
            raise
        raise IchxError(f"the store {shown(url)} failed: {message}", remedy or _GENERAL_REMEDY) from error


def within(url: str, root: Path) -> str:
    """Return `url` with a relative SQLite file taken from `root`, so that the current directory does not matter."""
    parsed = _parse(url)
    file = sqlite_file(parsed) if is_sqlite(parsed) else None
    return url if file is None else parsed.set(database=str(root / file)).render_as_string(hide_password=False)


def is_sqlite(url: URL) -> bool:
    """Return whether `url` names a SQLite database."""
    return url.get_backend_name() == "sqlite"


def sqlite_file(url: URL) -> Path | None:
    """Return the file of a SQLite `url`; None in memory or where the driver reads a URI of its own."""
    name = url.database
    return None if not name or name == ":memory:" or name.startswith("file:") else Path(name)


def shown(url: URL) -> str:
    """Return how the store is called in messages: its file, or its URL without the password."""
    file = sqlite_file(url) if is_sqlite(url) else None
    return str(file) if file is not None else url.render_as_string(hide_password=True)


_URL_REMEDY = "give ICHX_STORE or `store` in ichx.toml a URL like sqlite:////home/me/ichx.db"
_GENERAL_REMEDY = "see that the database is there, reachable and whole, then try again"


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
        parsed.get_dialect()
    except ModuleNotFoundError as error:
        raise IchxError(f"the store's URL needs the package {error.name}", f"install {error.name}") from error
    except (exc.ArgumentError, ValueError) as error:  # the message leaves the URL out: it may hold a password
        raise IchxError(f"the store's URL is no SQLAlchemy URL ({type(error).__name__})", _URL_REMEDY) from error
    return parsed


def _configure_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # sqlite3 would begin late, and commit before DDL: we begin ourselves
    connection.execute("PRAGMA foreign_keys = ON")
    # FULL: in WAL a commit of NORMAL may vanish with the power, and an experiment's number with it could be given
    # twice. The store writes a few rows per epoch, so that its one flush per transaction costs nothing.
    connection.execute("PRAGMA synchronous = FULL")


def _begin_sqlite(connection: Connection) -> None:
    # IMMEDIATE takes the write lock at once and waits for it; a later upgrade of a read lock would fail unwaited.
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _remedy(url: URL, message: str) -> str | None:
    for sign, remedy in (
        ("database or disk is full", "free some disk space, then run the command again: nothing was half-written"),
        ("disk I/O error", "see that the disk is whole, not full and within its quota, then run the command again"),
        ("is locked", "another process is writing to it and does not finish: wait for it or end it, then try again"),
        ("not a database", "name another store with ICHX_STORE or `store` in ichx.toml, or move that file away"),
        ("malformed", "restore the file from a backup: it is damaged"),
        ("readonly database", "make the file and its folder writable, or name another store with ICHX_STORE"),
        ("unable to open database file", "make its folder writable, or name another store with ICHX_STORE"),
    ):
        if is_sqlite(url) and sign in message:
            return remedy
    return None
