"""Stored thresholds: `thresholds.json` in the folder of an experiment or ensemble.

There is at most one per label, unit and test-time augmentation. `operating_points` chooses and applies them.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ichx.errors import CorruptFileError, IchxError, NotFoundError
from ichx.evaluation.bootstrap import Interval
from ichx.evaluation.call_scores import CallScores
from ichx.evaluation.choices import Tta
from ichx.evaluation.subgroup_scores import Unit
from ichx.evaluation.subject import Subject
from ichx.evaluation.subject_oof import oof_digest
from ichx.evaluation.threshold_choice import ThresholdRequest, check_request
from ichx.experiment_files import THRESHOLDS_FILE
from ichx.files import open_file, write_text
from ichx.labels import LABELS
from ichx.locks import file_lock
from ichx.text import parse_json

if TYPE_CHECKING:
    from ichx.project import Project


@dataclass(frozen=True)
class ChosenThreshold:
    """A threshold with what it does on the OOF predictions that it was chosen on."""

    request: ThresholdRequest
    threshold: float
    low: float | None
    """Interval of the threshold: each draw of patients chooses one. None with too few patients."""
    high: float | None
    calls: CallScores
    digest: str
    """16 hex digits of the OOF predictions."""
    created: str
    """ISO 8601, UTC."""

    @property
    def key(self) -> tuple[str, str, str]:
        """What identifies a threshold of a model."""
        return self.request.label, self.request.unit, self.request.tta


def store_threshold(project: "Project", subject: Subject, chosen: ChosenThreshold) -> ChosenThreshold | None:
    """Store `chosen`; return the one that it replaces. Raises `StorageError` if the file cannot be written."""
    path = subject.folder(project) / THRESHOLDS_FILE
    with file_lock(path.with_suffix(".lock")):
        stored = read_thresholds(path)
        replaced = next((one for one in stored if one.key == chosen.key), None)
        _write(path, [*(one for one in stored if one.key != chosen.key), chosen])
    return replaced


def stored_thresholds(project: "Project", subject: Subject) -> list[ChosenThreshold]:
    """Return the stored thresholds of `subject`, sorted. Raises `CorruptFileError` if their file is damaged."""
    stored = read_thresholds(subject.folder(project) / THRESHOLDS_FILE)
    return sorted(stored, key=lambda one: (LABELS.index(one.key[0]), *one.key[1:]))


def remove_threshold(project: "Project", subject: Subject, label: str, unit: Unit, tta: Tta) -> ChosenThreshold:
    """Remove a stored threshold and return it. Raises `NotFoundError` if there is none."""
    path = subject.folder(project) / THRESHOLDS_FILE
    with file_lock(path.with_suffix(".lock")):
        stored = read_thresholds(path)
        found = next((one for one in stored if one.key == (label, unit, tta)), None)
        if found is None:
            raise NotFoundError(
                f"There is no threshold of {label} per {unit} with tta {tta} for {subject}.",
                f"`ichx threshold {subject.argument}` lists them.",
            )
        _write(path, [one for one in stored if one is not found])
    return found


def applicable(
    stored: Iterable[ChosenThreshold], *, tta: str, average: str, pooling: str | None = None
) -> list[ChosenThreshold]:
    """Return the thresholds that were chosen on predictions of this kind; None as `pooling` is that of each."""
    return [
        one
        for one in stored
        if (one.request.tta, one.request.average) == (tta, average)
        and (pooling is None or one.request.unit == "slice" or one.request.pooling == pooling)
    ]


def current_thresholds(project: "Project", subject: Subject, stored: Sequence[ChosenThreshold]) -> list[bool]:
    """Return of each threshold whether the OOF predictions are still those that it was chosen on."""
    kinds = dict.fromkeys((one.request.tta, one.request.average) for one in stored)
    digests = {kind: oof_digest(project, subject, *kind) for kind in kinds}
    return [digests[one.request.tta, one.request.average] == one.digest for one in stored]


def stale_warnings(project: "Project", subject: Subject, stored: Sequence[ChosenThreshold]) -> list[str]:
    """Return a warning about thresholds that were chosen on other OOF predictions than those of now."""
    try:
        current = current_thresholds(project, subject, stored)
    except IchxError as error:
        return [f"Whether the networks of {subject} are still those of its thresholds is unknown: {error.problem}"]
    stale = [
        f"{one.request.label} per {one.request.unit}" for one, same in zip(stored, current, strict=True) if not same
    ]
    if not stale:
        return []
    return [
        f"The OOF predictions of {subject} have changed since its thresholds of {', '.join(stale)} were chosen. Choose "
        f"them again: `ichx threshold {subject.argument}`."
    ]


def _write(path: Path, chosen: list[ChosenThreshold]) -> None:
    write_text(path, json.dumps([asdict(one) for one in chosen], indent=1) + "\n", "the thresholds")


def read_thresholds(path: Path) -> list[ChosenThreshold]:
    """Return the thresholds in a file; none if it does not exist. Raises `CorruptFileError`."""
    try:
        with open_file(path) as file:
            found = parse_json(file.read().decode())
        return [_parse(one) for one in found]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CorruptFileError(
            f"Cannot read {path}: {error}.", "Remove the file, and choose the thresholds again."
        ) from error


def _parse(found: dict[str, Any]) -> ChosenThreshold:
    calls = found["calls"]
    intervals: dict[str, Any] = {
        name: Interval(**value) if isinstance(value, dict) else value for name, value in calls.items()
    }
    request = ThresholdRequest(**found["request"])
    check_request(request)
    values: dict[str, Any] = found | {"request": request, "calls": CallScores(**intervals)}
    return ChosenThreshold(**values)
