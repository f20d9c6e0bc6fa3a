"""Queries for experiments, over an open connection: register, select, list. Tags and notes: `annotations`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, exists, func, insert, select, update

from ichx.errors import ConflictError, NotFoundError
from ichx.store.clock import store_time
from ichx.store.counters import IsUsed, take_numbers
from ichx.store.experiment_state import CHUNK, progress_of, progress_of_many
from ichx.store.selection import FIELD_TYPES, Selection, recipe_values
from ichx.store.snapshots import Experiment, ExperimentDraft, ExperimentSummary, TuningInfo
from ichx.store.tables import TRANSDUCTIVE, dataset_version, experiment, experiment_member, fold_set, tag
from ichx.store.values import require_objects

_JOINED = {
    "dataset": dataset_version.c.dataset,
    "dataset_version": dataset_version.c.number.label("dataset_version"),
    "fold_set": fold_set.c.name.label("fold_set"),
    "folds": fold_set.c.k.label("folds"),
    "subset": func.coalesce(experiment.c.subset, experiment.c.tuned["subset"].as_float(), 1.0).label("subset"),
    "transductive": TRANSDUCTIVE.label("transductive"),
}
"""Columns of other tables, and computed ones, by the name of their field."""


def _columns(kind: type) -> list[Any]:
    """Return the columns of the fields of a snapshot, except `_PROGRESS` and tags."""
    found = (_JOINED.get(spec.name, experiment.c.get(spec.name)) for spec in fields(kind))
    return [column for column in found if column is not None]


_SUMMARY = _columns(ExperimentSummary)
_STORED = {column.name: column for column in _SUMMARY}
_ALL = _columns(Experiment)
_PROGRESS = ("folds_done", "state", "stage", "seconds")


def add_experiments(
    connection: Connection,
    drafts: Sequence[ExperimentDraft],
    is_used: IsUsed,
    members: Mapping[int, Sequence[int]] | None = None,
    tag_name: str | None = None,
) -> list[Experiment]:
    """Register `drafts` under consecutive numbers that no folder uses.

    Args:
        connection: The connection.
        drafts: The experiments.
        is_used: Whether a number belongs to a folder.
        members: By place in `drafts`, the places of a draft's members.
        tag_name: A tag of all of them.

    Raises:
        ValueError: The pins of a draft disagree.
    """
    if not drafts:
        return []
    numbers = take_numbers(connection, "experiment", len(drafts), is_used)
    now = store_time(connection)
    for at, (number, draft) in enumerate(zip(numbers, drafts, strict=True)):
        if members is not None and at in members:
            draft = replace(draft, members=tuple(numbers[place] for place in members[at]))
        add_experiment(connection, draft, number, now)
        if tag_name is not None:
            connection.execute(insert(tag).values(experiment=number, tag=tag_name))
    return [get_experiment(connection, number) for number in numbers]


def add_experiment(connection: Connection, draft: ExperimentDraft, number: int, created: datetime) -> Experiment:
    """Register `draft` under `number`; raise `ValueError` if its pins disagree."""
    values = {
        **vars(draft),
        "tuned": None if draft.tuned is None else asdict(draft.tuned),
        "subset": draft.subset if draft.subset < 1 else None,
        "number": number,
        "created": created,
        "leaked": _check_pins(connection, draft),
        "archived": False,
    }
    del values["members"]
    connection.execute(insert(experiment).values(values))
    if draft.members:
        rows = [{"experiment": number, "position": at, "member": member} for at, member in enumerate(draft.members)]
        connection.execute(insert(experiment_member), rows)
    return get_experiment(connection, number)


def get_experiment(connection: Connection, number: int) -> Experiment:
    """Return experiment `number`."""
    row = connection.execute(_select(*_ALL).where(experiment.c.number == number)).first()
    if row is None:
        raise no_experiment(connection, number)
    return _experiment(row, _other_values(connection, [row])[number])


def get_trials(connection: Connection, parent: int) -> list[Experiment]:
    """Return the tuning trials of experiment `parent`, oldest first, including those in the trash."""
    query = _select(*_ALL).where(experiment.c.parent == parent, experiment.c.kind == "trial")
    rows = connection.execute(query.order_by(experiment.c.number)).all()
    others = _other_values(connection, rows)
    return [_experiment(row, others[row.number]) for row in rows]


def _experiment(row: Any, others: Mapping[str, Any]) -> Experiment:
    """Return the experiment of a row with all columns and of the values from other tables."""
    values = dict(row._mapping)
    tuned = values.pop("tuned")
    require_objects(row.origin, tuned)
    return Experiment(**values, **others, tuned=None if tuned is None else TuningInfo(**tuned))


def list_experiments(
    connection: Connection, selection: Selection, limit: int | None, offset: int = 0
) -> tuple[list[ExperimentSummary], int]:
    """Return at most `limit` experiments of `selection` after the first `offset`, and the number of all of them."""
    if selection.where is None and not selection.states and _is_sorted_by_database(selection):
        query = _select(*_SUMMARY).order_by(*_order(selection)).limit(limit).offset(offset)
        rows = connection.execute(query.where(*_matching(selection))).all()
        count = len(rows)
        if offset or count == limit:
            count = int(connection.execute(_select(func.count()).where(*_matching(selection))).scalar_one())
    else:
        numbers = _select_numbers(connection, selection)
        count = len(numbers)
        rows = _rows(connection, numbers[offset : None if limit is None else offset + limit])
    others = _other_values(connection, rows)
    return [ExperimentSummary(**row._mapping, **others[row.number]) for row in rows], count


def _is_sorted_by_database(selection: Selection) -> bool:
    """Return whether the order is that of numbers and dates in the database; it may sort text by another locale."""
    key = selection.sort_key
    return key is None or (key in _STORED and FIELD_TYPES[key] is not str)


def _order(selection: Selection) -> tuple[Any, ...]:
    """Return the order of a selection: experiments without the value come last, the newest first among equals."""
    newest, key = experiment.c.number.desc(), selection.sort_key
    if key is None:
        return (newest,)
    column = getattr(_STORED[key], "element", _STORED[key])  # without the label
    return (column.is_(None), column.desc() if (selection.sort or "").startswith("-") else column, newest)


def _select_numbers(connection: Connection, selection: Selection) -> list[int]:
    """Return the numbers of the experiments of `selection`, in its order. Only the columns that it needs are read."""
    condition, key = selection.condition(), selection.sort_key
    names = (condition.names if condition else frozenset()) | ({key} if key else set())
    if selection.states:
        names |= {"state"}
    columns = [experiment.c.number, *(_STORED[name] for name in sorted(names & _STORED.keys() - {"number"}))]
    of_recipe = names - _STORED.keys() - {*_PROGRESS, "tags"}
    if of_recipe:
        columns.append(experiment.c.recipe)
    query = _select(*columns).order_by(experiment.c.number.desc())
    keys = [column.name for column in columns]
    found = [dict(zip(keys, row, strict=True)) for row in connection.execute(query.where(*_matching(selection)))]
    numbers = [values["number"] for values in found]
    if names & set(_PROGRESS):
        _join(found, progress_of_many(connection, numbers, names))
    if "tags" in names:
        _join(found, {number: {"tags": tags} for number, tags in _tags(connection, numbers).items()})
    for values in found if of_recipe else ():
        values |= recipe_values(values.pop("recipe"), of_recipe)
    if selection.states:
        found = [values for values in found if values["state"] in selection.states]
    if condition is not None:
        found = [values for values in found if condition.matches(values)]
    if key is not None:
        present = [values for values in found if values[key] is not None]
        # Values of a recipe may have different types; the name of the type keeps them comparable.
        present.sort(key=lambda v: (_type_name(v[key]), v[key]), reverse=(selection.sort or "").startswith("-"))
        found = present + [values for values in found if values[key] is None]
    return [values["number"] for values in found]


def _type_name(value: object) -> str:
    return "number" if isinstance(value, int | float) else type(value).__name__


def _join(found: list[dict[str, Any]], others: Mapping[int, Mapping[str, Any]]) -> None:
    for values in found:
        values |= others[values["number"]]


def _rows(connection: Connection, numbers: Sequence[int]) -> list[Any]:
    """Return the summary rows of `numbers`, in their order."""
    by_number: dict[int, Any] = {}
    for start in range(0, len(numbers), CHUNK):
        chunk = experiment.c.number.in_(numbers[start : start + CHUNK])
        by_number |= {row.number: row for row in connection.execute(_select(*_SUMMARY).where(chunk))}
    return [by_number[number] for number in numbers]


def _other_values(connection: Connection, rows: Sequence[Any]) -> dict[int, dict[str, Any]]:
    """Return progress, tags and members of the experiments of `rows`, by number."""
    numbers = [row.number for row in rows]
    tags, members = _tags(connection, numbers), _members(connection, numbers)
    of_others = of_other_tools(connection) if any(members.values()) else set()
    return {
        number: {
            **values,
            "tags": tags[number],
            "members": members[number],
            "reads_external": not of_others.isdisjoint(members[number]),
        }
        for number, values in progress_of(connection, numbers).items()
    }


def _members(connection: Connection, numbers: Sequence[int]) -> dict[int, tuple[int, ...]]:
    """Return the members of each of `numbers`, in their order."""
    found: dict[int, tuple[int, ...]] = dict.fromkeys(numbers, ())
    if numbers:
        query = select(experiment_member).order_by(experiment_member.c.experiment, experiment_member.c.position)
        for row in connection.execute(query.where(experiment_member.c.experiment.between(min(numbers), max(numbers)))):
            if row.experiment in found:
                found[row.experiment] += (row.member,)
    return found


def sequences_of(connection: Connection, numbers: Sequence[int]) -> dict[int, list[int]]:
    """Return the sequence experiments that have a member among `numbers`, by number of the member."""
    query = (
        select(experiment_member.c.member, experiment_member.c.experiment)
        .where(experiment_member.c.member.in_(numbers))
        .order_by(experiment_member.c.experiment)
    )
    found: dict[int, list[int]] = {}
    for member, owner in connection.execute(query):
        found.setdefault(member, []).append(owner)
    return found


def of_other_tools(connection: Connection) -> set[int]:
    """Return the numbers of the external experiments and of those that read one, at any depth."""
    found = set(connection.scalars(select(experiment.c.number).where(experiment.c.external)))
    query = select(experiment_member.c.experiment, experiment_member.c.member)
    links = connection.execute(query).all() if found else []
    while more := {owner for owner, member in links if member in found} - found:
        found |= more
    return found


def _tags(connection: Connection, numbers: Sequence[int]) -> dict[int, tuple[str, ...]]:
    """Return the tags of each of `numbers`, sorted."""
    found: dict[int, tuple[str, ...]] = dict.fromkeys(numbers, ())
    if numbers:
        query = select(tag).where(tag.c.experiment.between(min(numbers), max(numbers))).order_by(tag.c.tag)
        for row in connection.execute(query):
            if row.experiment in found:
                found[row.experiment] += (row.tag,)
    return found


def set_scores(connection: Connection, number: int, scores: dict[str, float | None]) -> None:
    """Record the scores of experiment `number`."""
    changed = connection.execute(update(experiment).where(experiment.c.number == number).values(scores))
    if changed.rowcount == 0:
        raise no_experiment(connection, number)


def check_numbers(connection: Connection, numbers: Sequence[int]) -> None:
    """Raise `NotFoundError` unless all of `numbers` exist."""
    known = set(connection.scalars(select(experiment.c.number).where(experiment.c.number.in_(numbers))))
    for number in numbers:
        if number not in known:
            raise no_experiment(connection, number)


def check_free(connection: Connection, number: int) -> None:
    """Raise `ConflictError` if an experiment has this number."""
    name = connection.scalar(select(experiment.c.name).where(experiment.c.number == number))
    if name is not None:
        raise ConflictError(f"The store has another experiment {number}: {name}.", "Export the other one first.")


def check_fold(connection: Connection, number: int, fold: int) -> None:
    """Raise unless experiment `number` has `fold` and is not in the trash.

    The row stays locked until the transaction ends; SQLite locks the database anyway.
    """
    query = (
        select(fold_set.c.k, experiment.c.trashed)
        .join(experiment, experiment.c.fold_set_id == fold_set.c.id)
        .where(experiment.c.number == number)
        .with_for_update(of=experiment)
    )
    row = connection.execute(query).first()
    if row is None:
        raise no_experiment(connection, number)
    if row.trashed is not None:
        raise ConflictError(f"Experiment {number} is in the trash.", f"`ichx exp restore {number}` restores it.")
    if not 0 <= fold < row.k:
        raise NotFoundError(f"Experiment {number} has no fold {fold}.", f"Use a fold from 0 to {row.k - 1}.")


def _matching(selection: Selection) -> list[ColumnElement[bool]]:
    """Return the conditions that the database can evaluate."""
    wanted = {
        dataset_version.c.dataset: selection.dataset,
        experiment.c.kind: selection.kind,
        experiment.c.parent: selection.parent,
        experiment.c.recipe_digest: selection.recipe_digest,
        experiment.c.archived: selection.archived,
    }
    found = [column == value for column, value in wanted.items() if value is not None]
    if selection.numbers is not None:
        found.append(experiment.c.number.in_(selection.numbers))
    if selection.trashed is not None:
        found.append(experiment.c.trashed.is_not(None) if selection.trashed else experiment.c.trashed.is_(None))
    if selection.since is not None:
        found.append(experiment.c.created >= selection.since)
    for name in selection.tags:
        found.append(exists().where(tag.c.experiment == experiment.c.number, tag.c.tag == name))
    return found


def _select(*columns: Any) -> Select[Any]:
    return (
        select(*columns)
        .select_from(experiment)
        .join(dataset_version, dataset_version.c.id == experiment.c.version_id)
        .join(fold_set, fold_set.c.id == experiment.c.fold_set_id)
    )


def _check_pins(connection: Connection, draft: ExperimentDraft) -> bool:
    """Raise `ValueError` unless the pins of the draft agree; return whether its folds leak."""
    query = (
        select(fold_set.c.digest, dataset_version.c.label_digest, fold_set.c.leaking_patients)
        .join(dataset_version, dataset_version.c.id == fold_set.c.version_id)
        .where(fold_set.c.id == draft.fold_set_id, dataset_version.c.id == draft.version_id)
    )
    pinned = connection.execute(query).first()
    if pinned is None:
        raise ValueError(f"dataset version {draft.version_id} has no fold set {draft.fold_set_id}")
    if (pinned.digest, pinned.label_digest) != (draft.fold_digest, draft.label_digest):
        raise ValueError(
            "the fold and label digests of the draft differ from those of its fold set and dataset version"
        )
    return bool(pinned.leaking_patients > 0)


def no_experiment(connection: Connection, number: int) -> NotFoundError:
    """Return the error for an unknown number."""
    known = connection.scalars(select(experiment.c.number).order_by(experiment.c.number.desc()).limit(10)).all()
    newest = f"The newest are {', '.join(map(str, known))}. `ichx exp list` shows all."
    return NotFoundError(f"There is no experiment {number}.", newest if known else "`ichx exp new` creates the first.")
