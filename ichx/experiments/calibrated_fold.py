"""Calibrated scores of an experiment's folds: during a training for tuning, and from its OOF predictions."""

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.datasets.dataset import load_folds, load_version
from ichx.datasets.patient_subset import EXCLUDED, subset_folds
from ichx.evaluation.calibrated_score import FoldCalibration, calibrate, patient_halves
from ichx.evaluation.choices import CALIBRATED
from ichx.evaluation.oof import OofTable, read_oof
from ichx.experiments.prepare import PreparedFolds
from ichx.labels import ANY
from ichx.loading.sampling import negative_share
from ichx.recipe import Recipe
from ichx.recipe_text import from_toml
from ichx.training.feed import TrainingFeed

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import Experiment


def fold_calibration(prepared: PreparedFolds, fold: int, feed: TrainingFeed) -> FoldCalibration | None:
    """Return what the calibrated score of a fold needs; None for an experiment that no study scores by it."""
    tuned = prepared.experiment.tuned
    if tuned is None or tuned.objective != CALIBRATED:
        return None
    slices, rows = prepared.data.slices, feed.validation_rows
    at = pd.Index(slices["slice_id"].to_numpy(object)).get_indexer(pd.Index(feed.slice_ids(rows)))
    halves = patient_halves(slices["patient"].to_numpy(object)[at], feed.labels(rows))
    positive = slices[ANY].to_numpy()[prepared.training_rows(fold)] > 0.5
    return FoldCalibration(halves, _kept(prepared.recipe, positive))


def read_calibrated_oof(project: "Project", experiment: "Experiment", folds: Collection[int]) -> OofTable:
    """Return the OOF predictions of `folds` without test-time augmentation, each fold calibrated by itself.

    Raises:
        IchxError: As `read_oof`.
    """
    return calibrated_oof(project, experiment, read_oof(project, experiment, only=folds))


def calibrated_oof(project: "Project", experiment: "Experiment", table: OofTable) -> OofTable:
    """Return the OOF predictions of an experiment with each fold calibrated by itself."""
    kept = _last_kept(project, experiment, np.unique(table.folds))
    calibrated = table.probabilities.copy()
    for fold, share in kept.items():
        rows = table.folds == fold
        labels = table.labels[rows]
        calibrated[rows] = calibrate(
            labels, table.probabilities[rows], patient_halves(table.patients[rows], labels), share
        )
    return replace(table, probabilities=calibrated)


def _last_kept(project: "Project", experiment: "Experiment", folds: npt.NDArray[np.int16]) -> dict[int, float]:
    """Return the share of the negative slices that the last stage of each fold was trained on."""
    recipe = from_toml(experiment.recipe, source=f"the recipe of experiment {experiment.number}")
    if recipe.sequence is not None or recipe.stage[-1].sampling == "all":
        return dict.fromkeys(map(int, folds), 1.0)
    version = project.store.version_by_id(experiment.version_id)
    slices = load_version(project.workspace, version).slices
    assigned = load_folds(project.workspace, version, version.fold_set_of(experiment), slices)
    assigned = subset_folds(slices, assigned, experiment.subset)
    positive = slices[ANY].to_numpy() > 0.5
    trained = {int(fold): (assigned != fold) & (assigned != EXCLUDED) for fold in folds}
    return {fold: _kept(recipe, positive[rows])[-1] for fold, rows in trained.items()}


def _kept(recipe: Recipe, positive: npt.NDArray[np.bool_]) -> tuple[float, ...]:
    """Return the share of the negative slices that each stage trains on, 1 if the network learns the true prior anyhow.

    A network over series samples series, for which there is no closed form.

    Args:
        recipe: The recipe.
        positive: Whether each slice for training has any label, `(M,)`.
    """
    rows = np.arange(len(positive))
    return tuple(
        1.0 if recipe.sequence is not None or s.prior_correction else negative_share(positive, rows, s.sampling)
        for s in recipe.stage
    )
