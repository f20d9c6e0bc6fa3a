"""PostgreSQL: settings of connections, user-facing errors, and waiting for a server that is away.

Refusals of the server (a wrong password, no such database) are distinguished by their SQLSTATE or, before a connection
exists, by their text: https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

import importlib.util
import time
from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import URL, Connection, exc, func, select

from ichx.errors import IchxError, InvalidInputError, StoreError

AWAY_SECONDS: Final = 120.0
"""How long a transaction is repeated while the server is away."""

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0
"""Seconds between two attempts, at most. Other hosts consider a run dead 90 s after its last heartbeat."""

_DRIVERS: Final = ("psycopg", "psycopg2")
_CONNECT_OPTIONS: Final = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
    "fallback_application_name": "ichx",
}
"""Options of libpq: a server whose machine vanished is noticed within a minute. Options in the URL override."""

_RETRY_STATES: Final = ("08", "40001", "40P01", "53300", "57P01", "57P02", "57P03")
"""SQLSTATEs, or classes of them, of failures that pass: connections, deadlocks, a server that starts or stops."""
_USER_STATES: Final = ("08", "25006", "40", "42501", "42P01", "42703", "53", "57", "58", "XX")
"""SQLSTATEs, or classes of them, of failures that a user can fix; any other is a bug."""

_REMEDIES: Final = {
    "too many": "End other clients, or raise max_connections of the server.",
    "connection slots": "End other clients, or raise max_connections of the server.",
    "permission denied": "Make the user the owner of the database, or grant it CREATE on the schema public.",
    "read-only transaction": "This server is a standby, or read-only. Use the primary server.",
    "No space left": "Free some disk space on the server, then rerun the command.",
    "no pg_hba.conf entry": "Ask the administrator to allow this machine, user and database in pg_hba.conf.",
    "password": "Correct the user or the password: in the URL, in ~/.pgpass (mode 0600), or in PGPASSWORD.",
    "authentication failed": "Correct the user of the URL, or ask the administrator of the database.",
    "resolve host": "Correct the name of the server in the URL, or check the network.",
    "translate host name": "Correct the name of the server in the URL, or check the network.",
    "role ": "Correct the user of the URL, or create it: `createuser NAME`.",
    "database ": "Correct the name of the database, or create it: `createdb NAME`.",
    "does not exist": "`ichx store check` lists what is missing. Restore the store from a backup.",
}
"""Remedies by a part of the message; the first one that matches counts."""
_GENERAL_REMEDY: Final = "Check that the server runs and accepts connections at that address, then rerun the command."


class PassingError(StoreError):
    """A failure that passes: the same transaction may succeed later."""


def with_driver(url: URL) -> URL:
    """Return a `url` without a driver with psycopg, unless only psycopg2 is installed, SQLAlchemy's default."""
    if url.drivername == "postgres" or (
        url.drivername == "postgresql" and (_is_installed("psycopg") or not _is_installed("psycopg2"))
    ):
        return url.set(drivername="postgresql+psycopg")
    return url


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def uses_libpq(url: URL) -> bool:
    """Return whether the driver of `url` is a wrapper of PostgreSQL's own client library."""
    return url.get_backend_name() == "postgresql" and url.get_driver_name() in _DRIVERS


def connect_options(url: URL) -> dict[str, Any]:
    """Return the options of new connections that `url` does not set itself."""
    return {name: value for name, value in _CONNECT_OPTIONS.items() if name not in url.query}


def as_user_error(name: str, error: exc.DBAPIError) -> IchxError | None:
    """Return the error to raise for a failure of the database `name`; None for a bug."""
    state, message = _state(error), _first_line(error)
    if isinstance(error, exc.DataError):
        return InvalidInputError(f"The store {name} cannot store a value: {message}.", "Use another value.")
    if not state and "connection option" in message:
        return InvalidInputError(f"Invalid URL of the store, {name}: {message}.", "Correct the option in the URL.")
    is_expected = state.startswith(_USER_STATES) if state else isinstance(error, exc.OperationalError)
    if not is_expected and not error.connection_invalidated:
        return None
    remedy = next((remedy for sign, remedy in _REMEDIES.items() if sign in message), _GENERAL_REMEDY)
    kind = PassingError if _passes(error) else StoreError
    return kind(f"The store {name} failed: {message}.", remedy)


def transaction_id(connection: Connection) -> int | None:
    """Return the number of a transaction, by which `is_committed` finds it later; None if it has changed nothing."""
    return connection.scalar(select(func.txid_current_if_assigned()))


def is_committed(connection: Connection, transaction: int) -> bool | None:
    """Return whether a recent transaction was committed; None while the server still works on it."""
    try:
        status = connection.scalar(select(func.txid_status(transaction)))
    except (exc.DataError, InvalidInputError):  # a server that crashed before it stored anything does not know it
        return False
    return None if status == "in progress" else status == "committed"


class Absence:
    """Waits while a server is away: it restarts, its network is down, or it has no free connection."""

    def __init__(self, note: Callable[[str], object], seconds: float | None = None) -> None:
        """Wait at most `seconds` (`AWAY_SECONDS`); `note` receives a line at the beginning."""
        self._note = note
        self._seconds = AWAY_SECONDS if seconds is None else seconds
        self._since: float | None = None
        self._pause = 0.0

    def wait(self, error: StoreError) -> None:
        """Return when the transaction that failed with `error` should be repeated.

        Raises:
            StoreError: `error`, unless it passes, or the server has been away for too long.
        """
        if not isinstance(error, PassingError):
            raise error
        if self._since is None:
            self._since = time.monotonic()
        seconds = time.monotonic() - self._since
        if seconds > self._seconds:
            problem = f"{error.problem} The server has been away for {seconds:.0f} s."
            raise StoreError(problem, "Rerun the command when the server is back.") from error
        if self._pause == _FIRST_PAUSE:  # the first repetition has failed, too
            self._note(f"{error.problem} Retrying for up to {self._seconds:.0f} s.")
        self.wait_for_server()

    def wait_for_server(self) -> None:
        """Pause, longer each time. The first repetition is immediate: an idle connection may just be old."""
        time.sleep(self._pause)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE) or _FIRST_PAUSE


def _passes(error: exc.DBAPIError) -> bool:
    """Return whether a later repetition may succeed: the connection was lost, or other transactions interfered."""
    state = _state(error)
    unreachable = not state and isinstance(error, exc.OperationalError)
    return unreachable or error.connection_invalidated or state.startswith(_RETRY_STATES)


def _state(error: exc.DBAPIError) -> str:
    """Return the SQLSTATE of an error; empty if the server sent none, e.g. because there is no connection."""
    return str(getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None) or "")


def _first_line(error: exc.DBAPIError) -> str:
    """Return the message of the server in one line; further lines are hints, or attempts at other addresses."""
    lines = [line.strip() for line in str(error.orig).removeprefix("connection failed: ").splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].endswith("were:"):
        return lines[-1].removeprefix("- ")
    return lines[0].rstrip(".") if lines else type(error.orig).__name__
