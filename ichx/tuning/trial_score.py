"""The score of a finished trial that its study optimizes."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ichx.evaluation.choices import CALIBRATED
from ichx.experiments.fold_status import fold_score
from ichx.recipe_text import from_toml
from ichx.training.early_stopping import best_epoch

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import EpochRecord, Experiment


def epoch_score(record: "EpochRecord") -> float:
    """Return the score of an epoch that was validated, by which trials are compared."""
    return record.values[CALIBRATED]


def newest_score(history: "Sequence[EpochRecord]") -> float:
    """Return the score of the newest epoch that was validated; NaN if none was."""
    scores = [epoch_score(record) for record in history if CALIBRATED in record.values]
    return scores[-1] if scores else math.nan


def trial_score(project: "Project", experiment: "Experiment", fold: int) -> float | None:
    """Return the score of a trial that its study optimizes; None before the fold is predicted.

    It is that of the epoch whose weights predicted. If the predictions are not those of a single epoch, their score is
    computed from the files.

    Raises:
        IchxError: The predictions cannot be read.
    """
    raw = fold_score(project.store, experiment.number, fold)
    if raw is None or experiment.tuned is None or experiment.tuned.objective != CALIBRATED:
        return raw
    last = [r for r in project.store.history(experiment.number, fold) if CALIBRATED in r.values]
    last = [r for r in last if r.stage_index == last[-1].stage_index]
    if last:
        scores = [epoch_score(r) for r in last]
        patient = from_toml(experiment.recipe).stage[last[0].stage_index].patience > 0
        at = best_epoch(scores) if patient else -1
        if math.isclose(last[at].values["score"], raw, rel_tol=1e-6):
            return scores[at]
    from ichx.experiments.calibrated_fold import read_calibrated_oof  # imports pandas, and is rarely needed

    return read_calibrated_oof(project, experiment, [fold]).score
