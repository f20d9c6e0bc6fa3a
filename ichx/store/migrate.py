"""Bringing a store to this version's tables: one transaction, together with its version stamp, under a lock.

Alembic is imported only when there is something to do. On SQLite the lock is the write lock of `BEGIN IMMEDIATE`, on
PostgreSQL an advisory lock of the transaction; on another database let one process open a new store first.
"""

import time
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, column, exc, func, inspect, select, table

from ichx.errors import IchxError
from ichx.store import database
from ichx.store.tables import VERSION_TABLE

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "0005"
"""The newest migration, which the tables of this ichx stand for."""

MIGRATIONS = Path(__file__).with_name("migrations")

_STAMP = select(table(VERSION_TABLE, column("version_num")).c.version_num)
_ADVISORY_LOCK = 0x69636878  # "ichx"


def prepare(engine: Engine) -> None:
    """Make the store at `engine` one with this version's tables, whatever older state it is in, and ready for use.

    Raises `IchxError`, leaving it unchanged, when it is newer than this ichx, another program's, or no database.
    """
    if _quick_stamp(engine) != HEAD:
        with database.reading(engine) as connection:
            _stamp(connection)  # refuses before anything is touched
        if database.is_sqlite(engine.url):
            _use_wal(engine)
        with database.writing(engine) as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(select(func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
            if _stamp(connection) != HEAD:  # another process may have been faster
                _upgrade(connection)


def upgrade_config(connection: Connection) -> "Config":
    """Return Alembic's configuration for our migrations over an open `connection`."""
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _quick_stamp(engine: Engine) -> str | None:
    """Return the version stamp with one SELECT; None where there is no such table."""
    with database.translated(engine.url), engine.connect() as connection:
        try:
            return connection.execute(_STAMP).scalar()
        except (exc.OperationalError, exc.ProgrammingError) as error:
            connection.rollback()
            if inspect(connection).has_table(VERSION_TABLE):  # another failure, a locked database for one
                raise error
            return None


def _stamp(connection: Connection) -> str | None:
    """Return the version stamp, None for an empty database; refuse a store that is not ours to upgrade."""
    name = database.shown(connection.engine.url)
    tables = inspect(connection).get_table_names()
    if VERSION_TABLE not in tables:
        if tables:
            problem = f"the database {name} belongs to another program: it has tables, but none of ichx's versions"
            raise IchxError(problem, "name another store with ICHX_STORE or `store` in ichx.toml")
        return None
    stamp = connection.execute(_STAMP).scalar()
    known = {path.name.split("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py")}
    if stamp not in known:
        problem = f"the store {name} has version {stamp}, which this ichx ({HEAD}) does not know"
        raise IchxError(problem, "upgrade ichx, or name another store with ICHX_STORE")
    return str(stamp)


def _upgrade(connection: Connection) -> None:
    from alembic import command

    command.upgrade(upgrade_config(connection), "head")


def _use_wal(engine: Engine) -> None:
    """Switch a SQLite file to write-ahead logging, which stays with the file.

    SQLite does not wait for locks here, so several processes that open a new store at once try again.
    """
    deadline = time.monotonic() + database.BUSY_SECONDS
    while True:
        try:
            with database.translated(engine.url):
                raw = engine.raw_connection()
                try:
                    raw.cursor().execute("PRAGMA journal_mode = WAL")
                finally:
                    raw.close()
            return
        except IchxError as error:
            if "is locked" not in error.problem or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
