"""Queries for predictions and feature tables, over an open connection. Logits and features are in files."""

from collections.abc import Sequence

from sqlalchemy import Connection, delete, insert, select

from ichx.store.clock import store_time
from ichx.store.snapshots import FeatureTableDraft, FeatureTableRecord, Prediction, PredictionDraft
from ichx.store.tables import feature_table, prediction

_KEY = ("experiment", "fold", "version_id", "view")


def add_predictions(connection: Connection, drafts: Sequence[PredictionDraft]) -> None:
    """Record predictions; each replaces one of the same experiment, fold, version and view."""
    now = store_time(connection)
    for draft in drafts:
        connection.execute(delete(prediction).where(*(prediction.c[name] == getattr(draft, name) for name in _KEY)))
        connection.execute(insert(prediction).values(**vars(draft), created=now))


def list_predictions(
    connection: Connection, experiment: int, role: str | None, view: str | None, version_id: int | None
) -> list[Prediction]:
    """Return the matching predictions of an experiment, sorted by version, view and fold."""
    wanted = {"role": role, "view": view, "version_id": version_id}
    query = (
        select(prediction)
        .where(prediction.c.experiment == experiment)
        .where(*(prediction.c[name] == value for name, value in wanted.items() if value is not None))
        .order_by(prediction.c.version_id, prediction.c.view, prediction.c.fold)
    )
    return [Prediction(**row._mapping) for row in connection.execute(query)]


def add_feature_table(connection: Connection, draft: FeatureTableDraft) -> None:
    """Record a feature table; it replaces one of the same experiment, fold, version and view."""
    connection.execute(delete(feature_table).where(*(feature_table.c[name] == getattr(draft, name) for name in _KEY)))
    connection.execute(insert(feature_table).values(**vars(draft), created=store_time(connection)))


def list_feature_tables(connection: Connection, experiment: int | None) -> list[FeatureTableRecord]:
    """Return the feature tables of an experiment, or of all, sorted by experiment, version, view and fold."""
    query = select(feature_table)
    if experiment is not None:
        query = query.where(feature_table.c.experiment == experiment)
    columns = feature_table.c
    query = query.order_by(columns.experiment, columns.version_id, columns.view, columns.fold)
    return [FeatureTableRecord(**row._mapping) for row in connection.execute(query)]


def remove_feature_tables(connection: Connection, experiment: int) -> None:
    """Remove the records of the feature tables of an experiment."""
    connection.execute(delete(feature_table).where(feature_table.c.experiment == experiment))
