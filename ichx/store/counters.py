"""Counters of the numbers that users see (experiments, ensembles). Numbers start at 1 and are never reused."""

from collections.abc import Callable

from sqlalchemy import Connection, select, update

from ichx.store.tables import counter


def take_numbers(
    connection: Connection, kind: str, count: int, used: Callable[[str], set[int]] = lambda kind: set()
) -> range:
    """Return the next `count` numbers of a `kind`. The update locks the counter until the transaction ends.

    Numbers that are `used` already, by folders that the store does not know, are skipped.
    """
    of_kind = counter.c.kind == kind
    taken = used(kind)
    while True:
        connection.execute(update(counter).where(of_kind).values(last=counter.c.last + count))
        last: int = connection.execute(select(counter.c.last).where(of_kind)).scalar_one()
        numbers = range(last - count + 1, last + 1)
        if taken.isdisjoint(numbers):
            return numbers


def raise_counter(connection: Connection, kind: str, least: int) -> None:
    """Make the next number of a `kind` larger than `least`."""
    connection.execute(update(counter).where(counter.c.kind == kind, counter.c.last < least).values(last=least))
