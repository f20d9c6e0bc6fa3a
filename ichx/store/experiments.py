"""Experiments, with the state that their runs put them in, as functions over an open connection."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, func, insert, select, update

from ichx.errors import NotFoundError
from ichx.store import runs
from ichx.store.numbers import take_numbers
from ichx.store.snapshots import Experiment, ExperimentDraft, ExperimentSummary
from ichx.store.tables import dataset_version, experiment, fold_set, run

_SUMMARY = (
    experiment.c.number,
    experiment.c.name,
    experiment.c.plugin,
    experiment.c.size,
    experiment.c.window_kind,
    experiment.c.score,
    experiment.c.spread,
    experiment.c.score_tta,
    experiment.c.spread_tta,
    experiment.c.selected,
    experiment.c.leaked,
    experiment.c.archived,
    experiment.c.kind,
    experiment.c.parent,
    experiment.c.created,
    dataset_version.c.dataset,
    dataset_version.c.number.label("dataset_version"),
    fold_set.c.name.label("fold_set"),
    fold_set.c.k.label("folds"),
)
_REST = (
    experiment.c.recipe,
    experiment.c.recipe_digest,
    experiment.c.version_id,
    experiment.c.label_digest,
    experiment.c.fold_set_id,
    experiment.c.fold_digest,
    experiment.c.epochs,
    experiment.c.score_low,
    experiment.c.score_high,
    experiment.c.score_tta_low,
    experiment.c.score_tta_high,
)


@dataclass(frozen=True)
class _Progress:
    folds_done: int
    state: str
    stage: str | None


def add_experiments(connection: Connection, drafts: Sequence[ExperimentDraft]) -> list[Experiment]:
    """Register `drafts` under consecutive numbers; raise `ValueError` for a draft whose pins disagree."""
    if not drafts:
        return []
    numbers = take_numbers(connection, "experiment", len(drafts))
    now = datetime.now(UTC)
    for number, draft in zip(numbers, drafts, strict=True):
        values = {
            **vars(draft),
            "number": number,
            "created": now,
            "leaked": _check_pins(connection, draft),
            "archived": False,
        }
        connection.execute(insert(experiment).values(values))
    return [get_experiment(connection, number) for number in numbers]


def get_experiment(connection: Connection, number: int) -> Experiment:
    """Return experiment `number` with its recipe."""
    row = connection.execute(_select(*_SUMMARY, *_REST).where(experiment.c.number == number)).first()
    if row is None:
        raise _no_experiment(connection, number)
    return Experiment(**row._mapping, **vars(_progress(connection, [row])[number]))


def list_experiments(
    connection: Connection, limit: int | None, dataset: str | None, kind: str | None, parent: int | None
) -> list[ExperimentSummary]:
    """Return the newest `limit` experiments that match, newest first."""
    query = _select(*_SUMMARY).order_by(experiment.c.number.desc()).limit(limit)
    rows = connection.execute(query.where(*_matching(dataset, kind, parent))).all()
    progress = _progress(connection, rows)
    return [ExperimentSummary(**row._mapping, **vars(progress[row.number])) for row in rows]


def count_experiments(connection: Connection, dataset: str | None, kind: str | None, parent: int | None) -> int:
    """Return how many experiments match."""
    query = _select(func.count()).where(*_matching(dataset, kind, parent))
    return int(connection.execute(query).scalar_one())


def set_scores(connection: Connection, number: int, scores: dict[str, float | None]) -> None:
    """Record the scores of experiment `number`."""
    changed = connection.execute(update(experiment).where(experiment.c.number == number).values(scores))
    if changed.rowcount == 0:
        raise _no_experiment(connection, number)


def check_fold(connection: Connection, number: int, fold: int) -> None:
    """Raise unless experiment `number` has `fold`; hold its row until the transaction ends (SQLite holds all)."""
    query = (
        select(fold_set.c.k)
        .join(experiment, experiment.c.fold_set_id == fold_set.c.id)
        .where(experiment.c.number == number)
        .with_for_update(of=experiment)
    )
    folds = connection.scalar(query)
    if folds is None:
        raise _no_experiment(connection, number)
    if not 0 <= fold < folds:
        raise NotFoundError(f"experiment {number} has no fold {fold}", f"its folds are 0 to {folds - 1}")


def _matching(dataset: str | None, kind: str | None, parent: int | None) -> list[ColumnElement[bool]]:
    wanted = {dataset_version.c.dataset: dataset, experiment.c.kind: kind, experiment.c.parent: parent}
    return [column == value for column, value in wanted.items() if value is not None]


def _select(*columns: Any) -> Select[Any]:
    return (
        select(*columns)
        .select_from(experiment)
        .join(dataset_version, dataset_version.c.id == experiment.c.version_id)
        .join(fold_set, fold_set.c.id == experiment.c.fold_set_id)
    )


def _progress(connection: Connection, rows: Sequence[Any]) -> dict[int, _Progress]:
    """Return by number how far the experiments of `rows` (with `number` and `folds`) are."""
    if not rows:
        return {}
    folds = {row.number: row.folds for row in rows}
    query = (
        select(*runs.STATE_COLUMNS, run.c.stage)
        .where(run.c.experiment.between(min(folds), max(folds)))  # not IN: databases limit its length
        .order_by(run.c.id)
    )
    found: dict[int, list[Any]] = {number: [] for number in folds}
    for row in connection.execute(query):
        if row.experiment in found:
            found[row.experiment].append(row)
    now = datetime.now(UTC)
    return {number: _progress_of(folds[number], attempts, now) for number, attempts in found.items()}


def _progress_of(folds: int, attempts: Iterable[Any], now: datetime) -> _Progress:
    """Return the progress from all attempts, oldest first."""
    done: set[int] = set()
    latest: dict[int, str] = {}  # the newest attempt's state of each fold; the newest attempt stands last
    stage = None
    for row in attempts:
        state = runs.shown_state(row, now)
        latest.pop(row.fold, None)
        latest[row.fold] = state
        stage = row.stage
        if state == "done":
            done.add(row.fold)
    unfinished = [state for fold, state in latest.items() if fold not in done]
    if "running" in latest.values():
        state = "running"
    elif len(done) == folds:
        state = "done"
    elif unfinished:
        state = unfinished[-1]
    else:
        state = "partial" if done else "new"
    return _Progress(folds_done=len(done), state=state, stage=stage)


def _check_pins(connection: Connection, draft: ExperimentDraft) -> bool:
    """Raise unless the draft's pins agree; return whether its folds leak."""
    query = (
        select(fold_set.c.digest, dataset_version.c.label_digest, fold_set.c.leaking_patients)
        .join(dataset_version, dataset_version.c.id == fold_set.c.version_id)
        .where(fold_set.c.id == draft.fold_set_id, dataset_version.c.id == draft.version_id)
    )
    pinned = connection.execute(query).first()
    if pinned is None:
        raise ValueError(f"dataset version {draft.version_id} has no fold set {draft.fold_set_id}")
    if (pinned.digest, pinned.label_digest) != (draft.fold_digest, draft.label_digest):
        raise ValueError("the draft's fold and label digests are not those of its fold set and dataset version")
    return bool(pinned.leaking_patients > 0)


def _no_experiment(connection: Connection, number: int) -> NotFoundError:
    known = connection.scalars(select(experiment.c.number).order_by(experiment.c.number.desc()).limit(10)).all()
    remedy = (
        f"the newest are {', '.join(map(str, known))}; " if known else "there is none yet: `ichx exp new` makes one; "
    )
    return NotFoundError(f"no experiment has the number {number}", remedy + "`ichx exp list` shows all")
