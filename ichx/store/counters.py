"""Counters of the numbers that users see (experiments, ensembles). Numbers start at 1 and are never reused."""

from sqlalchemy import Connection, select, update

from ichx.store.tables import counter


def take_numbers(connection: Connection, kind: str, count: int) -> range:
    """Return the next `count` numbers of a `kind`. The update locks the counter until the transaction ends."""
    of_kind = counter.c.kind == kind
    connection.execute(update(counter).where(of_kind).values(last=counter.c.last + count))
    last: int = connection.execute(select(counter.c.last).where(of_kind)).scalar_one()
    return range(last - count + 1, last + 1)
