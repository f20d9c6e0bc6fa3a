"""How far experiments are: the state that their runs put them in, as functions over an open connection."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, select

from ichx.store import runs
from ichx.store.tables import experiment, fold_set, run

CHUNK = 500
"""Numbers in one IN: databases limit its length."""

Progress = dict[str, Any]
"""`folds_done`, `state`, the newest run's `stage`, and the `seconds` of all runs together, None before the first."""


def of_some(connection: Connection, numbers: Sequence[int]) -> dict[int, Progress]:
    """Return the progress of each of `numbers`, in their order, from all of their runs."""
    folds = dict(_folds(connection, numbers))
    found: dict[int, list[Any]] = {number: [] for number in numbers}
    columns = (*runs.STATE_COLUMNS, run.c.stage, run.c.started, run.c.ended)
    for chosen in _choosing(run.c.experiment, numbers):
        for row in connection.execute(select(*columns).where(chosen).order_by(run.c.id)):
            if row.experiment in found:
                found[row.experiment].append(row)
    now = datetime.now(UTC)
    return {
        number: {
            **_state(folds[number], attempts, now),
            "stage": attempts[-1].stage if attempts else None,
            "seconds": sum((_end(row) - row.started).total_seconds() for row in attempts) if attempts else None,
        }
        for number, attempts in found.items()
    }


def of_all(connection: Connection, numbers: Sequence[int], *, detailed: bool) -> dict[int, Progress]:
    """Return the progress of `numbers`, which are most of the experiments: of thousands, without `stage` and `seconds`.

    `detailed` has these two as well, and reads every run for them.
    """
    if detailed:
        return of_some(connection, numbers)
    # Most runs are done, and of these only a count matters.
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
    now = datetime.now(UTC)
    found: dict[int, Progress] = {}
    for number, folds in _folds(connection, numbers):
        if number in others:
            found[number] = _state(folds, others[number], now, folds_done.get(number, set()))
        else:
            finished = done.get(number, 0)
            state = "done" if finished == folds else "partial" if finished else "new"
            found[number] = {"folds_done": finished, "state": state}
    return found


def _state(folds: int, attempts: Iterable[Any], now: datetime, done: "set[int] | None" = None) -> Progress:
    """Return `folds_done` and `state` from attempts, oldest first, and folds known to be `done`."""
    done = set() if done is None else done
    latest: dict[int, str] = {}  # the newest attempt's state of each fold; the newest attempt stands last
    for row in attempts:
        state = runs.shown_state(row, now)
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


def _end(row: Any) -> datetime:
    end: datetime = row.heartbeat if row.ended is None else row.ended
    return end


def _folds(connection: Connection, numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Return how many folds each of `numbers` has."""
    query = select(experiment.c.number, fold_set.c.k).join(fold_set, fold_set.c.id == experiment.c.fold_set_id)
    wanted = set(numbers)
    return [
        (number, folds)
        for chosen in _choosing(experiment.c.number, numbers)
        for number, folds in connection.execute(query.where(chosen))
        if number in wanted
    ]


def _choosing(column: Any, numbers: Sequence[int]) -> list[ColumnElement[bool]]:
    """Return conditions that find `numbers`: by name where they are few, else all between the first and the last."""
    if not numbers:
        return []
    if len(numbers) <= CHUNK:
        return [column.in_(numbers)]
    return [column.between(min(numbers), max(numbers))]
