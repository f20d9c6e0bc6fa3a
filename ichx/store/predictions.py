"""Queries for predictions and feature tables, over an open connection. Logits and features are in files."""

from collections.abc import Sequence

from sqlalchemy import Connection, delete, insert, select

from ichx.store.clock import store_time
from ichx.store.prediction_snapshots import (
    FeatureTableDraft,
    FeatureTableRecord,
    Prediction,
    PredictionDraft,
    StoredPredictor,
)
from ichx.store.tables import experiment, feature_table, prediction

_KEY = ("experiment", "fold", "version_id", "view")


def add_predictions(connection: Connection, drafts: Sequence[PredictionDraft]) -> None:
    """Record predictions; each replaces one of the same experiment, fold, version and view."""
    now = store_time(connection)
    for draft in drafts:
        connection.execute(delete(prediction).where(*(prediction.c[name] == getattr(draft, name) for name in _KEY)))
        connection.execute(insert(prediction).values(**vars(draft), created=now))


def list_predictions(
    connection: Connection, number: int, role: str | None, view: str | None, version_id: int | None
) -> list[Prediction]:
    """Return the matching predictions of an experiment, sorted by version, view and fold."""
    wanted = {"role": role, "view": view, "version_id": version_id}
    query = (
        select(prediction)
        .where(prediction.c.experiment == number)
        .where(*(prediction.c[name] == value for name, value in wanted.items() if value is not None))
        .order_by(prediction.c.version_id, prediction.c.view, prediction.c.fold)
    )
    return [Prediction(**row._mapping) for row in connection.execute(query)]


def list_predictors(connection: Connection, version_id: int | None, limit: int) -> list[StoredPredictor]:
    """Return the experiments outside the trash that have predicted a dataset version, the best first.

    None for those with a finished fold, whatever their dataset.
    """
    wanted = prediction.c.role == "oof" if version_id is None else prediction.c.version_id == version_id
    columns = (prediction.c.experiment, experiment.c.name, experiment.c.score, prediction.c.role, prediction.c.fold)
    query = (
        select(*columns)
        .join(experiment, experiment.c.number == prediction.c.experiment)
        .where(wanted, experiment.c.trashed.is_(None))
        .group_by(*columns)  # not distinct, after which PostgreSQL sorts by selected columns only
        .order_by(experiment.c.score.is_(None), experiment.c.score, prediction.c.experiment, prediction.c.fold)
    )
    found: dict[int, StoredPredictor] = {}
    for number, name, score, role, fold in connection.execute(query):
        known = found.get(number)
        if known is None and len(found) == limit:
            break
        folds = () if known is None else known.folds
        found[number] = StoredPredictor(number, name, score, role, folds if fold in folds else (*folds, fold))
    return list(found.values())


def add_feature_table(connection: Connection, draft: FeatureTableDraft) -> None:
    """Record a feature table; it replaces one of the same experiment, fold, version and view."""
    connection.execute(delete(feature_table).where(*(feature_table.c[name] == getattr(draft, name) for name in _KEY)))
    connection.execute(insert(feature_table).values(**vars(draft), created=store_time(connection)))


def list_feature_tables(connection: Connection, number: int | None) -> list[FeatureTableRecord]:
    """Return the feature tables of an experiment, or of all, sorted by experiment, version, view and fold."""
    query = select(feature_table)
    if number is not None:
        query = query.where(feature_table.c.experiment == number)
    columns = feature_table.c
    query = query.order_by(columns.experiment, columns.version_id, columns.view, columns.fold)
    return [FeatureTableRecord(**row._mapping) for row in connection.execute(query)]


def remove_feature_tables(connection: Connection, number: int) -> None:
    """Remove the records of the feature tables of an experiment."""
    connection.execute(delete(feature_table).where(feature_table.c.experiment == number))
