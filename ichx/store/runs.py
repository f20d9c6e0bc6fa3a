"""Runs, their heartbeats and their history, as functions over an open connection."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, and_, delete, func, insert, select, update

from ichx.errors import IchxError, NotFoundError
from ichx.store.process import process_lives, process_mark, this_host
from ichx.store.snapshots import EpochRecord, ImportedRun, Run, RunDraft
from ichx.store.tables import epoch_metric, run, run_stage

STALLED_AFTER = timedelta(seconds=45)
"""A running run whose last heartbeat is older than this is stalled: it missed several."""

DEAD_AFTER = timedelta(seconds=90)
"""A running run of another host, or of one that cannot be asked, whose last heartbeat is older than this is dead."""

LIVE_STATES = ("running", "stalled")
"""The states of a run that holds its fold."""

END_STATES = ("done", "failed", "stopped")
"""How a run may end; `dead` is what others say of it."""

STATE_COLUMNS = (
    run.c.id,
    run.c.experiment,
    run.c.fold,
    run.c.state,
    run.c.host,
    run.c.pid,
    run.c.process,
    run.c.heartbeat,
)
"""What `shown_state` and its callers need of a run."""


def shown_state(row: Any, now: datetime) -> str:
    """Return the state of a run (a row with `STATE_COLUMNS`): the recorded one, or what became of a running one.

    `stalled`: its process lives but has been silent for long, or a host that cannot be asked is late. `dead`: its
    process is gone, or that host has been silent for too long.
    """
    if row.state != "running":
        return str(row.state)
    silent = now - row.heartbeat
    lives = process_lives(row.pid, row.process) if row.host == this_host() else None
    if lives is False or (lives is None and silent > DEAD_AFTER):
        return "dead"
    return "stalled" if silent > STALLED_AFTER else "running"


def start_run(connection: Connection, draft: RunDraft) -> Run:
    """Record a new attempt at a fold; refuse it while a live one holds the fold, close a lost one."""
    now = datetime.now(UTC)
    held = and_(run.c.experiment == draft.experiment, run.c.fold == draft.fold)
    for row in connection.execute(select(*STATE_COLUMNS, run.c.started).where(held, run.c.state == "running")).all():
        if shown_state(row, now) in LIVE_STATES:
            raise IchxError(
                f"fold {draft.fold} of experiment {draft.experiment} is being run by process {row.pid} on {row.host} "
                f"since {row.started:%Y-%m-%d %H:%M:%S} UTC",
                "wait for it, or end that process and run again",
            )
        connection.execute(update(run).where(run.c.id == row.id).values(state="dead", ended=row.heartbeat))
    attempt = (connection.scalar(select(func.max(run.c.attempt)).where(held)) or 0) + 1
    added = connection.execute(
        insert(run).values(
            **{**vars(draft), "libraries": dict(draft.libraries)},
            attempt=attempt,
            state="running",
            process=process_mark(draft.pid) if draft.host == this_host() else None,
            started=now,
            heartbeat=now,
            epochs_done=0,
        )
    )
    return _read(connection, run.c.id == added.inserted_primary_key[0])[0]  # type: ignore[index]


def add_ended(connection: Connection, experiment: int, ended: Sequence[ImportedRun]) -> None:
    """Record runs that ended elsewhere; a fold's history goes to its newest attempt."""
    newest = {r.fold: r.attempt for r in sorted(ended, key=lambda r: r.attempt)}
    for one in ended:
        if one.state not in (*END_STATES, "dead"):
            raise ValueError(f"a run that is {one.state!r} has not ended")
        values = {name: value for name, value in vars(one).items() if name != "history"}
        added = connection.execute(insert(run).values(**values, experiment=experiment))
        for record in one.history if newest[one.fold] == one.attempt else ():
            _add_epoch(connection, added.inserted_primary_key[0], record)  # type: ignore[index]


def list_runs(connection: Connection, experiment: int, fold: int | None) -> list[Run]:
    """Return the runs of an experiment (of one fold), by fold and attempt."""
    return _read(connection, run.c.experiment == experiment, *([] if fold is None else [run.c.fold == fold]))


def heartbeat(connection: Connection, run_id: int, values: dict[str, Any]) -> None:
    """Record that a run lives, with those of `values` that are not None."""
    known = {name: value for name, value in values.items() if value is not None}
    _update_running(connection, run_id, {"heartbeat": datetime.now(UTC), **known})


def record_epoch(connection: Connection, run_id: int, record: EpochRecord) -> None:
    """Record the metrics of an epoch in place of the run's earlier ones of it; also a heartbeat."""
    heartbeat(connection, run_id, {"stage": record.stage, "epoch": record.epoch})
    _add_epoch(connection, run_id, record)


def _add_epoch(connection: Connection, run_id: int, record: EpochRecord) -> None:
    in_stage = and_(run_stage.c.run_id == run_id, run_stage.c.stage_index == record.stage_index)
    if connection.execute(update(run_stage).where(in_stage).values(stage=record.stage)).rowcount == 0:
        stage = {"run_id": run_id, "stage_index": record.stage_index, "stage": record.stage}
        connection.execute(insert(run_stage).values(stage))
    key = {"run_id": run_id, "stage_index": record.stage_index, "epoch": record.epoch}
    connection.execute(delete(epoch_metric).where(*(epoch_metric.c[name] == value for name, value in key.items())))
    rows = [
        {**key, "metric": name, "value": None if math.isnan(value) else float(value)}
        for name, value in record.values.items()
    ]
    if rows:
        connection.execute(insert(epoch_metric), rows)


def finish_run(connection: Connection, run_id: int, state: str, error: str | None) -> None:
    """End a running run."""
    if state not in END_STATES:
        raise ValueError(f"a run ends as one of {', '.join(END_STATES)}, not {state!r}")
    now = datetime.now(UTC)
    _update_running(connection, run_id, {"state": state, "error": error, "heartbeat": now, "ended": now})


def history(connection: Connection, experiment: int, fold: int) -> list[EpochRecord]:
    """Return the epochs of a fold in order of training; of one trained twice, the later attempt's."""
    query = (
        select(run.c.attempt, run_stage.c.stage, epoch_metric)
        .join(run, run.c.id == epoch_metric.c.run_id)
        .join(
            run_stage,
            and_(run_stage.c.run_id == epoch_metric.c.run_id, run_stage.c.stage_index == epoch_metric.c.stage_index),
        )
        .where(run.c.experiment == experiment, run.c.fold == fold)
        .order_by(epoch_metric.c.stage_index, epoch_metric.c.epoch, run.c.attempt)
    )
    counted: dict[tuple[int, int], tuple[int, str, dict[str, float]]] = {}
    for row in connection.execute(query):
        place = (row.stage_index, row.epoch)
        if place not in counted or counted[place][0] != row.attempt:
            counted[place] = (row.attempt, row.stage, {})
        counted[place][2][row.metric] = math.nan if row.value is None else row.value
    return [
        EpochRecord(stage=stage, stage_index=index, epoch=epoch, values=values)
        for (index, epoch), (_, stage, values) in counted.items()
    ]


def _update_running(connection: Connection, run_id: int, values: dict[str, Any]) -> None:
    """Change a run that is recorded as running; a process that lost its fold to another one learns it here."""
    changed = connection.execute(update(run).where(run.c.id == run_id, run.c.state == "running").values(values))
    if changed.rowcount == 0:
        row = connection.execute(select(run.c.experiment, run.c.fold, run.c.state).where(run.c.id == run_id)).first()
        if row is None:
            raise NotFoundError(f"no run has the id {run_id}", "`ichx exp show` shows an experiment's runs")
        raise IchxError(
            f"this run of fold {row.fold} of experiment {row.experiment} has already ended ({row.state})",
            "if it slept for long, another process took over: look at `ichx exp show`, then run again",
        )


def _read(connection: Connection, *conditions: Any) -> list[Run]:
    now = datetime.now(UTC)
    found = []
    for row in connection.execute(select(run).where(*conditions).order_by(run.c.fold, run.c.attempt)):
        values = {**row._mapping, "state": shown_state(row, now)}
        del values["process"]
        found.append(Run(**values))
    return found
