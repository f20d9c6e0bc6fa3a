"""Queries for names, tags, notes, the archive and saved settings, over an open connection. Trash: `deletion`."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from ichx.store.clock import store_time
from ichx.store.snapshots import Note
from ichx.store.tables import experiment, note, setting, tag


def rename(connection: Connection, number: int, name: str) -> None:
    """Rename an experiment."""
    connection.execute(update(experiment).where(experiment.c.number == number).values(name=name))


def change_tags(connection: Connection, number: int, add: Iterable[str], remove: Iterable[str]) -> None:
    """Add and remove tags of an experiment."""
    present = set(connection.scalars(select(tag.c.tag).where(tag.c.experiment == number)))
    for name in sorted(set(add) - present):
        connection.execute(insert(tag).values(experiment=number, tag=name))
    for name in remove:
        connection.execute(delete(tag).where(tag.c.experiment == number, tag.c.tag == name))


def all_tags(connection: Connection) -> dict[str, int]:
    """Return the number of experiments outside the trash by tag."""
    query = (
        select(tag.c.tag, func.count().label("uses"))
        .join(experiment, experiment.c.number == tag.c.experiment)
        .where(experiment.c.trashed.is_(None))
        .group_by(tag.c.tag)
        .order_by(tag.c.tag)
    )
    return {row.tag: row.uses for row in connection.execute(query)}


def add_note(connection: Connection, number: int, text: str, created: datetime | None = None) -> Note:
    """Record a note about an experiment; `created` defaults to now."""
    created = store_time(connection) if created is None else created
    added = connection.execute(insert(note).values(experiment=number, created=created, text=text))
    return Note(id=added.inserted_primary_key[0], experiment=number, created=created, text=text)  # type: ignore[index]


def notes(connection: Connection, number: int) -> list[Note]:
    """Return the notes about an experiment, oldest first."""
    query = select(note).where(note.c.experiment == number).order_by(note.c.id)
    return [Note(**row._mapping) for row in connection.execute(query)]


def archive(connection: Connection, numbers: Sequence[int], archived: bool) -> None:
    """Archive experiments, or unarchive them."""
    connection.execute(update(experiment).where(experiment.c.number.in_(numbers)).values(archived=archived))


def get_setting(connection: Connection, name: str) -> Any:
    """Return the setting `name`, or None."""
    return connection.scalar(select(setting.c.value).where(setting.c.name == name))


def set_setting(connection: Connection, name: str, value: Any) -> None:
    """Save `value`, a JSON value, as the setting `name`; None removes it."""
    connection.execute(delete(setting).where(setting.c.name == name))
    if value is not None:
        connection.execute(insert(setting).values(name=name, value=value))
