"""Queries that delete experiments (trash, restore, purge) and datasets, over an open connection. Not their files."""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, delete, select, update

from ichx.errors import ConflictError
from ichx.store import runs
from ichx.store.clock import store_time
from ichx.store.datasets import get_dataset, mixtures_of
from ichx.store.experiments import sequences_of
from ichx.store.jobs import check_idle
from ichx.store.prediction_snapshots import Prediction
from ichx.store.tables import (
    dataset,
    dataset_version,
    ensemble,
    ensemble_member,
    epoch_metric,
    experiment,
    experiment_member,
    feature_table,
    fold_set,
    job,
    note,
    prediction,
    review,
    run,
    run_stage,
    tag,
)


def trash(connection: Connection, numbers: Sequence[int]) -> None:
    """Move experiments to the trash; raise `ConflictError`, and move none of them, while one runs or has a job."""
    check_idle(connection, numbers)
    for row in _live_runs(connection, run.c.experiment.in_(numbers)):
        raise ConflictError(
            f"Fold {row.fold} of experiment {row.experiment} is running in process {row.pid} on {row.host}.",
            "End that run first.",
        )
    connection.execute(
        update(experiment)
        .where(experiment.c.number.in_(numbers), experiment.c.trashed.is_(None))
        .values(trashed=store_time(connection))
    )


def restore(connection: Connection, numbers: Sequence[int]) -> None:
    """Restore experiments from the trash."""
    connection.execute(update(experiment).where(experiment.c.number.in_(numbers)).values(trashed=None))


def ensembles_containing(connection: Connection, numbers: Sequence[int]) -> dict[int, list[int]]:
    """Return the ensembles that have a member among `numbers`, by number of the member."""
    query = (
        select(ensemble_member.c.experiment, ensemble_member.c.ensemble)
        .where(ensemble_member.c.experiment.in_(numbers))
        .order_by(ensemble_member.c.ensemble)
    )
    found: dict[int, list[int]] = {}
    for number, owner in connection.execute(query):
        found.setdefault(number, []).append(owner)
    return found


def purge(connection: Connection, number: int) -> None:
    """Delete an experiment in the trash with everything recorded about it. Its number is not reused."""
    check_idle(connection, [number])
    trashed = connection.scalar(select(experiment.c.trashed).where(experiment.c.number == number))
    if trashed is None:
        raise ConflictError(f"Experiment {number} is not in the trash.", f"Run `ichx exp rm {number}` first.")
    owners = ensembles_containing(connection, [number])
    if owners:
        named = ", ".join(map(str, owners[number]))
        raise ConflictError(
            f"Experiment {number} is a member of ensemble {named}.",
            f"Run `ichx ensemble rm {owners[number][0]}` first.",
        )
    readers = sequences_of(connection, [number]).get(number)
    if readers:
        named = ", ".join(map(str, readers))
        raise ConflictError(
            f"Experiment {number} is a member of experiment {named}.", f"Delete experiment {named} first."
        )
    of_experiment = select(run.c.id).where(run.c.experiment == number)
    _delete(
        connection,
        (epoch_metric, epoch_metric.c.run_id.in_(of_experiment)),
        (run_stage, run_stage.c.run_id.in_(of_experiment)),
        (run, run.c.experiment == number),
        (job, job.c.experiment == number),
        (prediction, prediction.c.experiment == number),
        (feature_table, feature_table.c.experiment == number),
        (experiment_member, experiment_member.c.experiment == number),
        (tag, tag.c.experiment == number),
        (note, note.c.experiment == number),
    )
    connection.execute(update(experiment).where(experiment.c.parent == number).values(parent=None))
    _delete(connection, (experiment, experiment.c.number == number))


def predictions_of(connection: Connection, name: str) -> list[Prediction]:
    """Return all predictions for slices of the dataset `name`, in any of its versions."""
    get_dataset(connection, name)
    query = select(prediction).where(prediction.c.version_id.in_(_versions(connection, name)))
    query = query.order_by(prediction.c.experiment, prediction.c.version_id, prediction.c.fold, prediction.c.view)
    return [Prediction(**row._mapping) for row in connection.execute(query)]


def check_unused(connection: Connection, name: str) -> None:
    """Raise `ConflictError` if experiments, ensembles, test sets, mixtures or runs use the dataset `name`."""
    test_of = get_dataset(connection, name).test_of
    versions = _versions(connection, name)
    numbers = connection.scalars(select(experiment.c.number).where(experiment.c.version_id.in_(versions))).all()
    blends = connection.scalars(select(ensemble.c.number).where(ensemble.c.version_id.in_(versions))).all()
    tests = connection.scalars(select(dataset.c.name).where(dataset.c.test_of == name).order_by(dataset.c.name)).all()
    mixtures = mixtures_of(connection, name)
    problems = [
        f"The dataset {name} is used by {kind}{'s' if len(users) > 1 else ''} {', '.join(map(str, users))}."
        for kind, users in (("experiment", numbers), ("ensemble", blends), ("test set", tests), ("mixture", mixtures))
        if users
    ]
    if test_of is not None:
        trained = [*_versions(connection, test_of)]
        for mixture in mixtures_of(connection, test_of):
            trained += _versions(connection, mixture)
        of_train = select(experiment.c.number).where(experiment.c.version_id.in_(trained))
        problems += [
            f"Fold {row.fold} of experiment {row.experiment} is running and will predict the test sets of {test_of}."
            for row in _live_runs(connection, run.c.experiment.in_(of_train))
        ]
    if not problems:
        return
    commands = [f"`ichx exp rm {' '.join(map(str, numbers))}` and `ichx gc`"] if numbers else []
    commands += [f"`ichx data rm {user}`" for user in (*tests, *mixtures)]
    commands = [f"`ichx ensemble rm {blend}`" for blend in blends] + commands
    remedy = f"Run {', '.join(commands)} first." if commands else "End those runs first."
    raise ConflictError("\n".join(problems), remedy)


def delete_dataset(connection: Connection, name: str) -> None:
    """Delete the dataset `name` with its versions, folds, predictions and reviews; raises like `check_unused`."""
    check_unused(connection, name)
    versions = _versions(connection, name)
    _delete(
        connection,
        (prediction, prediction.c.version_id.in_(versions)),
        (feature_table, feature_table.c.version_id.in_(versions)),
        (review, review.c.version_id.in_(versions)),
        (fold_set, fold_set.c.version_id.in_(versions)),
        (dataset_version, dataset_version.c.dataset == name),
        (dataset, dataset.c.name == name),
    )


def _delete(connection: Connection, *conditions: tuple[Table, ColumnElement[bool]]) -> None:
    """Delete rows in this order: referring tables come first, because not every database has cascades enabled."""
    for table, condition in conditions:
        connection.execute(delete(table).where(condition))


def _versions(connection: Connection, name: str) -> Sequence[int]:
    return connection.scalars(select(dataset_version.c.id).where(dataset_version.c.dataset == name)).all()


def _live_runs(connection: Connection, condition: ColumnElement[bool]) -> Iterable[Any]:
    """Return the rows of live runs that meet `condition`."""
    now = store_time(connection)
    query = select(*runs.STATE_COLUMNS).where(condition, run.c.state == "running")
    return [row for row in connection.execute(query) if runs.current_state(row, now) in runs.LIVE_STATES]
