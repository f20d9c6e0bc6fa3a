"""Queries for the jobs of schedulers, over an open connection."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection, bindparam, insert, select, update

from ichx.errors import ConflictError
from ichx.store.clock import store_time
from ichx.store.snapshots import JobChange, JobDraft, JobRecord, JobRecordState
from ichx.store.tables import job

ACTIVE: Final[tuple[JobRecordState, ...]] = ("submitting", "queued", "running")
"""States of jobs that have not ended, as far as the store knows."""


def add_jobs(connection: Connection, drafts: Sequence[JobDraft]) -> list[JobRecord]:
    """Record jobs that are about to be queued, in the state `submitting`."""
    if not drafts:
        return []
    now = store_time(connection)
    connection.execute(insert(job), [{**vars(draft), "state": "submitting", "submitted": now} for draft in drafts])
    submissions = {draft.submission for draft in drafts}
    return _read(connection, job.c.submission.in_(submissions))


def set_handles(connection: Connection, submission: str, handles: Sequence[str]) -> None:
    """Record that the jobs of a submission are queued under `handles`, by position.

    Raises:
        ConflictError: The submission has another number of jobs.
    """
    mine = job.c.submission == submission
    known = connection.scalars(select(job.c.position).where(mine).order_by(job.c.position)).all()
    if list(known) != list(range(len(handles))):
        raise ConflictError(
            f"Submission {submission} has {len(known)} recorded jobs and {len(handles)} queued ones.",
            "Cancel these jobs with the scheduler's own command, then rerun the command.",
        )
    values = [{"at": position, "queued_as": handle} for position, handle in enumerate(handles)]
    changed = update(job).where(mine, job.c.position == bindparam("at")).values(handle=bindparam("queued_as"))
    connection.execute(changed, values)
    # A job may have been seen running or ended before its submitter recorded the handles.
    connection.execute(update(job).where(mine, job.c.state == "submitting").values(state="queued"))


def update_jobs(connection: Connection, changes: Mapping[int, JobChange]) -> None:
    """Record the new states of jobs by id. A job that has ended stays as it is."""
    now = store_time(connection)
    for id_, change in changes.items():
        ended = None if change.state in ACTIVE else now
        active = job.c.state.in_(ACTIVE)
        connection.execute(update(job).where(job.c.id == id_, active).values(**vars(change), ended=ended))


def list_jobs(
    connection: Connection,
    states: Sequence[JobRecordState] | None,
    experiments: Sequence[int] | None,
    submission: str | None,
) -> list[JobRecord]:
    """Return jobs in order of submission, with any of the given `states`, `experiments` and `submission`."""
    conditions: list[Any] = []
    if states is not None:
        conditions.append(job.c.state.in_(states))
    if experiments is not None:
        conditions.append(job.c.experiment.in_(experiments))
    if submission is not None:
        conditions.append(job.c.submission == submission)
    return _read(connection, *conditions)


def _read(connection: Connection, *conditions: Any) -> list[JobRecord]:
    query = select(job).where(*conditions).order_by(job.c.submitted, job.c.submission, job.c.position)
    return [JobRecord(**row._mapping) for row in connection.execute(query)]
