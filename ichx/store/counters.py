"""Counters of the numbers that users see (experiments, ensembles). Numbers start at 1 and are never reused."""

from collections.abc import Callable

from sqlalchemy import Connection, select, update

from ichx.store.tables import counter

IsUsed = Callable[[str, int], bool]
"""Returns whether the folder of a kind and number has files."""


def take_numbers(connection: Connection, kind: str, count: int, is_used: IsUsed = lambda kind, number: False) -> range:
    """Return the next `count` numbers of a `kind`. The update locks the counter until the transaction ends.

    Numbers that a folder uses already are skipped: the store does not know it.
    """
    of_kind = counter.c.kind == kind
    while True:
        connection.execute(update(counter).where(of_kind).values(last=counter.c.last + count))
        last: int = connection.execute(select(counter.c.last).where(of_kind)).scalar_one()
        numbers = range(last - count + 1, last + 1)
        if not any(is_used(kind, number) for number in numbers):
            return numbers


def raise_counter(connection: Connection, kind: str, least: int) -> None:
    """Make the next number of a `kind` larger than `least`."""
    connection.execute(update(counter).where(counter.c.kind == kind, counter.c.last < least).values(last=least))
