"""Predictions of all slices of a dataset version, in the order of an index, with the thresholds to choose from.

Worklists of such predictions: `ichx.evaluation.worklist`.
"""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.errors import NotReadyError
from ichx.evaluation.metric import FloatArray, probabilities
from ichx.evaluation.oof import mean_over_views, read_oof
from ichx.evaluation.predictions import OOF_FILE, predictions_file, read_predictions
from ichx.evaluation.study_curves import parse_predictor
from ichx.evaluation.thresholds import operating_points
from ichx.labels import LABELS

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import DatasetVersion


@dataclass(frozen=True)
class VersionPredictions:
    """What an experiment or ensemble predicts for the slices of a version."""

    slice_ids: npt.NDArray[np.object_]
    """`(M,)` predicted slices."""
    probabilities: FloatArray
    """`(M, 6)`"""
    out_of_fold: bool
    """Whether no network that predicted a slice was trained on its patient."""
    note: str
    """What they are, e.g. `out of fold`."""


def version_predictions(project: "Project", of: str, version: "DatasetVersion") -> VersionPredictions:
    """Return the predictions `of` an experiment or ensemble, e.g. `experiment:6`, for a version, without TTA.

    Those of an experiment's own version are out of fold, those of an ensemble's own version nested if it has several
    folds; for other versions they are the means over the folds.

    Raises:
        InvalidInputError: `of` is invalid.
        NotFoundError: There is no such experiment or ensemble.
        NotReadyError: It has not predicted this version.
        ChangedDataError: Predictions are missing, or not out of fold.
        CorruptFileError: A prediction file is damaged.
    """
    kind, number = parse_predictor(of)
    return (_of_experiment if kind == "experiment" else _of_ensemble)(project, number, version)


def aligned(found: VersionPredictions, slice_ids: npt.NDArray[np.object_]) -> npt.NDArray[np.float32]:
    """Return the probabilities of `slice_ids` (N,) as (N, 6) float32, NaN for slices without a prediction."""
    row = pd.Index(found.slice_ids).get_indexer(pd.Index(slice_ids))
    values = found.probabilities.astype(np.float32)[row]
    values[row < 0] = np.nan
    return values


def suggested_thresholds(
    labels: npt.NDArray[np.float32],
    predicted: npt.NDArray[np.float32],
    first: npt.NDArray[np.int64],
    to_pool: npt.NDArray[np.float32] | None = None,
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Return the operating points by unit (`slice`, `study`) and label, as JSON values; none without both classes.

    Arguments are those of `ichx.evaluation.worklist.WorklistData`; `to_pool` is what `labels_to_pool` returns.
    """
    parts = {"slice": (labels, predicted)}
    if len(first):
        pooled = labels if to_pool is None else to_pool
        known = np.fmax.reduceat(pooled, first, axis=0)
        truth = np.where(known > 0.5, known, np.maximum.reduceat(pooled, first, axis=0))
        parts["study"] = (truth, np.fmax.reduceat(predicted, first, axis=0))
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for unit, (truth, p) in parts.items():
        predicted_rows = np.isfinite(p).all(axis=1)
        truth, p = truth[predicted_rows], p[predicted_rows]
        found[unit] = {
            label: [asdict(point) for point in operating_points(truth[:, k], p[:, k])] if len(p) else []
            for k, label in enumerate(LABELS)
        }
    return found


def _of_experiment(project: "Project", number: int, version: "DatasetVersion") -> VersionPredictions:
    experiment = project.store.experiment(number)
    if experiment.version_id == version.id:
        oof = read_oof(project, experiment)
        note = "out of fold" if not experiment.leaked else "the folds split patients: these predictions are too good"
        return VersionPredictions(oof.slice_ids, oof.probabilities, not experiment.leaked, note)
    stored = project.store.predictions(number, version_id=version.id, view="identity")
    if not stored:
        raise NotReadyError(
            f"Experiment {number} has not predicted {version.dataset} version {version.number}.",
            f"Run `ichx run {number}` or `ichx evaluate {number} --dataset {version.dataset}`.",
        )
    read = [read_predictions(project.workspace.root / p.path) for p in stored]
    return VersionPredictions(read[0].slice_ids, mean_over_views(read), True, f"mean of {len(read)} folds")


def _of_ensemble(project: "Project", number: int, version: "DatasetVersion") -> VersionPredictions:
    ensemble = project.store.ensemble(number)
    own = ensemble.version_id == version.id
    path = project.workspace.ensemble_dir(number) / (OOF_FILE if own else predictions_file(version))
    if not own and not path.is_file():
        raise NotReadyError(
            f"Ensemble {number} has not predicted {version.dataset} version {version.number}.",
            f"Run `ichx ensemble submit {number} {version.dataset}`.",
        )
    read = read_predictions(path, "Create the ensemble again, or restore the file.")
    nested = ensemble.nested_score is not None
    note = (
        "nested" if own and nested else "in-sample: the blend was fitted on these patients" if own else "blended folds"
    )
    honest = not own or (nested and not ensemble.leaked)
    return VersionPredictions(read.slice_ids, probabilities(read.logits), honest, note)
