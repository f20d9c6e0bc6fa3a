"""Evaluations on test sets and external datasets, which count how often such labels were seen. No row is ever removed.

Scores on the dataset of an experiment itself are those of its OOF predictions and are not counted.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from sqlalchemy import Connection, insert, or_, select

from ichx.store.clock import store_time
from ichx.store.tables import evaluation

EvaluationCommand = Literal["evaluate", "recalibrate", "submit score"]

FILE_CHARACTERS: Final = 255
"""Characters of a stored file name."""


@dataclass(frozen=True)
class EvaluationDraft:
    """Scores of some predictions on some labels."""

    command: EvaluationCommand
    labels: str
    """SHA-256 of the scored slice ids and labels."""
    predictions: str
    """SHA-256 of the scored probabilities."""
    score: float
    """Weighted log loss."""
    dataset: str | None = None
    """The dataset that has the slices; None if none has."""
    version: int | None = None
    """Number of its version."""
    experiment: int | None = None
    ensemble: int | None = None
    file: str | None = None
    """Name of the file with the predictions."""


@dataclass(frozen=True, kw_only=True)
class EvaluationRecord(EvaluationDraft):
    """A recorded evaluation."""

    id: int
    created: datetime


@dataclass(frozen=True)
class EvaluationCount:
    """How often labels were used to score predictions."""

    evaluations: int
    predictions: int
    """Different predictions among them: repeated commands on the same ones count once."""
    first: datetime | None
    last: datetime | None

    @classmethod
    def of(cls, records: "list[EvaluationRecord]") -> "EvaluationCount":
        """Return the count of `records`, oldest first."""
        different = {one.predictions for one in records}
        ends = (records[0].created, records[-1].created) if records else (None, None)
        return cls(len(records), len(different), *ends)


def add_evaluation(connection: Connection, draft: EvaluationDraft) -> EvaluationRecord:
    """Record an evaluation."""
    values = vars(draft) | {"created": store_time(connection)}
    if draft.file is not None:
        values["file"] = draft.file[-FILE_CHARACTERS:]
    added = connection.execute(insert(evaluation).values(**values))
    key = added.inserted_primary_key[0]  # type: ignore[index]  # an insert has one
    row = connection.execute(select(evaluation).where(evaluation.c.id == key)).one()
    return EvaluationRecord(**row._mapping)


def list_evaluations(connection: Connection, dataset: str | None, labels: str | None) -> list[EvaluationRecord]:
    """Return the evaluations on a dataset or on the same labels, oldest first; all if both are None."""
    query = select(evaluation).order_by(evaluation.c.created, evaluation.c.id)
    columns = ((evaluation.c.dataset, dataset), (evaluation.c.labels, labels))
    if wanted := [column == value for column, value in columns if value is not None]:
        query = query.where(or_(*wanted))
    return [EvaluationRecord(**row._mapping) for row in connection.execute(query)]
