"""Connections to Optuna's storage: a SQLite file, or the PostgreSQL database of the store."""

import contextlib
import sqlite3
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
from optuna.storages import RDBStorage
from sqlalchemy import URL, QueuePool
from sqlalchemy.exc import SQLAlchemyError

from ichx.errors import NotFoundError, StoreError
from ichx.store.database import display_name, is_sqlite
from ichx.tuning.server_storage import connect_server

BUSY_SECONDS = 30.0
"""Time that SQLite waits for another process."""
_FILE_REMEDY = (
    "Check the disk and the version of Optuna, then rerun the command to resume. A damaged file can be moved away: "
    "the study starts from scratch, and its trials stay as experiments."
)


def connect(url: URL, *, note: Callable[[str], object] = lambda message: None, read_only: bool = False) -> RDBStorage:
    """Return Optuna's storage at `url`; the path of a SQLite file may contain characters that have a meaning in URLs.

    Raises:
        NotFoundError: It is `read_only` and does not exist.
        StoreError: The database cannot be used, or was created by another version of Optuna.
    """
    with quiet_optuna(), storage_errors(url, RuntimeError, sqlite3.Error):
        if not is_sqlite(url):
            return connect_server(url, note, create=not read_only)
        path = Path(url.database or "")
        if not read_only:
            _enable_wal(path)
        elif not path.is_file():
            raise NotFoundError(f"There is no file {path}.", "`ichx tune` creates it.")
        uri = f"{path.as_uri()}?mode={'ro' if read_only else 'rwc'}"

        def open_file() -> sqlite3.Connection:
            return sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, check_same_thread=False)

        return RDBStorage("sqlite://", engine_kwargs={"creator": open_file, "poolclass": QueuePool})


@contextlib.contextmanager
def storage_errors(url: URL, *more: type[Exception]) -> Iterator[None]:
    """Raise `StoreError` for errors of Optuna's storage at `url`, and for the types `more`."""
    expected: tuple[type[Exception], ...] = (SQLAlchemyError, optuna.exceptions.StorageInternalError, *more)
    try:
        yield
    except expected as error:
        raise StoreError(
            f"Cannot use {'' if is_sqlite(url) else 'the Optuna studies in '}{display_name(url)}: {_reason(error)}.",
            _FILE_REMEDY if is_sqlite(url) else "Check the version of Optuna, then rerun the command to resume.",
        ) from error


def _reason(error: BaseException) -> str:
    """Return the root cause of an error of Optuna's storage, whose message only mentions a commit."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).splitlines() or [type(error).__name__])[0]


def _enable_wal(path: Path) -> None:
    """Let SQLite write ahead: a process that is killed while writing leaves a file that can be read at once."""
    with contextlib.closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")


@contextlib.contextmanager
def quiet_optuna() -> Iterator[None]:
    """Silence Optuna's messages in this block and restore its settings afterwards."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            warnings.filterwarnings("ignore", "Heartbeat of storage")  # ichx sends them itself, see `send_heartbeat`
            yield
    finally:
        optuna.logging.set_verbosity(level)
