"""Names, tags, notes, the archive, the trash and remembered choices, as functions over an open connection."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from ichx.errors import IchxError
from ichx.store import runs
from ichx.store.snapshots import Note
from ichx.store.tables import (
    ensemble_member,
    epoch_metric,
    experiment,
    note,
    prediction,
    run,
    run_stage,
    setting,
    tag,
)


def rename(connection: Connection, number: int, name: str) -> None:
    """Give an experiment another name."""
    connection.execute(update(experiment).where(experiment.c.number == number).values(name=name))


def change_tags(connection: Connection, number: int, add: Iterable[str], remove: Iterable[str]) -> None:
    """Add tags that are not there yet, and remove some."""
    there = set(connection.scalars(select(tag.c.tag).where(tag.c.experiment == number)))
    for name in sorted(set(add) - there):
        connection.execute(insert(tag).values(experiment=number, tag=name))
    for name in remove:
        connection.execute(delete(tag).where(tag.c.experiment == number, tag.c.tag == name))


def all_tags(connection: Connection) -> dict[str, int]:
    """Return every tag with the number of experiments, outside the trash, that have it."""
    query = (
        select(tag.c.tag, func.count().label("uses"))
        .join(experiment, experiment.c.number == tag.c.experiment)
        .where(experiment.c.trashed.is_(None))
        .group_by(tag.c.tag)
        .order_by(tag.c.tag)
    )
    return {row.tag: row.uses for row in connection.execute(query)}


def add_note(connection: Connection, number: int, text: str, created: datetime | None = None) -> Note:
    """Write a note down, by default now."""
    now = datetime.now(UTC) if created is None else created
    added = connection.execute(insert(note).values(experiment=number, created=now, text=text))
    return Note(id=added.inserted_primary_key[0], experiment=number, created=now, text=text)  # type: ignore[index]


def notes(connection: Connection, number: int) -> list[Note]:
    """Return an experiment's notes, oldest first."""
    query = select(note).where(note.c.experiment == number).order_by(note.c.id)
    return [Note(**row._mapping) for row in connection.execute(query)]


def archive(connection: Connection, numbers: Sequence[int], archived: bool) -> None:
    """Put experiments into the archive, or take them out."""
    connection.execute(update(experiment).where(experiment.c.number.in_(numbers)).values(archived=archived))


def trash(connection: Connection, numbers: Sequence[int]) -> None:
    """Put experiments into the trash; refuse all of them while one is running."""
    now = datetime.now(UTC)
    query = select(*runs.STATE_COLUMNS).where(run.c.experiment.in_(numbers), run.c.state == "running")
    for row in connection.execute(query):
        if runs.shown_state(row, now) in runs.LIVE_STATES:
            raise IchxError(
                f"fold {row.fold} of experiment {row.experiment} is being run by process {row.pid} on {row.host}",
                "end that run first",
            )
    connection.execute(
        update(experiment).where(experiment.c.number.in_(numbers), experiment.c.trashed.is_(None)).values(trashed=now)
    )


def restore(connection: Connection, numbers: Sequence[int]) -> None:
    """Take experiments out of the trash."""
    connection.execute(update(experiment).where(experiment.c.number.in_(numbers)).values(trashed=None))


def blended_in(connection: Connection, numbers: Sequence[int]) -> dict[int, list[int]]:
    """Return by number the ensembles that each of `numbers` is a member of, where it is in any."""
    query = (
        select(ensemble_member.c.experiment, ensemble_member.c.ensemble)
        .where(ensemble_member.c.experiment.in_(numbers))
        .order_by(ensemble_member.c.ensemble)
    )
    found: dict[int, list[int]] = {}
    for number, ensemble in connection.execute(query):
        found.setdefault(number, []).append(ensemble)
    return found


def purge(connection: Connection, number: int) -> None:
    """Delete an experiment that is in the trash, with all that is recorded of it; its number never comes back."""
    trashed = connection.scalar(select(experiment.c.trashed).where(experiment.c.number == number))
    if trashed is None:
        raise IchxError(f"experiment {number} is not in the trash", f"put it there first: `ichx exp rm {number}`")
    blends = blended_in(connection, [number])
    if blends:
        said = ", ".join(map(str, blends[number]))
        raise IchxError(f"experiment {number} is a member of ensemble {said}", "what a blend was made of is kept")
    own = select(run.c.id).where(run.c.experiment == number)
    # The tables that lean on others first: not every database has cascades on.
    for table, condition in (
        (epoch_metric, epoch_metric.c.run_id.in_(own)),
        (run_stage, run_stage.c.run_id.in_(own)),
        (run, run.c.experiment == number),
        (prediction, prediction.c.experiment == number),
        (tag, tag.c.experiment == number),
        (note, note.c.experiment == number),
    ):
        connection.execute(delete(table).where(condition))
    connection.execute(update(experiment).where(experiment.c.parent == number).values(parent=None))
    connection.execute(delete(experiment).where(experiment.c.number == number))


def choice(connection: Connection, name: str) -> Any:
    """Return what is remembered under `name`; None where nothing is."""
    return connection.scalar(select(setting.c.value).where(setting.c.name == name))


def remember(connection: Connection, name: str, value: Any) -> None:
    """Remember `value` (as JSON has it) under `name`; None forgets."""
    connection.execute(delete(setting).where(setting.c.name == name))
    if value is not None:
        connection.execute(insert(setting).values(name=name, value=value))
