"""The labels of slices for the viewer and the worklist: known ones, pseudo-labels, and why others are unknown."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from ichx.labels import LABELS, PSEUDO

if TYPE_CHECKING:
    from ichx.store import DatasetVersion

ONLY_STUDY: Final = "only its study or series is known to be positive"
NOT_IN_LABELS: Final = "the labels of the dataset do not have it"
NOT_KEPT: Final = "the rule of the pseudo-labels did not keep the slice in any fold"
NO_LABELS: Final = "the dataset has no labels"


def known_labels(row: Mapping[str, Any]) -> dict[str, float | None] | None:
    """Return the labels of a slice, None for an unknown one; None if all are unknown."""
    values = {label: as_number(row[label]) for label in LABELS}
    return None if all(value is None for value in values.values()) else values


def reason_of_version(version: "DatasetVersion | None") -> str:
    """Return why a label may be unknown that its study does not have either; empty for files that are in no dataset."""
    if version is None:
        return ""
    if PSEUDO in version.summary:
        return NOT_KEPT
    return NOT_IN_LABELS if version.label_digest else NO_LABELS


def unknown_labels(row: Mapping[str, Any], reason: str) -> dict[str, str]:
    """Return why each unknown label of a slice is unknown; `reason` is that of its version."""
    found = {}
    for label in LABELS:
        if as_number(row[label]) is None:
            of_study = as_number(row.get(f"study_{label}"))
            found[label] = ONLY_STUDY if of_study is not None and of_study > 0.5 else reason
    return found


def pseudo_labels(row: Mapping[str, Any]) -> dict[str, list[float]] | None:
    """Return the smallest and the largest pseudo-label of a slice over the folds; None without any."""
    found = {}
    for label in LABELS:
        low, high = (as_number(row.get(f"pseudo_{end}_{label}")) for end in ("low", "high"))
        if low is not None and high is not None:
            found[label] = [low, high]
    return found or None


def positive_of_study(study: Mapping[str, Any]) -> list[str]:
    """Return the labels that a row of `StudyIndex.studies` has, while its positive slices are unknown."""
    from ichx.datasets.study_index import SOME_POSITIVE

    return [label for label in LABELS if study[label] == SOME_POSITIVE]


def as_number(value: float | None) -> float | None:
    """Return a value for JSON: None for a missing one."""
    return None if value is None or value != value else float(value)
