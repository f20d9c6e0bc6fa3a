"""Reviews of slices by readers, e.g. `label wrong`, and their queries over an open connection.

A review is a person's statement about a slice; a caveat of a score is a mark. Reviews are withdrawn, never deleted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, get_args

from sqlalchemy import Connection, Select, insert, select, update

from ichx.errors import NotFoundError
from ichx.store.clock import store_time
from ichx.store.tables import dataset_version, review

Finding = Literal["label wrong", "artefact", "other"]
FINDINGS: Final[tuple[Finding, ...]] = get_args(Finding)


@dataclass(frozen=True)
class ReviewDraft:
    """What a reader states about a slice."""

    version_id: int
    """Dataset version whose slice the reader saw."""
    slice: str
    """Slice id in its catalog."""
    finding: Finding
    label: str | None = None
    """Label that the finding is about."""
    note: str = ""
    reader: str | None = None
    """Name of the reader, if given."""


@dataclass(frozen=True, kw_only=True)
class Review(ReviewDraft):
    """A recorded review."""

    id: int
    dataset: str
    version: int
    """Number of the dataset version."""
    created: datetime
    withdrawn: datetime | None = None
    """When it was withdrawn."""


_RESTORED = ("slice", "finding", "label", "note", "reader", "created")
"""What identifies a review of a dataset version in every store."""


def add_review(connection: Connection, draft: ReviewDraft) -> Review:
    """Record a review."""
    added = connection.execute(insert(review).values(**vars(draft), created=store_time(connection)))
    return _get(connection, added.inserted_primary_key[0])  # type: ignore[index]  # an insert has one


def withdraw_review(connection: Connection, review_id: int) -> Review:
    """Withdraw a review, unless it is withdrawn already."""
    found = _get(connection, review_id)
    if found.withdrawn is not None:
        return found
    changed = update(review).where(review.c.id == review_id, review.c.withdrawn.is_(None))
    connection.execute(changed.values(withdrawn=store_time(connection)))
    return _get(connection, review_id)


def list_reviews(
    connection: Connection, dataset: str, number: int | None, slices: Sequence[str] | None, withdrawn: bool
) -> list[Review]:
    """Return the matching reviews of slices of a dataset, oldest first."""
    query = _reviews().where(dataset_version.c.dataset == dataset).order_by(review.c.created, review.c.id)
    if number is not None:
        query = query.where(dataset_version.c.number == number)
    if slices is not None:
        query = query.where(review.c.slice.in_(slices))
    if not withdrawn:
        query = query.where(review.c.withdrawn.is_(None))
    return [Review(**row._mapping) for row in connection.execute(query)]


def restore_reviews(connection: Connection, version_id: int, found: Sequence[Review]) -> int:
    """Add the reviews among `found` that are missing, withdraw those that are withdrawn there; return the changes."""
    rows = connection.execute(select(review).where(review.c.version_id == version_id))
    known = {tuple(getattr(row, name) for name in _RESTORED): row for row in rows}
    changes = 0
    for one in found:
        row = known.get(tuple(getattr(one, name) for name in _RESTORED))
        if row is None:
            values = {name: getattr(one, name) for name in (*_RESTORED, "withdrawn")}
            connection.execute(insert(review).values(**values, version_id=version_id))
        elif one.withdrawn is not None and row.withdrawn is None:
            connection.execute(update(review).where(review.c.id == row.id).values(withdrawn=one.withdrawn))
        else:
            continue
        changes += 1
    return changes


def _get(connection: Connection, review_id: int) -> Review:
    row = connection.execute(_reviews().where(review.c.id == review_id)).first()
    if row is None:
        raise NotFoundError(f"There is no review {review_id}.", "`ichx data reviews NAME` lists the reviews.")
    return Review(**row._mapping)


def _reviews() -> Select[Any]:
    joined = dataset_version.c.id == review.c.version_id
    columns = (dataset_version.c.dataset, dataset_version.c.number.label("version"))
    return select(review, *columns).join(dataset_version, joined)
