"""Readers' reviews of slices: checked, recorded in the store, and in `reviews.json` in the folder of the version.

The file is there for `ichx store rebuild`, because no other file knows what a reader saw.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ichx.errors import CorruptFileError, InvalidInputError, NotFoundError, StorageError
from ichx.files import write_text
from ichx.labels import LABELS
from ichx.locks import file_lock
from ichx.store import FINDINGS, Review, ReviewDraft
from ichx.text import escape, parse_json

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import DatasetVersion

REVIEWS_FILE: Final = "reviews.json"
MAX_NOTE: Final = 4000
"""Characters of a note."""
MAX_READER: Final = 200
"""Characters of a reader's name."""
COLUMNS: Final = ("id", "dataset", "version", "slice", "finding", "label", "note", "reader", "created", "withdrawn")
"""Columns of reviews as CSV."""

_FIELDS: Final = ("slice", "finding", "label", "note", "reader")


def add_review(project: "Project", version: "DatasetVersion", draft: ReviewDraft) -> Review:
    """Record a review of a slice of `version`. Control characters in texts are recorded as escape sequences.

    Raises:
        InvalidInputError: The finding or the label is unknown, or a text is too long.
        NotFoundError: The version does not have the slice.
        StoreError: The store cannot be written.
    """
    reader = escape((draft.reader or "").strip(), lines=True) or None
    draft = replace(draft, version_id=version.id, note=escape(draft.note.strip()), reader=reader)
    if draft.finding not in FINDINGS:
        raise InvalidInputError(f"Unknown finding: {draft.finding!r}.", f"Use {', '.join(FINDINGS)}.")
    if draft.label is not None and draft.label not in LABELS:
        raise InvalidInputError(f"Unknown label: {draft.label!r}.", f"Use {', '.join(LABELS)}.")
    for text, most, what in ((draft.note, MAX_NOTE, "note"), (reader or "", MAX_READER, "name of the reader")):
        if len(text) > most:
            raise InvalidInputError(f"The {what} has {len(text):,} characters.", f"Use at most {most:,}.")
    _check_slice(project, version, draft.slice)
    added = project.store.add_review(draft)
    _write(project, version)
    return added


def withdraw_review(project: "Project", review_id: int) -> Review:
    """Withdraw a review, which stays in the history. Raises `NotFoundError` and `StoreError`."""
    withdrawn = project.store.withdraw_review(review_id)
    _write(project, project.store.version_by_id(withdrawn.version_id))
    return withdrawn


def restore_reviews(project: "Project", version: "DatasetVersion") -> int:
    """Record the reviews in the folder of `version` that the store lacks; return the number of changes.

    Raises:
        CorruptFileError: The file is damaged.
    """
    path = project.workspace.root / version.path / REVIEWS_FILE
    found = _read(path, version)
    return project.store.restore_reviews(version.id, found) if found else 0


def csv_rows(reviews: Sequence[Review]) -> list[tuple[object, ...]]:
    """Return reviews as rows of `COLUMNS`; times are in ISO 8601."""
    return [tuple((vars(one) | _dates(one))[name] for name in COLUMNS) for one in reviews]


def _write(project: "Project", version: "DatasetVersion") -> None:
    """Write the reviews of `version` to its folder, unless that is read-only: the store has them."""
    path = project.workspace.root / version.path / REVIEWS_FILE
    # Two readers at the same time: the later file must have both reviews.
    with suppress(OSError, StorageError), file_lock(project.workspace.root / "db" / "reviews.lock"):
        found = project.store.reviews(version.dataset, number=version.number, withdrawn=True)
        reviews = [{**{name: getattr(one, name) for name in _FIELDS}, **_dates(one)} for one in found]
        write_text(path, json.dumps({"reviews": reviews}, indent=1) + "\n", "the reviews of slices")


def _dates(review: Review) -> dict[str, str | None]:
    withdrawn = None if review.withdrawn is None else review.withdrawn.isoformat()
    return {"created": review.created.isoformat(), "withdrawn": withdrawn}


def _read(path: Path, version: "DatasetVersion") -> list[Review]:
    try:
        rows: list[dict[str, Any]] = parse_json(path.read_bytes())["reviews"]
        return [
            Review(
                **{name: row[name] for name in _FIELDS},
                id=0,
                version_id=version.id,
                dataset=version.dataset,
                version=version.number,
                created=datetime.fromisoformat(row["created"]),
                withdrawn=None if row["withdrawn"] is None else datetime.fromisoformat(row["withdrawn"]),
            )
            for row in rows
        ]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptFileError(f"{path} is damaged: {error}.", "Restore it from a backup, or delete it.") from error


def _check_slice(project: "Project", version: "DatasetVersion", slice_id: str) -> None:
    """Raise `NotFoundError` unless `slice_id` is a usable slice of `version`."""
    from ichx.datasets.dataset import has_slice

    if not has_slice(project.workspace, version, slice_id):
        raise NotFoundError(
            f"{version.dataset} version {version.number} has no slice {slice_id!r}.", "Use the id of a slice of it."
        )
