"""Progress of experiments, derived from their runs, over an open connection."""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, select

from ichx.store import runs
from ichx.store.clock import store_time
from ichx.store.tables import experiment, fold_set, run

CHUNK = 500
"""Maximum length of an IN list: databases limit it."""

Progress = dict[str, Any]
"""`folds_done`, `state`, `stage` of the newest run, and `seconds` of all runs together; None without runs."""


def progress_of(connection: Connection, numbers: Sequence[int]) -> dict[int, Progress]:
    """Return the progress of each of `numbers`, in their order."""
    folds = _fold_counts(connection, numbers)
    found: dict[int, list[Any]] = {number: [] for number in numbers}
    columns = (*runs.STATE_COLUMNS, run.c.stage, run.c.started, run.c.ended)
    for condition in conditions(run.c.experiment, numbers):
        for row in connection.execute(select(*columns).where(condition).order_by(run.c.id)):
            if row.experiment in found:
                found[row.experiment].append(row)
    now = store_time(connection)
    return {
        number: {
            **_state(folds[number], rows, now),
            "stage": rows[-1].stage if rows else None,
            "seconds": sum(((row.ended or row.heartbeat) - row.started).total_seconds() for row in rows)
            if rows
            else None,
        }
        for number, rows in found.items()
    }


def progress_of_many(connection: Connection, numbers: Sequence[int], names: Collection[str]) -> dict[int, Progress]:
    """Return those of `names` that are in the progress of thousands of experiments; faster than `progress_of`."""
    found: dict[int, Progress] = {number: {} for number in numbers}
    parts = []
    if {"folds_done", "state"}.intersection(names):
        parts.append(_state_of_many(connection, numbers))
    if "seconds" in names:
        seconds = func.sum(_seconds(connection, func.coalesce(run.c.ended, run.c.heartbeat), run.c.started))
        query = select(run.c.experiment, seconds).group_by(run.c.experiment)
        parts.append({number: {"seconds": float(value)} for number, value in connection.execute(query)})
    if "stage" in names:
        newest = select(func.max(run.c.id)).group_by(run.c.experiment)
        query = select(run.c.experiment, run.c.stage).where(run.c.id.in_(newest))
        parts.append({number: {"stage": value} for number, value in connection.execute(query)})
    for number, values in found.items():
        values |= {"seconds": None, "stage": None}
        for part in parts:
            values |= part.get(number, {})
    return found


def _seconds(connection: Connection, end: Any, start: Any) -> ColumnElement[float]:
    """Return the expression for the seconds between two times."""
    if connection.dialect.name == "sqlite":
        return (func.julianday(end) - func.julianday(start)) * 86400.0
    return func.date_part("epoch", end - start)


def _state_of_many(connection: Connection, numbers: Sequence[int]) -> dict[int, Progress]:
    """Return `folds_done` and `state`, fast because most runs are done."""
    count = func.count(run.c.fold.distinct()).label("folds")
    counts = select(run.c.experiment, count).where(run.c.state == "done").group_by(run.c.experiment)
    done = {row.experiment: row.folds for row in connection.execute(counts)}
    others: dict[int, list[Any]] = {}
    query = select(*runs.STATE_COLUMNS).where(run.c.state != "done").order_by(run.c.id)
    for row in connection.execute(query):
        others.setdefault(row.experiment, []).append(row)
    folds_done: dict[int, set[int]] = {}
    if others:
        unfinished = select(run.c.experiment).where(run.c.state != "done").distinct()
        pairs = select(run.c.experiment, run.c.fold).where(run.c.state == "done", run.c.experiment.in_(unfinished))
        for number, fold in connection.execute(pairs):
            folds_done.setdefault(number, set()).add(fold)
    now = store_time(connection)
    found: dict[int, Progress] = {}
    for number, folds in _fold_counts(connection, numbers).items():
        if number in others:
            found[number] = _state(folds, others[number], now, folds_done.get(number))
        else:
            finished = done.get(number, 0)
            state = "done" if finished == folds else "partial" if finished else "new"
            found[number] = {"folds_done": finished, "state": state}
    return found


def _state(folds: int, rows: Iterable[Any], now: datetime, folds_done: "set[int] | None" = None) -> Progress:
    """Return `folds_done` and `state` from runs, oldest first, and folds that are known to be done."""
    done = set(folds_done or ())
    latest: dict[int, str] = {}  # state of the newest run of each fold; the newest run comes last
    for row in rows:
        state = runs.current_state(row, now)
        latest.pop(row.fold, None)
        latest[row.fold] = state
        if state == "done":
            done.add(row.fold)
    unfinished = [state for fold, state in latest.items() if fold not in done]
    live = [state for state in latest.values() if state in runs.LIVE_STATES]
    if live:
        state = "running" if "running" in live else live[-1]
    elif len(done) == folds:
        state = "done"
    elif unfinished:
        state = unfinished[-1]
    else:
        state = "partial" if done else "new"
    return {"folds_done": len(done), "state": state}


def _fold_counts(connection: Connection, numbers: Sequence[int]) -> dict[int, int]:
    """Return the number of folds of each of `numbers`."""
    query = select(experiment.c.number, fold_set.c.k).join(fold_set, fold_set.c.id == experiment.c.fold_set_id)
    wanted = set(numbers)
    return {
        number: folds
        for condition in conditions(experiment.c.number, numbers)
        for number, folds in connection.execute(query.where(condition))
        if number in wanted
    }


def conditions(column: Any, numbers: Sequence[int]) -> list[ColumnElement[bool]]:
    """Return conditions that cover `numbers`: an IN list if they are few, else the range from the first to the last."""
    if not numbers:
        return []
    if len(numbers) <= CHUNK:
        return [column.in_(numbers)]
    return [column.between(min(numbers), max(numbers))]
