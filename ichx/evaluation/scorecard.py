"""Scores of experiments and ensembles from OOF predictions: per slice and per study, with intervals over patients."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ichx.evaluation.bootstrap import Bootstrap, loss_interval, patient_bootstrap
from ichx.evaluation.calibration_line import CalibrationLine, calibration_lines
from ichx.evaluation.choices import Average, Pooling, Tta, check_tta
from ichx.evaluation.ensemble_oof import read_ensemble_oof
from ichx.evaluation.metric import FloatArray
from ichx.evaluation.oof import OofTable, read_oof
from ichx.evaluation.scores import pool_studies, study_scores
from ichx.store import ScoreDraft, marks

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import Experiment


@dataclass(frozen=True)
class PartScores:
    """Scores of one part of a mixture."""

    slices: Bootstrap
    studies: Bootstrap


@dataclass(frozen=True)
class Scorecard:
    """All scores of an experiment or ensemble over its finished folds."""

    experiment: int | None
    """None for an ensemble."""
    name: str
    tta: Tta
    marks: tuple[str, ...]
    folds: dict[int, float]
    """The score of each fold."""
    slices: Bootstrap
    studies: Bootstrap
    left_out: int
    """Slices that could not be decoded and are in no score."""
    calibration: dict[str, CalibrationLine]
    """Calibration of slices by label."""
    parts: dict[str, PartScores]
    """By part of a mixture, those that are scored; empty for other datasets."""
    ensemble: int | None = None
    """None for an experiment."""
    nested: bool = True
    """False for the in-sample predictions of an ensemble with a single fold."""


def scorecard(
    project: "Project",
    number: int,
    *,
    tta: Tta = "none",
    pooling: Pooling = "max",
    average: Average = "logit",
) -> Scorecard:
    """Return all scores of experiment `number`.

    Args:
        project: The open project.
        number: The experiment.
        tta: Test-time augmentation, whose views are averaged.
        pooling: How slices are pooled into studies.
        average: What is averaged over views.

    Raises:
        InvalidInputError: There is no such test-time augmentation, pooling or average.
        NotFoundError: There is no such experiment.
        NotReadyError: No fold is finished.
        IchxError: The OOF predictions are missing, damaged or not out of fold (see `read_oof`).
    """
    experiment = project.store.experiment(number)
    table = read_oof(project, experiment, tta, average=average)
    slices, studies = oof_scores(table, pooling)
    return Scorecard(
        experiment=number,
        name=experiment.name,
        tta=tta,
        marks=marks(experiment),
        folds=table.fold_scores,
        slices=slices,
        studies=studies,
        left_out=table.left_out,
        calibration=calibration_lines(table.labels, table.probabilities, table.patients),
        parts=part_scores(table, pooling),
    )


def ensemble_scorecard(project: "Project", number: int, *, pooling: Pooling = "max") -> Scorecard:
    """Return all scores of ensemble `number` from the predictions that its creation saved.

    Raises:
        InvalidInputError: There is no such pooling, or the ensemble has no study probabilities of its own.
        NotFoundError: There is no such ensemble.
        IchxError: Its predictions are missing or have changed (see `read_ensemble_oof`).
    """
    ensemble = project.store.ensemble(number)
    found = read_ensemble_oof(project, ensemble)
    slices, studies = oof_scores(found.oof, pooling)
    return Scorecard(
        experiment=None,
        name=ensemble.name or f"ensemble {number}",
        tta=check_tta(ensemble.tta),
        marks=marks(ensemble),
        folds=found.oof.fold_scores,
        slices=slices,
        studies=studies,
        left_out=found.oof.left_out,
        calibration=calibration_lines(found.oof.labels, found.oof.probabilities, found.oof.patients),
        parts=part_scores(found.oof, pooling),
        ensemble=number,
        nested=found.nested,
    )


def oof_scores(table: OofTable, pooling: Pooling) -> tuple[Bootstrap, Bootstrap]:
    """Return the scores with intervals of the slices of `table`, and of the studies that they are pooled into."""
    args = (table.labels_to_pool, table.probabilities, table.studies, pooling, table.study_probabilities)
    return both_scores(table.labels, table.patients, args)


def part_scores(table: OofTable, pooling: Pooling = "max") -> dict[str, PartScores]:
    """Return the scores of each part of a mixture that has predictions, sorted by name; empty for other datasets."""
    if table.parts is None:
        return {}
    found = {}
    for name in sorted(set(table.parts.tolist())):
        found[name] = PartScores(*oof_scores(table.take(np.flatnonzero(table.parts == name)), pooling))
    return found


def both_scores(
    labels: FloatArray,
    patients: npt.NDArray[np.object_],
    of_studies: tuple[FloatArray, FloatArray, npt.NDArray[np.object_], Pooling, FloatArray | None],
) -> tuple[Bootstrap, Bootstrap]:
    """Return the scores with intervals of slices with `labels` (N, 6), and of the studies that they are pooled into.

    `of_studies` are the arguments of `pool_studies`.
    """
    pooled = pool_studies(*of_studies)
    return patient_bootstrap(labels, of_studies[1], patients), patient_bootstrap(
        pooled.labels, pooled.probabilities, patients[pooled.row], scores=study_scores(*of_studies)
    )


def fold_scorecard(project: "Project", number: int, tta: Tta = "none") -> dict[int | None, Bootstrap]:
    """Return `table_scorecard` of an experiment's OOF predictions. Raises like `scorecard`."""
    return table_scorecard(read_oof(project, project.store.experiment(number), tta))


def table_scorecard(table: OofTable) -> dict[int | None, Bootstrap]:
    """Return the scores with their intervals: of all finished folds under None, then of each fold.

    They are of slices, or of studies where no label of a slice is known.

    The folds have no AUC and other scores of rankings, whose intervals take most of the time.
    """
    scored = table.scored()
    found: dict[int | None, Bootstrap] = {
        None: patient_bootstrap(scored.labels, scored.probabilities, table.patients[scored.row])
    }
    for fold in table.fold_scores:
        scored = table.scored(fold)
        owners = table.patients[scored.row]
        found[fold] = patient_bootstrap(scored.labels, scored.probabilities, owners, ranked=False)
    return found


def update_scores(project: "Project", number: int) -> None:
    """Store the pooled OOF score of an experiment's finished folds, without and with test-time augmentation.

    Safe while other processes finish folds: it repeats until no new predictions have appeared meanwhile.
    """
    experiment = project.store.experiment(number)
    seen = project.store.predictions(number, role="oof")
    while seen:
        none, mean = _pooled_score(project, experiment, "none"), _pooled_score(project, experiment, "all")
        project.store.set_scores(number, none, mean)
        before, seen = seen, project.store.predictions(number, role="oof")
        if seen == before:
            return


def _pooled_score(project: "Project", experiment: "Experiment", tta: Tta) -> ScoreDraft:
    oof = read_oof(project, experiment, tta)
    scored = oof.scored()
    interval = loss_interval(scored.labels, scored.probabilities, oof.patients[scored.row])
    return ScoreDraft(score=oof.score, spread=oof.spread, low=interval.low, high=interval.high)
