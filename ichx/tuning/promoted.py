"""Experiments promoted from a trial: their score on the fold that chose them, beside the score over the other folds."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ichx.errors import IchxError, NotFoundError
from ichx.recipe_text import from_toml

if TYPE_CHECKING:
    from ichx.evaluation.bootstrap import ScoreDifference
    from ichx.evaluation.oof import OofTable
    from ichx.project import Project
    from ichx.store import Experiment, Store

    Tables = dict[tuple[int, tuple[int, ...]], OofTable]


@dataclass(frozen=True)
class Promoted:
    """An experiment that took over the values of `trial`'s experiment (None where that was deleted), on all patients.

    `chosen` is the trial's score on `fold`, which chose it; it flatters. `score` is the experiment's own over the
    finished ones of the `others` folds, pooled, `folds` of them; `parent_score` that of the tuned experiment `parent`
    over the same folds, and `better_by` how much higher that is, with its paired 95 % interval over patients. None
    where they are not run; `problem` says why predictions that there are cannot be read.
    `others` is how many folds have chosen nothing: where what was tuned came from a trial itself, that one's fold is
    none of them. Where `leaked`, the folds split patients, and all of these flatter; where `selected`, something looked
    at the other folds as well: a stage's patience, or an earlier tuning on other folds of these patients.
    """

    experiment: int
    trial: int | None
    study: str
    fold: int
    chosen: float
    folds: tuple[int, ...]
    others: int
    score: float | None
    parent: int | None
    parent_score: float | None
    better_by: float | None
    better_low: float | None
    better_high: float | None
    leaked: bool
    selected: bool = False
    problem: str | None = None

    @property
    def marks(self) -> tuple[str, ...]:
        """What must be said beside the scores over the other folds."""
        said = (("selected", self.selected), ("leaky folds", self.leaked))
        return tuple(mark for mark, on in said if on)


def read_promoted(project: "Project", study: str, trials: Iterable[int]) -> tuple[Promoted, ...]:
    """Return what was promoted from the experiments `trials` of `study`, oldest first, without what is in the trash."""
    from ichx.store import Selection

    wanted = set(trials)
    known: Tables = {}
    found = []
    for e in sorted(project.store.experiments(Selection(), limit=None), key=lambda e: e.number):
        if e.parent in wanted or (e.parent is None and e.selected):  # a trial that was deleted is no parent any more
            one = read_one(project, project.store.experiment(e.number), known)
            found += [one] if one is not None and one.study == study else []
    return tuple(found)


def read_one(
    project: "Project",
    experiment: "Experiment",
    known: "Tables | None" = None,
) -> Promoted | None:
    """Return what is to be said of `experiment` where it is a promoted one, else None.

    Predictions that are `known` by experiment and folds are not read again.
    """
    tuned = experiment.tuned
    if experiment.kind != "experiment" or experiment.origin or tuned is None or tuned.score is None:
        return None  # also what was imported: its study is not here
    known = {} if known is None else known
    choosers, elsewhere = _choosers(project.store, experiment)
    folds = tuple(sorted(_finished(project.store, experiment.number) - choosers))
    parent = _tuned(project.store, experiment, tuned.study)
    own, given, problem = None, None, None
    try:
        if folds:
            own = _read(project, experiment.number, folds, known)
        if folds and parent is not None and set(folds) <= _finished(project.store, parent):
            given = _read(project, parent, folds, known)
    except IchxError as error:
        problem = error.problem
    better = None if own is None or given is None else gain(given, own)
    return Promoted(
        experiment=experiment.number,
        trial=experiment.parent,
        study=tuned.study,
        fold=tuned.fold,
        chosen=tuned.score,
        folds=folds,
        others=experiment.folds - len(choosers),
        score=None if own is None else own.score,
        parent=parent,
        parent_score=None if given is None else given.score,
        better_by=None if better is None else better.value,
        better_low=None if better is None else better.low,
        better_high=None if better is None else better.high,
        leaked=experiment.leaked,
        selected=elsewhere or from_toml(experiment.recipe).selects,
        problem=problem,
    )


def _tuned(store: "Store", experiment: "Experiment", study: str) -> int | None:
    """Return the experiment that was tuned: the trial's parent, or the study's own where the trial was deleted."""
    if experiment.parent is not None:
        return store.experiment(experiment.parent).parent
    try:
        return store.experiment(int(study.split("-")[1])).number
    except NotFoundError:
        return None


def _choosers(store: "Store", experiment: "Experiment") -> tuple[set[int], bool]:
    """Return the folds whose scores chose values of `experiment`, and whether other folds of its patients did, too.

    What it was made from counts, and what that was made from, as far as these are still there.
    """
    found, elsewhere = set(), False
    at: Experiment | None = experiment
    while at is not None:
        if at.tuned is not None and at.fold_digest == experiment.fold_digest:
            found.add(at.tuned.fold)
        elsewhere = elsewhere or (at.tuned is not None and at.fold_digest != experiment.fold_digest)
        at = None if at.parent is None else store.experiment(at.parent)
    return found, elsewhere


def _finished(store: "Store", number: int) -> set[int]:
    return {p.fold for p in store.predictions(number, role="oof", view="identity")}


def _read(project: "Project", number: int, folds: tuple[int, ...], known: "Tables") -> "OofTable":
    """Return the OOF predictions of `folds`, without test-time augmentation."""
    if (number, folds) not in known:
        from ichx.evaluation.oof import read_oof  # pandas takes a while, and there may be nothing to read

        known[number, folds] = read_oof(project, project.store.experiment(number), only=folds)
    return known[number, folds]


def gain(given: "OofTable", own: "OofTable") -> "ScoreDifference":
    """Return how much higher the score `given` is than the `own` one, on the slices that both predict."""
    from ichx.evaluation.bootstrap import paired_difference
    from ichx.evaluation.compare import common_rows

    rows, others = common_rows(given, own)
    return paired_difference(
        given.labels[rows], given.probabilities[rows], own.probabilities[others], given.patients[rows]
    )
