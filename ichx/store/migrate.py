"""Creating and upgrading the store's tables: one transaction with the version stamp, under a lock. SQL: `migrations/`.

Alembic is imported only if there is something to do. The lock is SQLite's write lock (`BEGIN IMMEDIATE`) or an advisory
lock of the transaction on PostgreSQL; on other databases only one process at a time may open a new store.
"""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, Engine, column, exc, inspect, select, table

from ichx.errors import StoreError, UnsupportedError
from ichx.store import database
from ichx.store.tables import VERSION_TABLE

if TYPE_CHECKING:
    from alembic.config import Config

HEAD: Final = "0010"
"""The newest migration; `tables.py` describes the tables after it."""

MIGRATIONS: Final = Path(__file__).with_name("migrations")

_STAMP = select(table(VERSION_TABLE, column("version_num")).c.version_num)
_OTHER_STORE: Final = "another store with ICHX_STORE or `store` in ichx.toml."


def prepare(engine: Engine) -> None:
    """Create the tables of the store at `engine`, or upgrade them to this version.

    Raises:
        UnsupportedError: The store is newer than this ichx, or belongs to another program. It stays unchanged.
        StoreError: It cannot be read or written, or is not a database.
    """
    if _read_stamp(engine) != HEAD:
        with database.reading(engine) as connection:
            _check_stamp(connection)  # before anything changes
        if database.is_sqlite(engine.url):
            _use_wal(engine)
        with database.writing(engine) as connection:
            database.lock_changes(connection)
            if _check_stamp(connection) != HEAD:  # another process may have been faster
                _upgrade(connection)


def is_prepared(engine: Engine) -> bool:
    """Return whether the tables are those of this version."""
    return _read_stamp(engine) == HEAD


def needs_copy(engine: Engine) -> bool:
    """Return whether the store is a SQLite file that this process cannot write, but must write to read it.

    That is an older one, which needs an upgrade, and one with write-ahead logging, whose readers write locks.
    """
    file = database.sqlite_file(engine.url) if database.is_sqlite(engine.url) else None
    if file is None or not file.is_file() or (os.access(file, os.W_OK) and os.access(file.parent, os.W_OK)):
        return False
    return database.writes_ahead(file) or _read_stamp(engine) not in (HEAD, None)


def upgrade_config(connection: Connection) -> "Config":
    """Return Alembic's configuration for the migrations over an open `connection`."""
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _read_stamp(engine: Engine) -> str | None:
    """Return the version stamp with one SELECT, or None if there is no version table."""
    with database.translate_errors(engine.url), engine.connect() as connection:
        try:
            return connection.execute(_STAMP).scalar()
        except (exc.OperationalError, exc.ProgrammingError) as error:
            connection.rollback()
            if inspect(connection).has_table(VERSION_TABLE):  # another failure, e.g. a locked database
                raise error
            return None


def _check_stamp(connection: Connection) -> str | None:
    """Return the version stamp, or None for an empty database; raise for a database that cannot be upgraded."""
    name = database.display_name(connection.engine.url)
    tables = inspect(connection).get_table_names()
    if VERSION_TABLE not in tables:
        if tables:
            raise UnsupportedError(
                f"The database {name} belongs to another program: it has tables, but no {VERSION_TABLE}.",
                f"Use {_OTHER_STORE}",
            )
        return None
    stamp = connection.execute(_STAMP).scalar()
    known = {path.name.split("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py")}
    if stamp not in known:
        raise UnsupportedError(
            f"The store {name} has version {stamp}, which is unknown to this ichx ({HEAD}).",
            f"Upgrade ichx, or use {_OTHER_STORE}",
        )
    return str(stamp)


def _upgrade(connection: Connection) -> None:
    from alembic import command

    command.upgrade(upgrade_config(connection), "head")


def _use_wal(engine: Engine) -> None:
    """Switch a SQLite file permanently to write-ahead logging.

    SQLite does not wait for locks here, so this retries while other processes open the same new store.
    """
    deadline = time.monotonic() + database.BUSY_SECONDS
    while True:
        try:
            with database.translate_errors(engine.url):
                raw = engine.raw_connection()
                try:
                    raw.cursor().execute("PRAGMA journal_mode = WAL")
                finally:
                    raw.close()
            return
        except StoreError as error:
            if "is locked" not in error.problem or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
