"""The clock of the store: that of its database, which is the same for all machines that use it."""

from datetime import UTC, datetime

from sqlalchemy import Connection, func, select

from ichx.store.tables import UtcDateTime


def store_time(connection: Connection) -> datetime:
    """Return the present time in UTC; a server's own clock, or for a SQLite file, which one machine uses, that one's.

    It advances within a transaction.
    """
    if connection.dialect.name != "postgresql":
        return datetime.now(UTC)
    return connection.execute(select(func.timezone("UTC", func.clock_timestamp(), type_=UtcDateTime()))).scalar_one()
