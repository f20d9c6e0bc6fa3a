"""Connections to the store's database: settings, transactions, and user-facing errors. Migrations: `migrate`.

Only this module, `migrate` and `maintenance` contain code that is specific to SQLite. PostgreSQL: `postgres`.
"""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, exc, func, make_url, select
from sqlalchemy.pool import NullPool

from ichx.errors import InvalidInputError, MissingDependencyError, StorageError, StoreError
from ichx.files import expand_user
from ichx.store import postgres

T = TypeVar("T")

BUSY_SECONDS: Final = 30.0
"""How long a transaction waits for another process; `?timeout=` in a SQLite URL overrides."""

_SQLITE_OPTIONS: Final = frozenset(
    {"timeout", "isolation_level", "detect_types", "check_same_thread", "cached_statements", "uri"}
)
"""Options of SQLite URLs."""
_ADVISORY_LOCK: Final = 0x69636878  # "ichx"
_WRITES: Final = "ichx_writes"
_PATIENCE: Final = "ichx_patience"
_URL_REMEDY: Final = "Set ICHX_STORE, or `store` in ichx.toml, to a path like /home/me/ichx.db, or a SQLAlchemy URL."
_GENERAL_REMEDY: Final = "Check that the database exists, is reachable and undamaged, then retry."
_NOT_UTF8: Final = "Could not decode to UTF-8"
_VALUE_REMEDY: Final = (
    "Correct it with another program, e.g. sqlite3, or restore a backup. `ichx store check` lists all invalid values."
)
_SCHEMA_REMEDY: Final = "`ichx store check` lists what is missing. Restore the store from a backup."
_SQLITE_REMEDIES: Final = {
    "no such table": _SCHEMA_REMEDY,
    "no such column": _SCHEMA_REMEDY,
    "database or disk is full": "Free some disk space, then rerun the command. No data was written partially.",
    "disk I/O error": "Check that the disk works and is neither full nor over its quota, then rerun the command.",
    "is locked": "Another process is writing to the store and does not finish. Wait for it or end it, then retry.",
    "not a database": "Use another store with ICHX_STORE or `store` in ichx.toml, or move that file away.",
    "malformed": "The file is damaged. Restore it from a backup.",
    "readonly database": "Make the file and its folder writable, or use another store with ICHX_STORE.",
    "unable to open database file": "Make its folder writable, or use another store with ICHX_STORE.",
}
"""Remedies by a part of SQLite's message."""


def connect(url: str | URL, *, patience: float | None = None) -> Engine:
    """Return an engine for `url`; the folder of a SQLite file is created. It does not read the database.

    A text without `://` is the path of a SQLite file.

    An engine belongs to the process that created it; a forked child needs its own.

    Args:
        url: The database.
        patience: Seconds for which a transaction waits for other processes, and is repeated while a server is away;
            default: `BUSY_SECONDS` and `postgres.AWAY_SECONDS`.

    Raises:
        InvalidInputError: The URL is invalid.
        MissingDependencyError: The driver of the database is not installed.
        StorageError: The folder of a SQLite file cannot be created.
    """
    parsed = parse_url(url)
    options: dict[str, Any] = {}
    if is_sqlite(parsed):
        seconds = BUSY_SECONDS if patience is None else patience
        options = {} if "timeout" in parsed.query else {"connect_args": {"timeout": seconds}}
        file = sqlite_file(parsed)
        if file is not None:
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StorageError(
                    f"Cannot create the folder of the store {file}: {error.strerror}.",
                    "Choose a writable folder, or set ICHX_STORE.",
                ) from error
    else:
        # A server has 100 connections by default. Hundreds of runs that each keep one between heartbeats exhaust it.
        options = {"poolclass": NullPool}
        if postgres.uses_libpq(parsed):
            options["connect_args"] = postgres.connect_options(parsed)
    try:
        engine = create_engine(parsed, execution_options={_PATIENCE: patience}, **options)
    except ModuleNotFoundError as error:
        raise _missing_driver(error) from error
    except (exc.ArgumentError, TypeError, ValueError) as error:
        raise InvalidInputError(f"Invalid URL of the store, {display_name(parsed)}: {error}.", _URL_REMEDY) from error
    if is_sqlite(parsed):
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        event.listen(engine, "checkin", _allow_writes)
    return engine


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Yield a connection in one read-only transaction, which sees one state of the store."""
    with _name_invalid_values(engine), translate_errors(engine.url), engine.connect() as connection:
        if is_postgres(engine.url):
            connection = connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        elif is_sqlite(engine.url):
            raw: Any = connection.connection.dbapi_connection
            raw.execute("PRAGMA query_only = 1")  # until `_allow_writes`
        yield connection


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """Yield a connection in one transaction; it is committed at the end, or rolled back by an exception.

    On SQLite it is the only writer from its start. On other databases the caller locks the rows it depends on.
    """
    begun = engine.execution_options(**{_WRITES: True}).begin()
    with _name_invalid_values(engine), translate_errors(engine.url), begun as connection:
        yield connection


def lock_changes(connection: Connection) -> None:
    """Let one transaction at a time pass on PostgreSQL; on SQLite a writer is alone from its start."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(_ADVISORY_LOCK)))


def read(engine: Engine, query: Callable[[Connection], T], note: Callable[[str], object]) -> T:
    """Return the result of `query` in one transaction; repeat it while the server is away.

    Args:
        engine: A database that has been reached before.
        query: May be called several times.
        note: Receives a line if the server is away.

    Raises:
        StoreError: The server was away for too long; see `postgres.AWAY_SECONDS`.
    """
    absence = _absence(engine, note)
    while True:
        try:
            with reading(engine) as connection:
                return query(connection)
        except StoreError as error:
            absence.wait(error)


def write(
    engine: Engine, query: Callable[[Connection], T], note: Callable[[str], object], *, repeatable: bool = True
) -> T:
    """Like `read`, for a `query` that changes records: they change once, even if the answer to a commit is lost.

    Args:
        engine: A database that has been reached before.
        query: May be called several times; nothing of an earlier call remains in the database.
        note: Receives a line if the server is away.
        repeatable: False: `query` changes more than the database and is called only once.
    """
    absence = _absence(engine, note)
    while True:
        transaction: int | None = None
        try:
            with writing(engine) as connection:
                result = query(connection)
                if is_postgres(engine.url):
                    transaction = postgres.transaction_id(connection)
            return result
        except StoreError as error:
            if not repeatable and transaction is None:
                raise
            absence.wait(error)
            lost = error
        if transaction is not None:
            if is_committed(engine, transaction, absence):
                return result
            if not repeatable:
                raise lost


def _absence(engine: Engine, note: Callable[[str], object]) -> postgres.Absence:
    return postgres.Absence(note, engine.get_execution_options()[_PATIENCE])


def is_committed(engine: Engine, transaction: int, absence: "postgres.Absence") -> bool:
    """Return whether a transaction whose commit was not confirmed has been committed."""
    while True:
        try:
            with reading(engine) as connection:
                committed = postgres.is_committed(connection, transaction)
        except StoreError as error:
            absence.wait(error)
            continue
        if committed is not None:
            return committed
        absence.wait_for_server()


@contextmanager
def _name_invalid_values(engine: Engine) -> Iterator[None]:
    """Raise `StoreError` with table, row and column if an error is due to a value that cannot be decoded."""
    try:
        yield
    except (ValueError, TypeError, StoreError) as error:
        if not isinstance(error, StoreError) or _NOT_UTF8 in error.problem:
            problems = []
            with suppress(sqlite3.Error):  # then the first error is the one to report
                problems = invalid_values(engine, limit=1)
            if problems:
                raise StoreError(
                    f"The store {display_name(engine.url)} has an invalid value: {problems[0]}.", _VALUE_REMEDY
                ) from error
        raise


def invalid_values(engine: Engine, *, limit: int) -> list[str]:
    """Return a line for each of the first `limit` values that cannot be decoded; none for databases with types."""
    from ichx.store.values import undecodable_values

    file = sqlite_file(engine.url) if is_sqlite(engine.url) else None
    if file is None:
        return []
    with closing(open_read_only(file)) as connection:
        return list(islice(undecodable_values(connection, engine.dialect), limit))


@contextmanager
def translate_errors(url: URL) -> Iterator[None]:
    """Raise `StoreError` for database failures that a user can fix; other exceptions are bugs and pass."""
    try:
        yield
    except (exc.DBAPIError, sqlite3.Error) as error:  # SQLAlchemy does not wrap errors of `_configure_sqlite`
        if isinstance(error, exc.DBAPIError) and is_postgres(url):
            if (found := postgres.as_user_error(display_name(url), error)) is None:
                raise
            raise found from error
        full = str(error.orig) if isinstance(error, exc.DBAPIError) else str(error)
        message = full.partition("\n")[0]
        remedy = next((r for sign, r in _SQLITE_REMEDIES.items() if is_sqlite(url) and sign in message), None)
        if remedy is None and not isinstance(error, exc.OperationalError):
            raise
        raise StoreError(f"The store {display_name(url)} failed: {message}.", remedy or _GENERAL_REMEDY) from error
    except OverflowError as error:
        problem = "A number in the request has more than 64 bits, which no number in a store has."
        raise InvalidInputError(problem, "Use a smaller number.") from error


def resolve_url(url: str, root: Path) -> URL:
    """Return `url` with a relative SQLite file resolved against `root` instead of the current directory."""
    parsed = parse_url(url)
    file = sqlite_file(parsed) if is_sqlite(parsed) else None
    return parsed if file is None else parsed.set(database=str(root / file))


def is_sqlite(url: URL) -> bool:
    """Return whether `url` is that of a SQLite database."""
    return url.get_backend_name() == "sqlite"


def is_postgres(url: URL) -> bool:
    """Return whether `url` is that of a PostgreSQL database."""
    return url.get_backend_name() == "postgresql"


def sqlite_file(url: URL) -> Path | None:
    """Return the file of a SQLite `url`; None for a database in memory and for URLs in SQLite's own URI form."""
    name = url.database
    return None if not name or name == ":memory:" or name.startswith("file:") else Path(name)


def open_read_only(file: Path) -> sqlite3.Connection:
    """Return a connection to a SQLite file that writes nothing."""
    # Readers of a file with write-ahead logging create files next to it, unless they know that nobody writes.
    alone = writes_ahead(file) and not Path(f"{file}-wal").exists() and not os.access(file.parent, os.W_OK)
    options = "mode=ro&immutable=1" if alone else "mode=ro"
    return sqlite3.connect(f"{file.resolve().as_uri()}?{options}", uri=True, timeout=BUSY_SECONDS)


def writes_ahead(file: Path) -> bool:
    """Return whether a SQLite file uses write-ahead logging; see https://www.sqlite.org/fileformat.html."""
    try:
        with file.open("rb") as handle:
            return handle.read(20)[18:] == b"\x02\x02"
    except OSError:
        return False


def display_name(url: URL) -> str:
    """Return the name of the store in messages: its file, or its URL without passwords."""
    file = sqlite_file(url) if is_sqlite(url) else None
    if file is not None:
        return str(file)
    secret = [name for name in url.query if "password" in name.lower()]
    return url.update_query_dict(dict.fromkeys(secret, "***")).render_as_string(hide_password=True)


def parse_url(url: str | URL) -> URL:
    """Return `url` as an object; a text without `://` is the path of a SQLite file, whatever characters it has.

    Raises:
        InvalidInputError: It is not a SQLAlchemy URL, or a path was pasted into one whose characters have a meaning,
            or the user of `~USER` is unknown.
        MissingDependencyError: The driver of the database is not installed.
    """
    if isinstance(url, str) and url and "://" not in url:
        url = URL.create("sqlite", database=str(expand_user(url)))
    try:
        parsed = postgres.with_driver(make_url(url))
        parsed.get_dialect()
    except ModuleNotFoundError as error:
        raise _missing_driver(error) from error
    except (exc.ArgumentError, ValueError) as error:  # without the URL: it may contain a password
        raise InvalidInputError(
            f"The URL of the store is not a SQLAlchemy URL ({type(error).__name__}).", _URL_REMEDY
        ) from error
    if "@" in (parsed.host or ""):  # what precedes it belongs to the password
        raise InvalidInputError("The URL of the store has several @.", "Write an @ of the password as %40.")
    if isinstance(url, str) and is_sqlite(parsed):
        _check_pasted_path(url, parsed)
    return parsed


def _check_pasted_path(text: str, parsed: URL) -> None:
    """Raise `InvalidInputError` if `?` or `%` in a path would put the SQLite file elsewhere."""
    path, _, query = text.partition(":///")[2].partition("?")
    unknown = [part for part in query.split("&") if query and part.partition("=")[0] not in _SQLITE_OPTIONS]
    decoded = Path(parsed.database or "")
    moved = str(decoded) != path and not decoded.parent.is_dir() and Path(path).parent.is_dir()
    if (unknown and "uri" not in parsed.query) or (moved and sqlite_file(parsed) is not None):
        wrong = "?" if unknown else "%"
        whole = path + ("?" + query if unknown else "")
        raise InvalidInputError(
            f"The URL of the store, {text}, contains {wrong!r}, which has a meaning in URLs.",
            f"Give the path instead of a URL: {whole}",
        )


def _missing_driver(error: ModuleNotFoundError) -> MissingDependencyError:
    package = '"ichx[postgres]"' if error.name == "psycopg" else error.name
    return MissingDependencyError(f"The store needs the package {error.name}.", f"Run `pip install {package}`.")


def _configure_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # sqlite3 would begin late, and commit before DDL: `_begin_sqlite` begins
    connection.execute("PRAGMA foreign_keys = ON")
    # FULL: with NORMAL a WAL commit may be lost in a power failure, and with it the number of an experiment, which
    # would be reused. The store writes a few rows per epoch, so one flush per transaction costs nothing.
    connection.execute("PRAGMA synchronous = FULL")


def _begin_sqlite(connection: Connection) -> None:
    # IMMEDIATE waits for the write lock now; upgrading a read lock later would fail at once.
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _allow_writes(connection: Any, _record: Any) -> None:
    """Undo `PRAGMA query_only` when a connection returns to the pool."""
    if connection is not None:  # None: it was closed
        connection.execute("PRAGMA query_only = 0")
