"""Stored recalibrations: `recalibrations.json` in the folder of an experiment or ensemble, one per name.

Each has a digest of itself and one of the OOF predictions of the networks that it was fitted for: an edited file, or
networks that were trained again, are refused.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args

from ichx.errors import (
    ChangedDataError,
    ConflictError,
    CorruptFileError,
    InvalidInputError,
    NotFoundError,
    did_you_mean,
)
from ichx.evaluation.bootstrap import Interval
from ichx.evaluation.calibration_line import CalibrationLine
from ichx.evaluation.recalibration import Fitted, FittedRecalibration, JudgedLabel, LabelMap, apply_maps
from ichx.evaluation.subgroup_scores import Unit
from ichx.evaluation.subject import Subject
from ichx.evaluation.subject_oof import oof_digest
from ichx.experiment_files import RECALIBRATIONS_FILE
from ichx.files import open_file, write_text
from ichx.labels import LABELS
from ichx.locks import file_lock
from ichx.text import parse_json

if TYPE_CHECKING:
    from ichx.evaluation.metric import FloatArray
    from ichx.project import Project

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Recalibration:
    """A recalibration of an experiment or ensemble on a local sample."""

    name: str
    dataset: str
    dataset_version: int
    tta: str
    average: str
    folds: tuple[int, ...]
    """The folds whose networks predicted."""
    fitted: FittedRecalibration
    networks: str
    """16 hex digits of the OOF predictions of all finished folds: they identify the networks."""
    sample: str
    """16 hex digits of the predictions and labels that it was fitted on."""
    created: str
    """ISO 8601, UTC."""
    digest: str = ""
    """16 hex digits of all of the above."""

    def apply(self, p: "FloatArray") -> "FloatArray":
        """Return the recalibrated probabilities `(N, 6)`."""
        return apply_maps(self.fitted.maps, p)

    def threshold(self, label: str, value: float) -> float:
        """Return the recalibrated probability that corresponds to the probability `value` of `label`."""
        import numpy as np

        return float(self.fitted.maps[LABELS.index(label)].apply(np.array([value]))[0])


def store_recalibration(project: "Project", subject: Subject, made: Recalibration) -> Recalibration | None:
    """Store `made` under its name; return the one that it replaces. Raises `InvalidInputError` for an invalid name."""
    check_name(made.name)
    path = subject.folder(project) / RECALIBRATIONS_FILE
    with file_lock(path.with_suffix(".lock")):
        stored = read_recalibrations(path)
        replaced = next((one for one in stored if one.name == made.name), None)
        kept = [one for one in stored if one.name != made.name]
        _write(path, sorted([*kept, replace(made, digest=digest_of(made))], key=lambda one: one.name))
    return replaced


def stored_recalibrations(project: "Project", subject: Subject) -> list[Recalibration]:
    """Return those of `subject` by name. Raises `CorruptFileError` if their file is damaged or was edited."""
    return read_recalibrations(subject.folder(project) / RECALIBRATIONS_FILE)


def find_recalibration(project: "Project", subject: Subject, name: str) -> Recalibration:
    """Return the recalibration `name` of `subject`. Raises `NotFoundError` if there is none."""
    stored = stored_recalibrations(project, subject)
    found = next((one for one in stored if one.name == name), None)
    if found is None:
        of = subject.argument
        hint = did_you_mean(name, [one.name for one in stored])
        raise NotFoundError(
            f"There is no recalibration {name!r} of {subject}.",
            f"{hint}`ichx recalibrate {of}` lists them; `ichx recalibrate {of} --dataset NAME` fits one.",
        )
    return found


def remove_recalibration(project: "Project", subject: Subject, name: str) -> Recalibration:
    """Remove the recalibration `name` and return it. Raises `NotFoundError` if there is none."""
    path = subject.folder(project) / RECALIBRATIONS_FILE
    with file_lock(path.with_suffix(".lock")):
        found = find_recalibration(project, subject, name)
        _write(path, [one for one in read_recalibrations(path) if one.name != name])
    return found


def check_applicable(
    project: "Project", subject: Subject, stored: Recalibration, *, tta: str, average: str, folds: tuple[int, ...]
) -> None:
    """Raise unless `stored` was fitted for predictions of this kind.

    Raises:
        ConflictError: It was fitted for other views, another average or other folds.
        ChangedDataError: The networks have changed since.
    """
    mine = {"tta": stored.tta, "average": stored.average, "folds": ", ".join(map(str, stored.folds))}
    theirs = {"tta": tta, "average": average, "folds": ", ".join(map(str, folds))}
    differing = [f"{name} {mine[name]}, not {theirs[name]}" for name in mine if mine[name] != theirs[name]]
    if differing:
        raise ConflictError(
            f"The recalibration {stored.name!r} of {subject} was fitted with {'; '.join(differing)}.",
            "Predict with the same options, or fit another one with `ichx recalibrate`.",
        )
    if not is_current(project, subject, stored):
        raise ChangedDataError(
            f"The networks of {subject} have changed since the recalibration {stored.name!r} was fitted.",
            "Fit it again with `ichx recalibrate`.",
        )


def is_current(project: "Project", subject: Subject, stored: Recalibration) -> bool:
    """Return whether the networks are those that `stored` was fitted for."""
    return oof_digest(project, subject, stored.tta, stored.average) == stored.networks


def check_name(name: str) -> None:
    """Raise `InvalidInputError` unless `name` can name a recalibration."""
    if not _NAME.fullmatch(name):
        raise InvalidInputError(
            f"Invalid name of a recalibration: {name!r}.", "Use up to 64 letters, digits, dots, dashes and underscores."
        )


def digest_of(stored: Recalibration) -> str:
    """Return the digest of everything but the digest."""
    content = json.dumps(asdict(replace(stored, digest="")), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def read_recalibrations(path: Path) -> list[Recalibration]:
    """Return the recalibrations in a file; none if it does not exist. Raises `CorruptFileError`."""
    remedy = "Restore the file, or remove it and fit the recalibrations again."
    try:
        with open_file(path) as file:
            stored = [_parse(one) for one in parse_json(file.read().decode())]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CorruptFileError(f"Cannot read {path}: {error}.", remedy) from error
    for one in stored:
        if digest_of(one) != one.digest:
            raise CorruptFileError(f"The recalibration {one.name!r} in {path} was changed: its digest differs.", remedy)
    return stored


def _write(path: Path, stored: list[Recalibration]) -> None:
    write_text(path, json.dumps([asdict(one) for one in stored], indent=1) + "\n", "the recalibrations")


def _parse(found: dict[str, Any]) -> Recalibration:
    fitted = found["fitted"]
    maps = tuple(LabelMap(**one) for one in fitted["maps"])
    if fitted["unit"] not in get_args(Unit):
        raise ValueError(f"unknown unit {fitted['unit']!r}")
    if tuple(one.label for one in maps) != LABELS:
        raise ValueError("its labels are not those of ichx")
    for one in maps:
        if one.method not in get_args(Fitted) or not (one.slope > 0 and abs(one.intercept) < 1e6):
            raise ValueError(f"the map of {one.label} is invalid")
    judged = tuple(
        JudgedLabel(
            **{
                **one,
                "difference": Interval(**one["difference"]),
                "line_before": _line(one["line_before"]),
                "line_after": _line(one["line_after"]),
            }
        )
        for one in fitted["judged"]
    )
    values: dict[str, Any] = {
        **found,
        "folds": tuple(found["folds"]),
        "fitted": FittedRecalibration(maps, judged, fitted["unit"], fitted["patients"], fitted["rows"]),
    }
    return Recalibration(**values)


def _line(found: dict[str, Any]) -> CalibrationLine:
    values: dict[str, Any] = {
        name: Interval(**value) if isinstance(value, dict) else value for name, value in found.items()
    }
    return CalibrationLine(**values)
