"""Deleting a dataset that nothing stands on, as functions over an open connection. Not for its files."""

from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import Connection, delete, select

from ichx.errors import raise_problems
from ichx.store import runs
from ichx.store.datasets import get_dataset
from ichx.store.snapshots import Prediction
from ichx.store.tables import dataset, dataset_version, ensemble, experiment, fold_set, prediction, run


def predictions_of(connection: Connection, name: str) -> list[Prediction]:
    """Return the predictions of the slices of the dataset `name`, in any of its versions."""
    get_dataset(connection, name)
    query = select(prediction).where(prediction.c.version_id.in_(_versions(connection, name)))
    query = query.order_by(prediction.c.experiment, prediction.c.version_id, prediction.c.fold, prediction.c.view)
    return [Prediction(**row._mapping) for row in connection.execute(query)]


def check_unused(connection: Connection, name: str) -> None:
    """Raise `IchxError` where something stands on the dataset `name`: experiments, ensembles, test sets, runs."""
    test_of = get_dataset(connection, name).test_of
    versions = _versions(connection, name)
    numbers = connection.scalars(select(experiment.c.number).where(experiment.c.version_id.in_(versions))).all()
    blends = connection.scalars(select(ensemble.c.number).where(ensemble.c.version_id.in_(versions))).all()
    tests = connection.scalars(select(dataset.c.name).where(dataset.c.test_of == name).order_by(dataset.c.name)).all()
    problems = [
        f"{name} is in use: {_listed(what, found)} on it"
        for what, found in (("experiment", numbers), ("ensemble", blends), ("test set", tests))
        if found
    ]
    if test_of is not None:
        problems += _busy(connection, test_of)
    remedies = [f"`ichx exp rm {' '.join(map(str, numbers))}` and `ichx gc`"] if numbers and not blends else []
    remedies += [f"`ichx data rm {test}`" for test in tests]
    remedy = f"delete that first: {', '.join(remedies)}" if remedies else "end those runs first"
    raise_problems(problems, "what a blend was made of is kept" if blends else remedy)


def delete_dataset(connection: Connection, name: str) -> None:
    """Delete the dataset `name` with its versions, its folds and the predictions of it; see `check_unused`."""
    check_unused(connection, name)
    versions = _versions(connection, name)
    # The tables that lean on others first: not every database has cascades on.
    connection.execute(delete(prediction).where(prediction.c.version_id.in_(versions)))
    connection.execute(delete(fold_set).where(fold_set.c.version_id.in_(versions)))
    connection.execute(delete(dataset_version).where(dataset_version.c.dataset == name))
    connection.execute(delete(dataset).where(dataset.c.name == name))


def _versions(connection: Connection, name: str) -> Sequence[int]:
    return connection.scalars(select(dataset_version.c.id).where(dataset_version.c.dataset == name)).all()


def _busy(connection: Connection, train: str) -> list[str]:
    """Return a line for each run on the dataset `train` that is going on: it predicts all test sets at its end."""
    versions = _versions(connection, train)
    own = select(experiment.c.number).where(experiment.c.version_id.in_(versions))
    query = select(*runs.STATE_COLUMNS).where(run.c.experiment.in_(own), run.c.state == "running")
    now = datetime.now(UTC)
    return [
        f"fold {row.fold} of experiment {row.experiment} is being run, and predicts {train}'s test sets at its end"
        for row in connection.execute(query)
        if runs.shown_state(row, now) in runs.LIVE_STATES
    ]


def _listed(what: str, found: Sequence[object]) -> str:
    names = ", ".join(map(str, found))
    return f"{what} {names} stands" if len(found) == 1 else f"{what}s {names} stand"
