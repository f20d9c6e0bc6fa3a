"""Queries for runs, their heartbeats and their history, over an open connection."""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, get_args

from sqlalchemy import Connection, and_, delete, func, insert, select, update

from ichx.errors import ConflictError, NotFoundError, RunEndedError
from ichx.process_identity import host_name, is_process_alive, process_identity
from ichx.store.clock import store_time
from ichx.store.run_snapshots import EndState, EpochRecord, Run, RunDraft
from ichx.store.tables import epoch_metric, run, run_stage
from ichx.store.values import require_objects

STALLED_AFTER = timedelta(seconds=45)
"""Age of the last heartbeat after which a running run is stalled."""

DEAD_AFTER = timedelta(seconds=90)
"""Age of the last heartbeat after which a running run is dead, if its process cannot be checked from this host."""

LIVE_STATES = ("running", "stalled")
"""States of a run that occupies its fold."""

END_STATES = get_args(EndState)

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
"""Columns that `current_state` and its callers need."""


def current_state(row: Any, now: datetime) -> str:
    """Return the state of a run, a row with `STATE_COLUMNS`: the recorded state, unless that is `running`.

    A running run is `dead` if its process has ended, or if that is unknown and its last heartbeat is older than
    `DEAD_AFTER`. Otherwise it is `stalled` if that heartbeat is older than `STALLED_AFTER`.
    """
    if row.state != "running":
        return str(row.state)
    age = now - row.heartbeat
    alive = is_process_alive(row.pid, row.process) if row.host == host_name() else None
    if alive is False or (alive is None and age > DEAD_AFTER):
        return "dead"
    return "stalled" if age > STALLED_AFTER else "running"


def start_run(connection: Connection, draft: RunDraft) -> Run:
    """Record a new run of a fold, and mark its dead runs; raise `ConflictError` while a live run occupies it."""
    now = store_time(connection)
    of_fold = and_(run.c.experiment == draft.experiment, run.c.fold == draft.fold)
    query = select(*STATE_COLUMNS, run.c.started, run.c.job)
    for row in connection.execute(query.where(of_fold, run.c.state == "running")).all():
        restarted = draft.job is not None and row.job == draft.job  # a scheduler executes a job once at a time
        if not restarted and current_state(row, now) in LIVE_STATES:
            raise ConflictError(
                f"Fold {draft.fold} of experiment {draft.experiment} has been running in process {row.pid} on "
                f"{row.host} since {row.started:%Y-%m-%d %H:%M:%S} UTC.",
                "Wait for it, or end that process and rerun the command.",
            )
        connection.execute(update(run).where(run.c.id == row.id).values(state="dead", ended=row.heartbeat))
    attempt = (connection.scalar(select(func.max(run.c.attempt)).where(of_fold)) or 0) + 1
    added = connection.execute(
        insert(run).values(
            **{**vars(draft), "libraries": dict(draft.libraries)},
            attempt=attempt,
            state="running",
            process=process_identity(draft.pid) if draft.host == host_name() else None,
            started=now,
            heartbeat=now,
            epochs_done=0,
        )
    )
    return _read(connection, run.c.id == added.inserted_primary_key[0])[0]  # type: ignore[index]


def add_ended(
    connection: Connection, experiment: int, ended: Sequence[Run], history: Mapping[int, Sequence[EpochRecord]]
) -> None:
    """Record runs that ended in another store; the history of a fold belongs to its newest run."""
    newest = {r.fold: r.attempt for r in sorted(ended, key=lambda r: r.attempt)}
    for one in ended:
        if one.state not in (*END_STATES, "dead"):
            raise ValueError(f"a run in state {one.state!r} has not ended")
        values = {name: value for name, value in vars(one).items() if name != "id"}
        added = connection.execute(insert(run).values(**{**values, "experiment": experiment}))
        for record in history.get(one.fold, ()) if newest[one.fold] == one.attempt else ():
            _add_epoch(connection, added.inserted_primary_key[0], record)  # type: ignore[index]


def list_runs(connection: Connection, experiment: int, fold: int | None) -> list[Run]:
    """Return the runs of an experiment (of one fold), sorted by fold and attempt."""
    return _read(connection, run.c.experiment == experiment, *([] if fold is None else [run.c.fold == fold]))


def live_runs(connection: Connection, experiments: Sequence[int]) -> list[Run]:
    """Return the runs that occupy a fold of one of `experiments` now."""
    recorded = _read(connection, run.c.experiment.in_(experiments), run.c.state == "running")
    return [one for one in recorded if one.state in LIVE_STATES]


def heartbeat(connection: Connection, run_id: int, values: dict[str, Any]) -> None:
    """Record that a run is alive, with those of `values` that are not None."""
    known = {name: value for name, value in values.items() if value is not None}
    _update_running(connection, run_id, {"heartbeat": store_time(connection), **known})


def record_epoch(connection: Connection, run_id: int, record: EpochRecord) -> None:
    """Record the metrics of an epoch, replacing earlier ones of the same run; also a heartbeat."""
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


def finish_run(connection: Connection, run_id: int, state: EndState, error: str | None) -> None:
    """End a running run."""
    if state not in END_STATES:
        raise ValueError(f"a run ends in one of {', '.join(END_STATES)}, not {state!r}")
    now = store_time(connection)
    _update_running(connection, run_id, {"state": state, "error": error, "heartbeat": now, "ended": now})


def history(connection: Connection, experiment: int, fold: int) -> list[EpochRecord]:
    """Return the epochs of a fold in order of training; the latest attempt wins for an epoch that was trained twice."""
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
    latest: dict[tuple[int, int], tuple[int, str, dict[str, float]]] = {}
    for row in connection.execute(query):
        epoch = (row.stage_index, row.epoch)
        if epoch not in latest or latest[epoch][0] != row.attempt:
            latest[epoch] = (row.attempt, row.stage, {})
        latest[epoch][2][row.metric] = math.nan if row.value is None else row.value
    return [
        EpochRecord(stage=stage, stage_index=index, epoch=number, values=values)
        for (index, number), (_, stage, values) in latest.items()
    ]


def _update_running(connection: Connection, run_id: int, values: dict[str, Any]) -> None:
    """Change a run that is recorded as running; raise `RunEndedError` if it has ended, e.g. lost its fold."""
    changed = connection.execute(update(run).where(run.c.id == run_id, run.c.state == "running").values(values))
    if changed.rowcount == 0:
        row = connection.execute(select(run.c.experiment, run.c.fold, run.c.state).where(run.c.id == run_id)).first()
        if row is None:
            raise NotFoundError(f"No run has the id {run_id}.", "`ichx exp show` lists the runs of an experiment.")
        raise RunEndedError(
            f"This run of fold {row.fold} of experiment {row.experiment} has already ended ({row.state}).",
            "Another process may have taken over after a long pause. Check `ichx exp show`, then rerun the command.",
        )


def _read(connection: Connection, *conditions: Any) -> list[Run]:
    now = store_time(connection)
    found = []
    for row in connection.execute(select(run).where(*conditions).order_by(run.c.fold, run.c.attempt)):
        values = {**row._mapping, "state": current_state(row, now)}
        del values["process"]
        require_objects(row.libraries, row.provenance)
        found.append(Run(**values))
    return found
