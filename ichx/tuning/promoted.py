"""Experiments promoted from a trial: their score on the fold that chose them, beside the score over the other folds."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ichx.errors import IchxError, NotFoundError
from ichx.recipe_text import from_toml

if TYPE_CHECKING:
    from ichx.store import Experiment, Store
    from ichx.workspace import Workspace


@dataclass(frozen=True)
class Promoted:
    """An experiment that took over the values of `trial`'s experiment (None where that was deleted), on all patients.

    `chosen` is the trial's score on `fold`, which chose it; it flatters. `score` is the experiment's own over the
    finished ones of the `others` folds, pooled, `folds` of them; `parent_score` that of the tuned experiment `parent`
    over the same folds. None where they are not run; `problem` says why predictions that there are cannot be read.
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
    leaked: bool
    selected: bool = False
    problem: str | None = None

    @property
    def marks(self) -> tuple[str, ...]:
        """What must be said beside the scores over the other folds."""
        said = (("selected", self.selected), ("leaky folds", self.leaked))
        return tuple(mark for mark, on in said if on)

    @property
    def better_by(self) -> float | None:
        """How much lower its score is than the tuned experiment's over the same folds; None until both are there."""
        return None if self.score is None or self.parent_score is None else self.parent_score - self.score


def read_promoted(workspace: "Workspace", store: "Store", study: str, trials: Iterable[int]) -> tuple[Promoted, ...]:
    """Return what was promoted from the experiments `trials` of `study`, oldest first, without what is in the trash."""
    from ichx.store import Selection

    wanted = set(trials)
    known: dict[tuple[int, tuple[int, ...]], float] = {}
    found = []
    for e in sorted(store.experiments(Selection(), limit=None), key=lambda e: e.number):
        if e.parent in wanted or (e.parent is None and e.selected):  # a trial that was deleted is no parent any more
            one = read_one(workspace, store, store.experiment(e.number), known)
            found += [one] if one is not None and one.study == study else []
    return tuple(found)


def read_one(
    workspace: "Workspace",
    store: "Store",
    experiment: "Experiment",
    known: dict[tuple[int, tuple[int, ...]], float] | None = None,
) -> Promoted | None:
    """Return what is to be said of `experiment` where it is a promoted one, else None.

    Scores that are `known` by experiment and folds are not computed again.
    """
    tuned = experiment.tuned
    if experiment.kind != "experiment" or experiment.origin or tuned is None or tuned.score is None:
        return None  # also what was imported: its study is not here
    known = {} if known is None else known
    choosers, elsewhere = _choosers(store, experiment)
    folds = tuple(sorted(_finished(store, experiment.number) - choosers))
    parent = _tuned(store, experiment, tuned.study)
    score, parent_score, problem = None, None, None
    try:
        if folds:
            score = _pooled(workspace, store, experiment.number, folds, known)
        if folds and parent is not None and set(folds) <= _finished(store, parent):
            parent_score = _pooled(workspace, store, parent, folds, known)
    except IchxError as error:
        problem = error.problem
    return Promoted(
        experiment=experiment.number,
        trial=experiment.parent,
        study=tuned.study,
        fold=tuned.fold,
        chosen=tuned.score,
        folds=folds,
        others=experiment.folds - len(choosers),
        score=score,
        parent=parent,
        parent_score=parent_score,
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


def _pooled(
    workspace: "Workspace",
    store: "Store",
    number: int,
    folds: tuple[int, ...],
    known: dict[tuple[int, tuple[int, ...]], float],
) -> float:
    """Return the weighted log loss over the OOF slices of `folds`, without test-time augmentation."""
    if (number, folds) not in known:
        from ichx.evaluation.oof import read_oof  # pandas takes a while, and there may be nothing to read

        known[number, folds] = read_oof(workspace, store, store.experiment(number), only=folds).score
    return known[number, folds]
