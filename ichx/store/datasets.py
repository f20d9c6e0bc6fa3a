"""Queries for datasets, their versions and folds, over an open connection. Deleting a dataset: `deletion`."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, func, insert, select

from ichx.errors import ConflictError, InvalidInputError, NotFoundError
from ichx.store.clock import store_time
from ichx.store.dataset_snapshots import Dataset, DatasetVersion, FoldSet, VersionDraft, part_names
from ichx.store.tables import dataset, dataset_version, fold_set
from ichx.store.values import require_objects


def add_version(connection: Connection, draft: VersionDraft) -> DatasetVersion:
    """Record a version, and its dataset if it is new."""
    # The row lock is for databases with concurrent writers; SQLite has only one.
    known = select(dataset.c.test_of).where(dataset.c.name == draft.dataset).with_for_update()
    row = connection.execute(known).first()
    now = store_time(connection)
    if row is None:
        if draft.test_of is not None:
            _check_test_of(connection, draft)
        connection.execute(insert(dataset).values(name=draft.dataset, test_of=draft.test_of, created=now))
    elif row.test_of != draft.test_of:
        kind = f"a test set of {row.test_of}" if row.test_of else "not a test set"
        raise ConflictError(f"The dataset {draft.dataset} is {kind}.", "Use another name for the new data.")
    return _insert_version(connection, draft, max(version_numbers(connection, draft.dataset), default=0) + 1, now)


def restore_version(connection: Connection, draft: VersionDraft, number: int, created: datetime) -> DatasetVersion:
    """Record a version that was lost, and its dataset if that was lost, too."""
    if connection.scalar(select(dataset.c.name).where(dataset.c.name == draft.dataset)) is None:
        if draft.test_of is not None:
            _check_test_of(connection, draft)
        connection.execute(insert(dataset).values(name=draft.dataset, test_of=draft.test_of, created=created))
    return _insert_version(connection, draft, number, created)


def version_numbers(connection: Connection, name: str) -> list[int]:
    """Return the numbers of the recorded versions of a dataset, none if it is unknown."""
    query = select(dataset_version.c.number).where(dataset_version.c.dataset == name)
    return list(connection.scalars(query.order_by(dataset_version.c.number)))


def _insert_version(connection: Connection, draft: VersionDraft, number: int, created: datetime) -> DatasetVersion:
    values = {name: value for name, value in vars(draft).items() if name not in ("test_of", "folds")}
    values |= {"number": number, "summary": dict(draft.summary), "created": created}
    added = connection.execute(insert(dataset_version).values(values))
    version_id = added.inserted_primary_key[0]  # type: ignore[index]  # an insert has one
    if draft.folds:
        folds = [{**vars(f), "version_id": version_id, "leaky": f.leaky} for f in draft.folds]
        connection.execute(insert(fold_set), folds)
    return version_by_id(connection, version_id)


def datasets(connection: Connection, name: str | None = None) -> list[Dataset]:
    """Return all datasets sorted by name, or only the one called `name`."""
    latest = _latest_numbers().subquery()
    query = (
        select(dataset, dataset_version.c.number, dataset_version.c.label_digest)
        .join(latest, latest.c.dataset == dataset.c.name)
        .join(
            dataset_version,
            (dataset_version.c.dataset == dataset.c.name) & (dataset_version.c.number == latest.c.number),
        )
        .order_by(dataset.c.name)
    )
    if name is not None:
        query = query.where(dataset.c.name == name)
    return [
        Dataset(
            name=row.name,
            trainable=row.label_digest is not None and row.test_of is None,
            test_of=row.test_of,
            versions=row.number,
            created=row.created,
        )
        for row in connection.execute(query)
    ]


def get_dataset(connection: Connection, name: str) -> Dataset:
    """Return the dataset called `name`."""
    found = datasets(connection, name)
    if not found:
        raise _no_dataset(connection, name)
    return found[0]


def version(connection: Connection, name: str, number: int | None) -> DatasetVersion:
    """Return version `number` of a dataset, or its latest version."""
    last = get_dataset(connection, name).versions
    wanted = last if number is None else number
    query = _versions().where(dataset_version.c.dataset == name, dataset_version.c.number == wanted)
    found = _read_versions(connection, query)
    if not found:
        raise NotFoundError(f"The dataset {name} has no version {number}.", f"It has versions 1 to {last}.")
    return found[0]


def version_by_id(connection: Connection, version_id: int) -> DatasetVersion:
    """Return the version with this id."""
    found = _read_versions(connection, _versions().where(dataset_version.c.id == version_id))
    if not found:
        raise NotFoundError(f"No dataset version has the id {version_id}.", "`ichx data list` shows all datasets.")
    return found[0]


def test_sets(connection: Connection, name: str) -> list[DatasetVersion]:
    """Return the latest version of each test set of the dataset `name`, sorted by name.

    A mixture has those of its parts, too.
    """
    owners = [name, *version(connection, name, None).part_names]
    latest = _latest_numbers().subquery()
    query = (
        _versions()
        .join(
            latest,
            (latest.c.dataset == dataset_version.c.dataset) & (latest.c.number == dataset_version.c.number),
        )
        .where(dataset.c.test_of.in_(owners))
        .order_by(dataset.c.name)
    )
    return _read_versions(connection, query)


def mixtures_of(connection: Connection, name: str) -> list[str]:
    """Return the mixtures that have the dataset `name` as a part in any version, sorted by name."""
    rows = connection.execute(select(dataset_version.c.dataset, dataset_version.c.summary)).all()
    return sorted({row.dataset for row in rows if name in part_names(row.summary)})


def _latest_numbers() -> Select[Any]:
    number = func.max(dataset_version.c.number).label("number")
    return select(dataset_version.c.dataset, number).group_by(dataset_version.c.dataset)


def _versions() -> Select[Any]:
    return select(dataset_version, dataset.c.test_of).join(dataset, dataset.c.name == dataset_version.c.dataset)


def _read_versions(connection: Connection, query: Select[Any]) -> list[DatasetVersion]:
    rows = connection.execute(query).all()
    folds = _folds(connection, [row.id for row in rows])
    for row in rows:
        require_objects(row.summary)
    return [DatasetVersion(**row._mapping, folds=folds.get(row.id, ())) for row in rows]


def _folds(connection: Connection, version_ids: Sequence[int]) -> dict[int, tuple[FoldSet, ...]]:
    query = select(fold_set).where(fold_set.c.version_id.in_(version_ids)).order_by(fold_set.c.id)
    found: dict[int, tuple[FoldSet, ...]] = {}
    for row in connection.execute(query):
        values = dict(row._mapping)
        owner = values.pop("version_id")
        del values["leaky"]  # a property of FoldSet
        found[owner] = (*found.get(owner, ()), FoldSet(**values))
    return found


def _check_test_of(connection: Connection, draft: VersionDraft) -> None:
    assert draft.test_of is not None
    if draft.test_of == draft.dataset:
        raise InvalidInputError(f"{draft.dataset} cannot be a test set of itself.", "Name the training set.")
    owner = get_dataset(connection, draft.test_of)
    if owner.test_of is not None:
        raise InvalidInputError(f"{owner.name} is itself a test set, of {owner.test_of}.", f"Use {owner.test_of}.")


def _no_dataset(connection: Connection, name: str) -> NotFoundError:
    known = connection.scalars(select(dataset.c.name).order_by(dataset.c.name)).all()
    remedy = f"Known datasets: {', '.join(known[:10])}." if known else "`ichx data add` adds the first dataset."
    return NotFoundError.named("dataset", name, known, remedy)
