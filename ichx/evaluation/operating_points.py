"""Operating points: thresholds that are chosen on OOF predictions, stored, and applied unchanged to other data.

A threshold looks better than it is on the rows that it was chosen on. A stored one was fixed in advance: what it does
on another dataset is in `ichx.evaluation.call_scores`. Each experiment and ensemble has at most one per label, unit and
test-time augmentation, in `thresholds.json` in its folder.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from ichx.errors import CorruptFileError, InvalidInputError, NotFoundError, NotReadyError
from ichx.evaluation.bootstrap import DRAWS, Interval, draw_weights, percentile_interval
from ichx.evaluation.call_scores import CallScores, call_scores
from ichx.evaluation.choices import Average, Pooling, Tta, check_average, check_tta
from ichx.evaluation.ensemble_oof import read_ensemble_oof
from ichx.evaluation.metric import FloatArray
from ichx.evaluation.oof import OofTable, read_oof
from ichx.evaluation.scores import pool_studies, positive
from ichx.evaluation.subgroup_scores import Predicted
from ichx.experiment_files import THRESHOLDS_FILE
from ichx.files import open_file, write_text
from ichx.labels import LABELS
from ichx.locks import file_lock
from ichx.text import parse_json

if TYPE_CHECKING:
    from ichx.project import Project

Rule = Literal["sensitivity", "specificity", "cost"]
Unit = Literal["slice", "study"]


@dataclass(frozen=True)
class ThresholdRequest:
    """What to choose."""

    label: str
    rule: Rule
    value: float
    """Least sensitivity or specificity, or the cost of a missed positive in false alarms."""
    unit: Unit = "study"
    tta: Tta = "none"
    average: Average = "logit"
    pooling: Pooling = "max"
    """Of studies."""


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


@dataclass(frozen=True)
class Subject:
    """An experiment or ensemble."""

    number: int
    ensemble: bool = False

    def folder(self, project: "Project") -> Path:
        """Return the folder of its files."""
        workspace = project.workspace
        return workspace.ensemble_dir(self.number) if self.ensemble else workspace.experiment_files(self.number).folder

    def __str__(self) -> str:
        return f"{'ensemble' if self.ensemble else 'experiment'} {self.number}"


def choose_threshold(
    project: "Project", subject: Subject, request: ThresholdRequest, *, draws: int = DRAWS
) -> tuple[ChosenThreshold, ChosenThreshold | None]:
    """Choose a threshold on the OOF predictions of `subject`, and store it.

    Returns:
        The threshold, and the one that it replaces.

    Raises:
        InvalidInputError: A value of the request is invalid.
        NotReadyError: There are no OOF predictions, or none with and without the label.
        StorageError: The file cannot be written.
        IchxError: The predictions cannot be read; see `read_oof`.
    """
    check_request(request)
    table = subject_oof(project, subject, request.tta, request.average)
    labels = table.labels_to_pool if request.unit == "study" else table.labels
    truth, p, patients = of_unit(
        request, labels, table.probabilities, table.patients, table.studies, table.study_probabilities
    )
    if not len(truth):
        raise NotReadyError(
            f"No {request.unit} of {subject} has a known label {request.label}: no threshold can be chosen.",
            "Choose another label, or a threshold of studies, `--per study`, if only studies are labelled.",
        )
    if truth.all() or not truth.any():
        raise NotReadyError(
            f"All {len(truth):,} {_units(request)} of {subject} are {'with' if truth.all() else 'without'} "
            f"{request.label}: no threshold can be chosen.",
            "Choose another label, or finish more folds.",
        )
    threshold, drawn = _choose(truth, p, patients, request, draws)
    calls = call_scores(truth, p, patients, threshold, draws=draws)
    interval = percentile_interval(threshold, drawn, calls.sensitivity.undefined or calls.specificity.undefined)
    chosen = ChosenThreshold(
        request,
        threshold,
        interval.low,
        interval.high,
        calls,
        _digest(table),
        f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
    )
    path = subject.folder(project) / THRESHOLDS_FILE
    with file_lock(path.with_suffix(".lock")):
        stored = read_thresholds(path)
        replaced = next((one for one in stored if one.key == chosen.key), None)
        _write(path, [*(one for one in stored if one.key != chosen.key), chosen])
    return chosen, replaced


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
                f"`ichx threshold {'--ensemble ' if subject.ensemble else ''}{subject.number}` lists them.",
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


@dataclass(frozen=True)
class AppliedThreshold:
    """A stored threshold and what it does on other data."""

    chosen: ChosenThreshold
    calls: CallScores


def apply_thresholds(
    stored: Iterable[ChosenThreshold], predicted: Predicted, prevalence: float | None = None
) -> list[AppliedThreshold]:
    """Return what thresholds do on `predicted`.

    Args:
        stored: Thresholds that fit the predictions; see `applicable`.
        predicted: Slices with labels and probabilities.
        prevalence: See `call_scores`.
    """
    patients, studies = (predicted.slices[name].to_numpy(object) for name in ("patient", "study"))
    found = []
    for one in stored:
        labels = predicted.labels_to_pool if one.request.unit == "study" else predicted.labels
        truth, p, owners = of_unit(
            one.request, labels, predicted.probabilities, patients, studies, predicted.study_probabilities
        )
        if len(truth):  # otherwise the label is unknown
            found.append(AppliedThreshold(one, call_scores(truth, p, owners, one.threshold, prevalence=prevalence)))
    return found


def oof_digest(project: "Project", subject: Subject, tta: str, average: str) -> str:
    """Return 16 hex digits of the OOF predictions and labels of `subject`."""
    return _digest(subject_oof(project, subject, tta, average))


def is_current(project: "Project", subject: Subject, stored: ChosenThreshold) -> bool:
    """Return whether the OOF predictions are still those that the threshold was chosen on."""
    return oof_digest(project, subject, stored.request.tta, stored.request.average) == stored.digest


def of_unit(
    request: ThresholdRequest,
    labels: FloatArray,
    probabilities: FloatArray,
    patients: npt.NDArray[np.object_],
    studies: npt.NDArray[np.object_],
    learnt: FloatArray | None = None,
) -> tuple[npt.NDArray[np.bool_], FloatArray, npt.NDArray[np.object_]]:
    """Return truth, probability and patient of each slice or study of the request with a known label, `(N,)` each.

    Args:
        request: Names label, unit and pooling.
        labels: Of slices, `(N, 6)`; for studies, those to pool (see `Truth.to_pool`).
        probabilities: Of slices, `(N, 6)`.
        patients: Of slices, `(N,)`.
        studies: Of slices, `(N,)`.
        learnt: Predicted probabilities of each slice's study, `(N, 6)`.
    """
    k = LABELS.index(request.label)
    if request.unit == "study":
        pooled = pool_studies(labels, probabilities, studies, request.pooling, learnt)
        labels, probabilities, patients = pooled.labels, pooled.probabilities, patients[pooled.row]
    known = ~np.isnan(labels[:, k])
    return positive(labels[known, k]), probabilities[known, k], patients[known]


def check_request(request: ThresholdRequest) -> None:
    """Raise `InvalidInputError` unless label and value of the rule are valid."""
    if request.label not in LABELS:
        raise InvalidInputError(f"Unknown label: {request.label!r}.", f"Use one of {', '.join(LABELS)}.")
    if request.rule not in get_args(Rule):
        raise InvalidInputError(f"Unknown rule: {request.rule!r}.", f"Use one of {', '.join(get_args(Rule))}.")
    if request.rule == "cost":
        if not 0 < request.value < float("inf"):
            raise InvalidInputError(f"Invalid cost: {request.value}.", "Use a positive number.")
    elif not 0 < request.value <= 1:
        raise InvalidInputError(f"Invalid {request.rule}: {request.value}.", "Use a share above 0, up to 1.")


def chosen_threshold(truth: npt.NDArray[np.bool_], p: FloatArray, request: ThresholdRequest) -> float:
    """Return the threshold that fits the request on rows `(N,)` of both classes."""
    order = np.argsort(-p, kind="stable")
    value, hit = p[order], truth[order]
    last = np.append(value[1:] != value[:-1], True)
    return float(_thresholds(value, hit, last, np.ones((len(value), 1)), request)[0])


def _choose(
    truth: npt.NDArray[np.bool_],
    p: FloatArray,
    patients: npt.NDArray[np.object_],
    request: ThresholdRequest,
    draws: int,
) -> tuple[float, FloatArray]:
    """Return the threshold, and that of each draw of patients, `(D,)`."""
    names, codes = np.unique(patients.astype(str), return_inverse=True)
    order = np.argsort(-p, kind="stable")
    value, hit, code = p[order], truth[order], codes[order]
    last = np.append(value[1:] != value[:-1], True)  # equal probabilities share a threshold
    point = chosen_threshold(truth, p, request)
    drawn = [_thresholds(value, hit, last, weights[code], request) for weights in draw_weights(len(names), draws, 0)]
    return point, np.concatenate(drawn)


def _thresholds(
    value: FloatArray,
    hit: npt.NDArray[np.bool_],
    last: npt.NDArray[np.bool_],
    weights: FloatArray,
    request: ThresholdRequest,
) -> FloatArray:
    """Return the threshold for each weighting `(N, D)` of rows that are sorted by falling probability, `(D,)`.

    The last row of a probability completes what is called positive at it.
    """
    hits = np.cumsum(weights * hit[:, None], axis=0)[last]
    alarms = np.cumsum(weights * ~hit[:, None], axis=0)[last]
    positives, negatives = hits[-1], alarms[-1]
    candidates, tolerance = value[last], 1e-9
    with np.errstate(invalid="ignore", divide="ignore"):
        if request.rule == "sensitivity":  # the highest threshold that is sensitive enough
            index = np.argmax(hits / positives >= request.value - tolerance, axis=0)
        elif request.rule == "specificity":  # the lowest one that is specific enough; the highest if none is
            index = np.maximum((1 - alarms / negatives >= request.value - tolerance).sum(axis=0) - 1, 0)
        else:
            index = np.argmin(request.value * (positives - hits) + alarms, axis=0)
    found: FloatArray = candidates[index].astype(np.float64)
    found[(positives == 0) | (negatives == 0)] = np.nan
    return found


def subject_oof(project: "Project", subject: Subject, tta: str, average: str) -> OofTable:
    """Return the OOF predictions of an experiment, or those that the creation of an ensemble stored.

    Raises like `read_oof` and `read_ensemble_oof`.
    """
    if not subject.ensemble:
        experiment = project.store.experiment(subject.number)
        return read_oof(project, experiment, check_tta(tta), average=check_average(average))
    return read_ensemble_oof(project, project.store.ensemble(subject.number)).oof


def _digest(table: OofTable) -> str:
    digest = hashlib.sha256("\n".join(map(str, table.slice_ids)).encode())
    for values in (table.labels, table.probabilities):
        digest.update(np.ascontiguousarray(values, dtype="<f4").tobytes())
    return digest.hexdigest()[:16]


def _units(request: ThresholdRequest) -> str:
    return "slices" if request.unit == "slice" else "studies"


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
