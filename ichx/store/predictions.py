"""Queries for predictions, over an open connection. The logits are in Parquet files, not in the store."""

from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import Connection, delete, insert, select

from ichx.store.snapshots import Prediction, PredictionDraft
from ichx.store.tables import prediction

_KEY = ("experiment", "fold", "version_id", "view")


def add_predictions(connection: Connection, drafts: Sequence[PredictionDraft]) -> None:
    """Record predictions; each replaces one of the same experiment, fold, version and view."""
    now = datetime.now(UTC)
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
