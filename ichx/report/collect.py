"""The content of a report of an experiment or ensemble, read from the store, the OOF tables and the caches."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pandas as pd

from ichx.datasets.dataset import load_version
from ichx.errors import NotReadyError
from ichx.evaluation.bootstrap import Bootstrap
from ichx.evaluation.decision_curve import DecisionCurve, decision_curves
from ichx.evaluation.ensemble_oof import read_ensemble_oof
from ichx.evaluation.metric import constant_score, label_losses
from ichx.evaluation.oof import OofTable, read_oof
from ichx.evaluation.reliability import ReliabilityCurve, reliability_curves
from ichx.evaluation.scorecard import oof_scores
from ichx.evaluation.scores import Calibration, calibration, pool_studies
from ichx.evaluation.subgroup_scores import Predicted, ReportedGroup, predicted_of, reported_subgroups
from ichx.labels import LABELS
from ichx.recipe import Recipe
from ichx.recipe_text import from_toml
from ichx.report.curves import LabelCurves, curves_by_label
from ichx.report.gallery import Gallery, make_gallery
from ichx.report.tuning_section import TuningSection, read_tuning

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import DatasetVersion, Ensemble, EpochRecord, Experiment, FoldSet, Run

ProgressCallback = Callable[[int, int], None]
"""Receives the number of finished steps and of all steps."""
STEPS = 4
"""Steps of a report: read predictions, compute scores and curves, prepare slices, write the page."""


@dataclass(frozen=True)
class FoldScore:
    """A row of the score table."""

    name: str
    slices: int
    score: float
    """Weighted log loss."""
    score_tta: float | None
    """The same of the mean over all views; None for an ensemble."""
    losses: tuple[float, ...]
    """Log loss of each label."""


@dataclass(frozen=True)
class OofResults:
    """Scores, curves and calibration of OOF predictions."""

    bootstrap: Bootstrap
    """Scores of slices with their intervals."""
    studies: Bootstrap
    """Scores of studies; the probability and the label of a study are the maximum over its slices."""
    spread: float | None
    """Standard deviation of the score over folds; None for a single fold."""
    score_tta: float | None
    """Score of the mean over all views; None for an ensemble."""
    spread_tta: float | None
    prevalence_score: float
    """Score of predicting the prevalences of the same slices."""
    undecodable: int
    """Slices without prediction, because they cannot be decoded."""
    folds: tuple[FoldScore, ...]
    curves: Mapping[str, LabelCurves | None]
    """By label; None where undefined."""
    study_curves: Mapping[str, LabelCurves | None]
    """Of studies, by label."""
    calibration: Mapping[str, Calibration]
    """By label."""
    reliability: Mapping[str, ReliabilityCurve] = field(default_factory=dict)
    """The bins of `calibration` with intervals, by label."""
    decision: Mapping[str, DecisionCurve] = field(default_factory=dict)
    """Decision curves of studies, of labels with both classes."""
    subgroups: Mapping[str, Sequence[ReportedGroup]] = field(default_factory=dict)
    """Groups by field of headers."""

    @property
    def headline(self) -> Bootstrap:
        """The scores of slices, or of studies if no label of a slice is known."""
        return self.bootstrap if any(label.count for label in self.bootstrap.scores.labels) else self.studies


@dataclass(frozen=True)
class MemberRow:
    """A member of an ensemble."""

    experiment: "Experiment"
    weight: float
    score: float
    """OOF score of the member alone."""


@dataclass(frozen=True)
class ReportData:
    """The content of a report."""

    experiment: "Experiment | None"
    """None for an ensemble."""
    ensemble: "Ensemble | None"
    """None for an experiment."""
    members: tuple[MemberRow, ...]
    """Empty for an experiment."""
    version: "DatasetVersion"
    fold_set: "FoldSet"
    recipe: Recipe
    """Recipe of the experiment, or of the member with the largest weight."""
    runs: "tuple[Run, ...]"
    """Runs of the experiment, or of all members."""
    history: "Mapping[int, Sequence[EpochRecord]]"
    """Epochs by fold, for folds with a finished epoch; empty for an ensemble."""
    results: OofResults | None
    """None before a fold is finished."""
    nested: bool
    """Whether `results` are nested predictions of an ensemble."""
    gallery: Gallery | None
    """None before a fold is finished."""
    gallery_experiment: int
    """The experiment that the windows and heat maps of the gallery come from."""
    anonymous: bool
    """Whether slice ids and host names are omitted."""
    tuning: TuningSection | None = None


def collect_experiment(
    project: "Project", number: int, *, anonymous: bool = False, progress: ProgressCallback | None = None
) -> ReportData:
    """Return the content of the report of experiment `number`; arguments as in `write_report`.

    Raises:
        NotFoundError: The experiment does not exist.
        NotReadyError: It has no finished epoch and no tuning, or predictions are missing.
        ChangedDataError: Predictions have changed since they were recorded.
    """
    report_progress = progress or _no_progress
    report_progress(0, STEPS)
    experiment = project.store.experiment(number)
    runs = tuple(project.store.runs(number))
    history = {fold: project.store.history(number, fold) for fold in sorted({run.fold for run in runs})}
    history = {fold: records for fold, records in history.items() if records}
    recipe = from_toml(experiment.recipe, source=f"the recipe of experiment {number}")
    version = project.store.version_by_id(experiment.version_id)
    tuning = read_tuning(project, experiment)
    results, gallery = None, None
    if project.store.predictions(number, role="oof"):
        identity, mean = read_oof(project, experiment, "none"), read_oof(project, experiment, "all")
        report_progress(1, STEPS)
        data = load_version(project.workspace, version)
        groups = reported_subgroups(predicted_of(identity, data.slices))
        results = replace(oof_results(identity, mean), subgroups=groups)
        report_progress(2, STEPS)
        # A fold may finish while its experiment is read: the marks describe the folds that are in the scores.
        experiment = replace(experiment, folds_done=len(results.folds))
        gallery = make_gallery(project, experiment, recipe, data, identity, anonymous=anonymous)
    elif not history and not tuning:
        raise NotReadyError(f"Experiment {number} has no finished epoch to report.", f"Run it: `ichx run {number}`.")
    report_progress(3, STEPS)
    return ReportData(
        experiment=experiment,
        ensemble=None,
        members=(),
        version=version,
        fold_set=version.fold_set_of(experiment),
        recipe=recipe,
        runs=runs,
        history=history,
        results=results,
        nested=False,
        gallery=gallery,
        gallery_experiment=number,
        anonymous=anonymous,
        tuning=tuning,
    )


def collect_ensemble(
    project: "Project", number: int, *, anonymous: bool = False, progress: ProgressCallback | None = None
) -> ReportData:
    """Return the content of the report of ensemble `number`; arguments as in `write_report`.

    Windows and heat maps come from the member with the largest weight.

    Raises:
        NotFoundError: The ensemble does not exist.
        NotReadyError: Predictions of a member are missing.
        ChangedDataError: Predictions have changed since they were recorded.
    """
    report_progress = progress or _no_progress
    report_progress(0, STEPS)
    ensemble = project.store.ensemble(number)
    members = tuple(MemberRow(project.store.experiment(m.experiment), m.weight, m.score) for m in ensemble.members)
    blend = read_ensemble_oof(project, ensemble)
    report_progress(1, STEPS)
    version = project.store.version_by_id(ensemble.version_id)
    data = load_version(project.workspace, version)
    results = replace(oof_results(blend.oof), subgroups=reported_subgroups(predicted_of(blend.oof, data.slices)))
    report_progress(2, STEPS)
    heaviest = max(members, key=lambda member: member.weight).experiment
    recipe = from_toml(heaviest.recipe, source=f"the recipe of experiment {heaviest.number}")
    gallery = make_gallery(project, heaviest, recipe, data, blend.oof, anonymous=anonymous)
    report_progress(3, STEPS)
    return ReportData(
        experiment=None,
        ensemble=ensemble,
        members=members,
        version=version,
        fold_set=version.fold_set_of(heaviest),
        recipe=recipe,
        runs=tuple(run for member in members for run in project.store.runs(member.experiment.number)),
        history={},
        results=results,
        nested=blend.nested,
        gallery=gallery,
        gallery_experiment=heaviest.number,
        anonymous=anonymous,
    )


def oof_results(oof: OofTable, mean: OofTable | None = None) -> OofResults:
    """Return the results of the predictions in `oof`; `mean` has the same slices averaged over all views."""
    mean_scores = mean.fold_scores if mean else {}
    folds = []
    for fold, score in oof.fold_scores.items():
        rows = oof.folds == fold
        scored = oof.scored(fold)
        losses = tuple(map(float, label_losses(scored.labels, scored.probabilities)))
        folds.append(FoldScore(str(fold), int(rows.sum()), score, mean_scores.get(fold), losses))
    columns = {name: (oof.labels[:, k], oof.probabilities[:, k]) for k, name in enumerate(LABELS)}
    predicted = Predicted(pd.DataFrame({"patient": oof.patients, "study": oof.studies}), oof.labels, oof.probabilities)
    slices, studies = oof_scores(oof, "max")
    pooled = pool_studies(oof.labels_to_pool, oof.probabilities, oof.studies, "max")
    return OofResults(
        bootstrap=slices,
        studies=studies,
        spread=oof.spread,
        score_tta=mean.score if mean else None,
        spread_tta=mean.spread if mean else None,
        prevalence_score=constant_score(oof.scored().labels, oof.scored().labels),
        undecodable=oof.left_out,
        folds=tuple(folds),
        curves=curves_by_label(oof.labels, oof.probabilities),
        study_curves=curves_by_label(pooled.labels, pooled.probabilities),
        calibration={name: calibration(*column) for name, column in columns.items()},
        reliability=reliability_curves(predicted, LABELS, binning="width"),
        decision=decision_curves(replace(predicted, labels=oof.labels_to_pool), LABELS, "study"),
    )


def _no_progress(done: int, total: int) -> None:
    """Ignore the progress."""
