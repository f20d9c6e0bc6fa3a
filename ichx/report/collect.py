"""Collects what a report shows, of an experiment or an ensemble, from the store, the OOF tables and the caches."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ichx.datasets.dataset import load_version
from ichx.errors import IchxError
from ichx.evaluation.bootstrap import Bootstrap, patient_bootstrap
from ichx.evaluation.metric import constant_score, label_losses
from ichx.evaluation.oof import OofTable, read_oof
from ichx.evaluation.scores import Calibration, calibration
from ichx.labels import LABELS
from ichx.plugins import load_registry
from ichx.recipe import Recipe
from ichx.recipe_text import from_toml
from ichx.report.blended import read_blend
from ichx.report.diagnostics import Curves, curves
from ichx.report.gallery import Gallery, make_gallery
from ichx.report.tuned import Tuning, read_tuning

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import DatasetVersion, Ensemble, EpochRecord, Experiment, FoldSet, Run
    from ichx.workspace import Workspace

Progress = Callable[[int, int], None]
STEPS = 4
"""What `Progress` counts: predictions read, scores and curves, slices, the page."""


@dataclass(frozen=True)
class FoldScore:
    """A row of the score table: weighted log loss, that with hflip where it is told, the log loss of each label."""

    name: str
    slices: int
    score: float
    score_tta: float | None
    losses: tuple[float, ...]


@dataclass(frozen=True)
class Diagnosis:
    """What OOF predictions say: scores and their intervals, by label the curves (None where undefined), calibration.

    `spread` is over folds, None for one; `score_tta` is with
    hflip where the rest is without. `prevalence_score` is that of predicting the same slices' prevalences; `left_out`
    counts undecodable slices.
    """

    bootstrap: Bootstrap
    spread: float | None
    score_tta: float | None
    spread_tta: float | None
    prevalence_score: float
    left_out: int
    folds: tuple[FoldScore, ...]
    curves: Mapping[str, Curves | None]
    calibration: Mapping[str, Calibration]


@dataclass(frozen=True)
class Member:
    """A member of an ensemble: its experiment, weight, own OOF score and recipe."""

    experiment: "Experiment"
    weight: float
    score: float


@dataclass(frozen=True)
class ReportData:
    """Everything that a report shows: of `experiment`, or of `ensemble` with its `members`.

    `diagnosis` is None while no fold is finished; `history` has the folds with epochs; `runs` are all members'.
    `pictured` is the experiment whose windows and heat maps the gallery has. `nested` tells how an ensemble's figures
    come about. `tuning` is what an experiment has of it.
    """

    experiment: "Experiment | None"
    ensemble: "Ensemble | None"
    members: tuple[Member, ...]
    version: "DatasetVersion"
    fold_set: "FoldSet"
    recipe: Recipe
    runs: "tuple[Run, ...]"
    history: "Mapping[int, Sequence[EpochRecord]]"
    diagnosis: Diagnosis | None
    nested: bool
    gallery: Gallery | None
    pictured: int
    anonymous: bool
    tuning: Tuning | None = None


def collect_experiment(
    project: "Project", number: int, *, anonymous: bool = False, progress: Progress | None = None
) -> ReportData:
    """Return what is known of experiment `number`.

    Raises `IchxError` for an unknown one, one that has trained nothing and was never tuned, and predictions that are
    gone or not sound.
    """
    tell = progress or _silent
    tell(0, STEPS)
    experiment = project.store.experiment(number)
    runs = tuple(project.store.runs(number))
    history = {fold: project.store.history(number, fold) for fold in sorted({run.fold for run in runs})}
    history = {fold: records for fold, records in history.items() if records}
    recipe = from_toml(experiment.recipe, source=f"the recipe of experiment {number}")
    version = project.store.version_by_id(experiment.version_id)
    tuning = read_tuning(project, experiment)
    diagnosis, gallery = None, None
    if project.store.predictions(number, role="oof"):
        plain, flipped = (read_oof(project, experiment, tta) for tta in ("none", "hflip"))
        tell(1, STEPS)
        diagnosis = diagnose(plain, flipped)
        tell(2, STEPS)
        # A fold may end while its experiment is read: the marks tell of the folds that the scores hold.
        experiment = replace(experiment, folds_done=len(diagnosis.folds))
        gallery = _gallery(project.workspace, version, experiment, recipe, plain, anonymous)
    elif not history and not tuning:
        raise IchxError(
            f"experiment {number} has nothing to report: no epoch of it is trained", f"run it: `ichx run {number}`"
        )
    tell(3, STEPS)
    return ReportData(
        experiment=experiment,
        ensemble=None,
        members=(),
        version=version,
        fold_set=next(f for f in version.folds if f.id == experiment.fold_set_id),
        recipe=recipe,
        runs=runs,
        history=history,
        diagnosis=diagnosis,
        nested=False,
        gallery=gallery,
        pictured=number,
        anonymous=anonymous,
        tuning=tuning,
    )


def collect_ensemble(
    project: "Project", number: int, *, anonymous: bool = False, progress: Progress | None = None
) -> ReportData:
    """Return what is known of ensemble `number`; its slices are shown as the member of the largest weight sees them.

    Raises `IchxError` for an unknown one, and where its members' predictions are gone or have changed.
    """
    tell = progress or _silent
    tell(0, STEPS)
    ensemble = project.store.ensemble(number)
    members = tuple(Member(project.store.experiment(m.experiment), m.weight, m.score) for m in ensemble.members)
    blended = read_blend(project, ensemble)
    tell(1, STEPS)
    diagnosis = diagnose(blended.oof)
    tell(2, STEPS)
    version = project.store.version_by_id(ensemble.version_id)
    heaviest = max(members, key=lambda member: member.weight).experiment
    recipe = from_toml(heaviest.recipe, source=f"the recipe of experiment {heaviest.number}")
    gallery = _gallery(project.workspace, version, heaviest, recipe, blended.oof, anonymous)
    tell(3, STEPS)
    return ReportData(
        experiment=None,
        ensemble=ensemble,
        members=members,
        version=version,
        fold_set=next(f for f in version.folds if f.id == heaviest.fold_set_id),
        recipe=recipe,
        runs=tuple(run for member in members for run in project.store.runs(member.experiment.number)),
        history={},
        diagnosis=diagnosis,
        nested=blended.nested,
        gallery=gallery,
        pictured=heaviest.number,
        anonymous=anonymous,
    )


def diagnose(oof: OofTable, flipped: OofTable | None = None) -> Diagnosis:
    """Return what the predictions of `oof` say; `flipped` are those of the same slices averaged with hflip."""
    flipped_scores = flipped.fold_scores if flipped else {}
    folds = []
    for fold, score in oof.fold_scores.items():
        rows = oof.folds == fold
        of_labels = label_losses(oof.labels[rows], oof.probabilities[rows])
        losses = tuple(map(float, of_labels))
        folds.append(FoldScore(str(fold), int(rows.sum()), score, flipped_scores.get(fold), losses))
    columns = {name: (oof.labels[:, k], oof.probabilities[:, k]) for k, name in enumerate(LABELS)}
    return Diagnosis(
        bootstrap=patient_bootstrap(oof.labels, oof.probabilities, oof.patients),
        spread=oof.spread,
        score_tta=flipped.score if flipped else None,
        spread_tta=flipped.spread if flipped else None,
        prevalence_score=constant_score(oof.labels, oof.labels),
        left_out=oof.left_out,
        folds=tuple(folds),
        curves={name: curves(*column) for name, column in columns.items()},
        calibration={name: calibration(*column) for name, column in columns.items()},
    )


def _gallery(
    workspace: "Workspace",
    version: "DatasetVersion",
    experiment: "Experiment",
    recipe: Recipe,
    oof: OofTable,
    anonymous: bool,
) -> Gallery:
    plugin = load_registry().plugins.get(experiment.plugin)
    folder = workspace.experiment_dir(experiment.number)
    return make_gallery(workspace, load_version(workspace, version), recipe, plugin, folder, oof, anonymous=anonymous)


def _silent(done: int, total: int) -> None:
    """Tell nobody."""
