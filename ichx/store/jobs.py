"""Queries for the jobs of schedulers, over an open connection."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from ichx.errors import ConflictError
from ichx.store import database
from ichx.store.clock import store_time
from ichx.store.run_snapshots import JobChange, JobDraft, JobRecord, JobRecordState
from ichx.store.tables import job, run

ACTIVE: Final[tuple[JobRecordState, ...]] = ("submitting", "queued", "running")
"""States of jobs that have not ended, as far as the store knows."""


def add_jobs(connection: Connection, drafts: Sequence[JobDraft]) -> list[JobRecord]:
    """Record jobs that are about to be queued, in the state `submitting`.

    Raises:
        ConflictError: A fold or command among them has an active job.
    """
    if not drafts:
        return []
    _check_free(connection, drafts)
    now = store_time(connection)
    connection.execute(insert(job), [{**vars(draft), "state": "submitting", "submitted": now} for draft in drafts])
    submissions = {draft.submission for draft in drafts}
    return _read(connection, job.c.submission.in_(submissions))


def _check_free(connection: Connection, drafts: Sequence[JobDraft]) -> None:
    """Raise `ConflictError` if a fold of `drafts`, or a command of the same name, has an active job."""
    database.lock_changes(connection)  # of several submitters, one comes first
    folds = {(draft.experiment, draft.fold) for draft in drafts if draft.fold is not None}
    commands = {(draft.engine, draft.name) for draft in drafts if draft.fold is None}
    for row in connection.execute(select(job).where(job.c.state.in_(ACTIVE))):
        if (row.experiment, row.fold) in folds:
            raise ConflictError(
                f"Fold {row.fold} of experiment {row.experiment} has the job {row.handle or row.submission}.",
                f"Rerun the command to follow it, or cancel it with `ichx jobs cancel {row.experiment}`.",
            )
        if row.fold is None and (row.engine, row.name) in commands:
            raise ConflictError(
                f"`{row.name}` is the job {row.handle or row.submission}.",
                f"Rerun the command to follow it, or cancel it with `ichx jobs cancel {row.handle or row.submission}`.",
            )


def remove_jobs(connection: Connection, submission: str) -> None:
    """Delete the jobs of a submission that the scheduler refused."""
    connection.execute(delete(job).where(job.c.submission == submission, job.c.state == "submitting"))


def check_idle(connection: Connection, numbers: Sequence[int]) -> None:
    """Raise `ConflictError` if an experiment has an active job."""
    query = select(job.c.experiment, job.c.handle, job.c.submission, job.c.state)
    row = connection.execute(query.where(job.c.experiment.in_(numbers), job.c.state.in_(ACTIVE))).first()
    if row is not None:
        raise ConflictError(
            f"Experiment {row.experiment} has the job {row.handle or row.submission} ({row.state}).",
            f"Cancel its jobs first: `ichx jobs cancel {row.experiment}`. If they have ended, run `ichx jobs`.",
        )


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
    # Others may have seen a job running already, or have recorded it as lost because its submission took long.
    unknown = job.c.handle.is_(None) & job.c.state.in_(("submitting", "lost"))
    connection.execute(update(job).where(mine, unknown).values(state="queued", reason=None, ended=None))
    changed = update(job).where(mine, job.c.position == bindparam("at")).values(handle=bindparam("queued_as"))
    connection.execute(changed, values)


def update_jobs(connection: Connection, changes: Mapping[int, JobChange]) -> None:
    """Record the new states of jobs by id. A job that has ended stays as it is, and its runs have ended with it.

    If the process of a lost job is alive, it notices at its next heartbeat that its run has ended, and stops.
    """
    now = store_time(connection)
    for id_, change in changes.items():
        ended = None if change.state in ACTIVE else now
        active = job.c.state.in_(ACTIVE)
        connection.execute(update(job).where(job.c.id == id_, active).values(**vars(change), ended=ended))
    over = [id_ for id_, change in changes.items() if change.state not in ACTIVE]
    if over:
        handles = select(job.c.handle).where(job.c.id.in_(over), job.c.handle.is_not(None))
        running = run.c.job.in_(handles) & (run.c.state == "running")
        connection.execute(update(run).where(running).values(state="dead", ended=run.c.heartbeat))


def list_jobs(
    connection: Connection,
    states: Sequence[JobRecordState] | None,
    experiments: Sequence[int] | None,
    submission: str | None,
    newest: int | None,
) -> list[JobRecord]:
    """Return the `newest` jobs in order of submission, with any of the given `states`, `experiments`, `submission`."""
    conditions: list[Any] = []
    if states is not None:
        conditions.append(job.c.state.in_(states))
    if experiments is not None:
        conditions.append(job.c.experiment.in_(experiments))
    if submission is not None:
        conditions.append(job.c.submission == submission)
    return _read(connection, *conditions, newest=newest)


def _read(connection: Connection, *conditions: Any, newest: int | None = None) -> list[JobRecord]:
    order = (job.c.submitted.desc(), job.c.submission.desc(), job.c.position.desc())
    query = select(job).where(*conditions).order_by(*order).limit(newest)
    return [JobRecord(**row._mapping) for row in reversed(connection.execute(query).all())]
