"""Scores of promoted experiments: on the fold that selected the trial, and on the other folds."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ichx.errors import IchxError, NotFoundError
from ichx.evaluation.choices import CALIBRATED
from ichx.evaluation.selecting_folds import tuning_folds
from ichx.recipe_text import from_toml

if TYPE_CHECKING:
    from ichx.evaluation.bootstrap import ScoreDifference
    from ichx.evaluation.oof import OofTable
    from ichx.project import Project
    from ichx.store import Experiment, Store

    Tables = dict[tuple[int, tuple[int, ...]], OofTable]


@dataclass(frozen=True)
class Comparison:
    """Scores of a promoted experiment and of the tuned one on the same folds, of one kind."""

    score: float | None
    parent_score: float | None
    better_by: float | None
    """Improvement over the parent's score, on the slices that both predict."""
    low: float | None
    """Bounds of its paired 95 % interval over patients."""
    high: float | None
    undefined: str | None
    """Why there is no interval although both have scores."""


@dataclass(frozen=True)
class Promoted:
    """A promoted experiment and its scores."""

    experiment: int
    trial: int | None
    """Experiment of the trial; None if it was deleted."""
    study: str
    fold: int
    """The fold that selected the trial."""
    chosen: float
    """Score of the trial on `fold`, which is optimistic."""
    folds: tuple[int, ...]
    """Finished folds that selected nothing."""
    others: int
    """Number of all folds that selected nothing, for a trial of a promoted experiment also not its parent's."""
    score: float | None
    """Pooled score over `folds`; None before one is finished."""
    parent: int | None
    """The tuned experiment."""
    parent_score: float | None
    """Its pooled score over `folds`; None before all of them are finished."""
    better_by: float | None
    """Improvement over the parent's score, on the slices that both predict."""
    better_low: float | None
    """Bounds of its paired 95 % interval over patients."""
    better_high: float | None
    leaked: bool
    """Whether the folds split patients, so that all scores are optimistic."""
    transductive: bool = False
    """Whether the labels are partly pseudo-labels of patients of a test set."""
    selected: bool = False
    """Whether something else used scores of other folds: patience, a tuning on other folds of the patients, or a choice
    about a member of a sequence experiment."""
    problem: str | None = None
    """Why predictions cannot be read."""
    undefined: str | None = None
    """Why there is no interval of the improvement."""
    calibrated: Comparison | None = None
    """The same by calibrated scores; None for a study that did not use them, or before a fold is finished."""

    @property
    def marks(self) -> tuple[str, ...]:
        """Marks of the scores over the other folds."""
        marks = (("selected", self.selected), ("leaky folds", self.leaked), ("transductive", self.transductive))
        return tuple(mark for mark, applies in marks if applies)

    @property
    def compared(self) -> Comparison:
        """The comparison by the score of the study."""
        raw = (self.score, self.parent_score, self.better_by, self.better_low, self.better_high, self.undefined)
        return self.calibrated or Comparison(*raw)


def read_promoted(project: "Project", study: str, trials: Iterable[int]) -> tuple[Promoted, ...]:
    """Return the experiments that were promoted from trials of a study, oldest first, without those in the trash.

    Args:
        project: The open project.
        study: Full name of the study.
        trials: Numbers of the trials' experiments.
    """
    from ichx.store import Selection

    parents = set(trials)
    tables: Tables = {}
    found = []
    for e in sorted(project.store.experiments(Selection(), limit=None), key=lambda e: e.number):
        if e.parent in parents or (e.parent is None and e.selected):  # the parent is None if the trial was deleted
            promoted = read_one(project, project.store.experiment(e.number), tables)
            found += [promoted] if promoted is not None and promoted.study == study else []
    return tuple(found)


def read_one(project: "Project", experiment: "Experiment", tables: "Tables | None" = None) -> Promoted | None:
    """Return the scores of a promoted experiment, None for other experiments and for imported ones.

    Args:
        project: The open project.
        experiment: Any experiment.
        tables: OOF predictions that were read before, by experiment and folds; new ones are added.
    """
    tuned = experiment.tuned
    if experiment.kind != "experiment" or experiment.origin or tuned is None or tuned.score is None:
        return None
    tables = {} if tables is None else tables
    selecting, elsewhere = tuning_folds(project.store, experiment)
    folds = tuple(sorted(_finished_folds(project.store, experiment.number) - selecting))
    parent = _tuned_experiment(project.store, experiment, tuned.study)
    own, before, problem = None, None, None
    try:
        if folds:
            own = _read(project, experiment.number, folds, tables)
        if folds and parent is not None and set(folds) <= _finished_folds(project.store, parent):
            before = _read(project, parent, folds, tables)
    except IchxError as error:
        problem = error.problem
    better = None if own is None or before is None else improvement(before, own)
    calibrated = None
    if own is not None and tuned.objective == CALIBRATED:
        tuned_one = None if before is None or parent is None else project.store.experiment(parent)
        calibrated = _compare_calibrated(project, (experiment, own), (tuned_one, before))
    return Promoted(
        experiment=experiment.number,
        trial=experiment.parent,
        study=tuned.study,
        fold=tuned.fold,
        chosen=tuned.score,
        folds=folds,
        others=experiment.folds - len(selecting),
        score=None if own is None else own.score,
        parent=parent,
        parent_score=None if before is None else before.score,
        better_by=None if better is None else better.value,
        better_low=None if better is None else better.low,
        better_high=None if better is None else better.high,
        leaked=experiment.leaked,
        transductive=experiment.transductive,
        selected=elsewhere
        or from_toml(experiment.recipe).selects
        or any(project.store.experiment(member).selected for member in experiment.members),
        problem=problem,
        undefined=None if better is None else better.undefined,
        calibrated=calibrated,
    )


def improvement(before: "OofTable", after: "OofTable") -> "ScoreDifference":
    """Return by how much the score `after` is lower than `before`, on the slices that both predict."""
    from ichx.evaluation.bootstrap import paired_difference
    from ichx.evaluation.compare import common_rows

    rows, others = common_rows(before, after)
    return paired_difference(
        before.labels[rows], before.probabilities[rows], after.probabilities[others], before.patients[rows]
    )


def _compare_calibrated(
    project: "Project", own: "tuple[Experiment, OofTable]", before: "tuple[Experiment | None, OofTable | None]"
) -> Comparison:
    """Return the comparison of a promoted experiment with the tuned one, if that has predictions, too."""
    from ichx.experiments.calibrated_fold import calibrated_oof  # imports pandas

    after = calibrated_oof(project, *own)
    parent, table = before
    if parent is None or table is None:
        return Comparison(after.score, None, None, None, None, None)
    first = calibrated_oof(project, parent, table)
    found = improvement(first, after)
    return Comparison(after.score, first.score, found.value, found.low, found.high, found.undefined)


def _tuned_experiment(store: "Store", experiment: "Experiment", study: str) -> int | None:
    """Return the parent of the trial; of a deleted trial, the experiment in the name of its study."""
    if experiment.parent is not None:
        return store.experiment(experiment.parent).parent
    try:
        return store.experiment(int(study.split("-")[1])).number
    except NotFoundError:
        return None


def _finished_folds(store: "Store", number: int) -> set[int]:
    return {p.fold for p in store.predictions(number, role="oof", view="identity")}


def _read(project: "Project", number: int, folds: tuple[int, ...], tables: "Tables") -> "OofTable":
    """Return the OOF predictions of `folds` without test-time augmentation."""
    if (number, folds) not in tables:
        from ichx.evaluation.oof import read_oof  # imports pandas, and there may be nothing to read

        tables[number, folds] = read_oof(project, project.store.experiment(number), only=folds)
    return tables[number, folds]
