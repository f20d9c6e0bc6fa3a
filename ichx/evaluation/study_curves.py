"""Stored predictions of the slices of one study, as curves along the head for a viewer.

Only the rows of these slices are read from the prediction files. Tables of complete experiments: `oof`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ichx.errors import ChangedDataError, InvalidInputError, NotReadyError
from ichx.evaluation.choices import views_of
from ichx.evaluation.metric import FloatArray, probabilities
from ichx.evaluation.predictions import OOF_FILE, predictions_file, read_predictions
from ichx.views import IDENTITY, mean_over

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import DatasetVersion, Experiment, Prediction


@dataclass(frozen=True)
class StudyCurve:
    """Probabilities of the slices of a study."""

    name: str
    """`CNN`, `TTA`, `smoothed`, `sequence` or `ensemble`."""
    view: str
    """What was predicted or averaged, e.g. `identity`."""
    probabilities: Mapping[str, tuple[float, ...]]
    """Six by slice id, in the order of `LABELS`."""

    def to_dict(self) -> dict[str, object]:
        """Return the curve as JSON values."""
        return {"name": self.name, "view": self.view, "probabilities": self.probabilities}


@dataclass(frozen=True)
class StudyCurves:
    """What an experiment or ensemble predicts for a study."""

    curves: tuple[StudyCurve, ...]
    out_of_fold: bool
    """Whether no network that predicted was trained on the patient."""
    problem: str | None = None
    """What restricts the curves."""


def parse_predictor(text: str) -> tuple[str, int]:
    """Return the kind and number of e.g. `experiment:6` or `ensemble:2`. Raises `InvalidInputError`."""
    kind, colon, number = text.partition(":")
    if colon and kind in ("experiment", "ensemble") and number.isascii() and number.isdecimal() and len(number) < 10:
        return kind, int(number)
    raise InvalidInputError(f"Invalid value for `of`: {text[:40]!r}.", "Use experiment:NUMBER or ensemble:NUMBER.")


def experiment_curves(
    project: "Project", number: int, version: "DatasetVersion", slice_ids: Sequence[str], folds: Collection[int] = ()
) -> StudyCurves:
    """Return the stored predictions of experiment `number` for slices of one study.

    Args:
        project: The open project.
        number: The experiment.
        version: The dataset version of the slices.
        slice_ids: The slices.
        folds: Folds whose OOF predictions are read first, as they probably have the slices.

    Raises:
        NotFoundError: There is no such experiment.
        NotReadyError: It has not predicted this version.
        ChangedDataError: A prediction file is missing.
        CorruptFileError: A prediction file is damaged.
    """
    experiment = project.store.experiment(number)
    stored = project.store.predictions(number, version_id=version.id)
    if not stored:
        raise NotReadyError(
            f"Experiment {number} has not predicted {version.dataset} version {version.number}.",
            f"Run `ichx run {number}`, or choose another experiment.",
        )
    role = min((p.role for p in stored), key=("oof", "test", "evaluation").index)
    stored = [p for p in stored if p.role == role]
    read = _oof if role == "oof" else _mean_over_folds
    names = views_of(experiment)
    views = {view: read(project, [p for p in stored if p.view == view], slice_ids, folds) for view in names}
    plain, others = views[IDENTITY], [found for view, found in views.items() if view != IDENTITY]
    network = "sequence" if experiment.members else "CNN"
    curves = [_curve(network, "identity", plain)] if plain else []
    if others and all(others):
        common = plain.keys() & set.intersection(*(set(found) for found in others))
        mean = {name: np.mean([plain[name], *(found[name] for found in others)], axis=0) for name in common}
        curves.append(_curve("TTA", mean_over(names), mean))
    return StudyCurves(tuple(curves), role != "evaluation" and not experiment.leaked, _problem(experiment, role, plain))


def ensemble_curves(
    project: "Project", number: int, version: "DatasetVersion", slice_ids: Sequence[str]
) -> StudyCurves:
    """Return the stored predictions of ensemble `number`, nested ones where they exist; raises alike."""
    ensemble = project.store.ensemble(number)
    folder = project.workspace.ensemble_dir(number)
    own = ensemble.version_id == version.id
    path = folder / (OOF_FILE if own else predictions_file(version))
    if not own and not path.is_file():
        raise NotReadyError(
            f"Ensemble {number} has not predicted {version.dataset} version {version.number}.",
            f"Run `ichx ensemble submit {number} {version.dataset}`, or choose another ensemble.",
        )
    remedy = "Create the ensemble again, or restore the file."
    found = read_predictions(path, remedy, slice_ids=slice_ids)
    logits = dict(zip(found.slice_ids.tolist(), found.logits.astype(np.float64), strict=True))
    nested = own and ensemble.nested_score is not None
    problem = None
    if not logits:
        problem = "The ensemble has no predictions of these slices."
    elif own and not nested:
        problem = "These predictions are in-sample: the blend was fitted on this patient too."
    elif ensemble.leaked:
        problem = "The folds of the members split patients."
    view = "nested" if nested else "in-sample" if own else "mean over folds"
    curves = (_curve("ensemble", view, logits),) if logits else ()
    return StudyCurves(curves, (nested or not own) and not ensemble.leaked, problem)


def predicting_fold(project: "Project", number: int, version: "DatasetVersion", slice_id: str) -> int:
    """Return the fold of experiment `number` that has predicted a slice and was not trained on it, or its first fold.

    Raises:
        NotReadyError: It has not predicted this version.
    """
    stored = [p for p in project.store.predictions(number, version_id=version.id) if p.view == "identity"]
    for prediction in stored:
        found = prediction.role == "oof" and read_predictions(
            project.workspace.root / prediction.path, slice_ids=[slice_id]
        )
        if found and len(found.slice_ids):
            return prediction.fold
    if not stored or stored[0].role == "oof":
        raise NotReadyError(f"Experiment {number} has not predicted this slice.", "Choose another experiment.")
    return stored[0].fold


def curve_of_file(name: str, view: str, path: Path, slice_ids: Sequence[str]) -> StudyCurve | None:
    """Return the predictions of these slices in a prediction file; None if it has none of them."""
    found = read_predictions(path, slice_ids=slice_ids)
    logits = dict(zip(found.slice_ids.tolist(), found.logits.astype(np.float64), strict=True))
    return _curve(name, view, logits) if logits else None


def _oof(
    project: "Project", stored: "Sequence[Prediction]", slice_ids: Sequence[str], first: Collection[int]
) -> dict[str, FloatArray]:
    """Return the logits of each slice, by the fold that predicted it. Folds that are not needed are not read."""
    found: dict[str, FloatArray] = {}
    for prediction in sorted(stored, key=lambda p: (p.fold not in first, p.fold)):
        remaining = [name for name in slice_ids if name not in found]
        if not remaining:
            break
        read = read_predictions(project.workspace.root / prediction.path, slice_ids=remaining)
        found |= zip(read.slice_ids.tolist(), read.logits.astype(np.float64), strict=True)
    return found


def _mean_over_folds(
    project: "Project", stored: "Sequence[Prediction]", slice_ids: Sequence[str], _: Collection[int]
) -> dict[str, FloatArray]:
    """Return the mean logits of each slice over the folds."""
    parts = [read_predictions(project.workspace.root / p.path, slice_ids=slice_ids) for p in stored]
    if not parts:
        return {}
    if any(not np.array_equal(part.slice_ids, parts[0].slice_ids) for part in parts):
        raise ChangedDataError("The folds predict different slices.", "Rerun the experiment's folds.")
    mean: FloatArray = np.mean([part.logits for part in parts], axis=0, dtype=np.float64)
    return dict(zip(parts[0].slice_ids.tolist(), mean, strict=True))


def _problem(experiment: "Experiment", role: str, found: Mapping[str, FloatArray]) -> str | None:
    if not found:
        return "No finished fold has predicted these slices."
    if role == "oof" and experiment.leaked:
        return "The folds split patients: these predictions are too good."
    if role == "evaluation":
        return "These predictions are the means over the folds, stored by `ichx evaluate`."
    return None


def _curve(name: str, view: str, logits: Mapping[str, FloatArray]) -> StudyCurve:
    values = {key: tuple(np.round(probabilities(row), 6).tolist()) for key, row in logits.items()}
    return StudyCurve(name, view, values)
