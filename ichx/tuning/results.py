"""Results of a study, read from Optuna's storage and the store, also while it runs.

Trials are run by `ichx.tuning.study`; results are shown by `ichx.cli.tune_show` and `ichx.report.tuning_section`.
"""

import contextlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from ichx.errors import InvalidInputError, NotFoundError, UnsupportedError, did_you_mean
from ichx.evaluation.choices import CALIBRATED, Objective
from ichx.recipe import literal
from ichx.recipe_text import from_toml
from ichx.store import marks_of_data
from ichx.tuning import studies_url
from ichx.tuning.budget import Value
from ichx.tuning.connection import storage_errors
from ichx.tuning.importance import MIN_TRIALS, importances
from ichx.tuning.joint_values import searchable
from ichx.tuning.promoted import Promoted, read_promoted
from ichx.tuning.space import SWITCH
from ichx.tuning.storage import open_storage, study_name, study_owner
from ichx.tuning.trial_view import STATES, TrialView, ranked_trials, trial_view

if TYPE_CHECKING:
    from optuna import Study

    from ichx.project import Project
    from ichx.store import Experiment
    from ichx.workspace import Workspace


@dataclass(frozen=True)
class ValueFindings:
    """Findings on one searched value."""

    name: str
    low: float | None
    """Bounds of the range; None for choices."""
    high: float | None
    log: bool
    """Whether the range is searched logarithmically."""
    choices: tuple[str, ...]
    as_is: Value | None
    """The recipe's value."""
    best: Value | None
    """Value of the best trial."""
    good: tuple[Value, ...]
    """Lowest and highest value of the best quarter of the trials, or their choices, most frequent first.

    Empty for fewer than `MIN_TRIALS` trials.
    """
    importance: float | None
    """Share of the score's variance that it explains, 0 to 1."""
    off: bool = False
    """Whether it may also be 0, which is off and not in the range."""


@dataclass(frozen=True)
class Saved:
    """Epochs that pruned trials did not train."""

    trials: int
    epochs: int
    seconds: float
    """Estimate from the trials' own time per epoch."""


@dataclass(frozen=True)
class StudyView:
    """A study and its results."""

    experiment: int
    """The tuned experiment."""
    study: str
    """Full name."""
    name: str
    """Name without the experiment; empty for the first study."""
    fold: int
    subset: float
    """Share of the patients."""
    length: float
    """Share of the epochs."""
    space: tuple[str, ...]
    limits: Mapping[str, Any]
    marks: tuple[str, ...]
    """Marks of the trials' scores."""
    trials: tuple[TrialView, ...]
    """By number."""
    best: TrialView | None
    importances: Mapping[str, float] | None
    """By name of the value; None with too few trials."""
    learned: tuple[ValueFindings, ...]
    """Most important value first."""
    saved: Saved
    promoted: tuple[Promoted, ...]
    objective: Objective = "score"
    """The score by which trials are compared: `score` in studies of older versions."""

    @property
    def baseline(self) -> TrialView | None:
        """The newest trial of the unchanged recipe."""
        return next((t for t in reversed(self.trials) if t.baseline), None)

    def count(self, state: str) -> int:
        """Return the number of trials in `state`."""
        return sum(t.state == state for t in self.trials)


@dataclass(frozen=True)
class StudyOverview:
    """A study in a list."""

    experiment: int
    """The tuned experiment."""
    name: str
    """Name without the experiment; empty for the first study."""
    counts: Mapping[str, int]
    """Number of trials by state."""
    best: float | None
    """Score of the best trial within the limits."""
    objective: Objective = "score"
    """The score by which trials are compared."""


def list_studies(workspace: "Workspace") -> list[StudyOverview]:
    """Return all studies of a workspace, those of the newest experiment first.

    Raises:
        StoreError: Optuna's storage cannot be read.
    """
    found = []
    try:
        with _open_storage(workspace) as storage:
            for study in storage.get_all_studies():
                number = study_owner(study.study_name)
                if number is None:
                    continue
                name = study.study_name.removeprefix(study_name(number, None)).removeprefix("-")
                trials = [trial_view(t) for t in storage.get_all_trials(study._study_id, False) if t.state in STATES]
                counts = Counter(trial.state for trial in trials)
                best = next((trial.score for trial in ranked_trials(trials)), None)
                found.append(StudyOverview(number, name, counts, best, _objective(study.user_attrs.get("setup", {}))))
    except NotFoundError:
        return []
    return sorted(found, key=lambda one: (-one.experiment, one.name))


def study_names(workspace: "Workspace", number: int) -> list[str]:
    """Return the names of the studies of experiment `number`; the first study has an empty one."""
    prefix = study_name(number, None)
    try:
        with _open_storage(workspace) as storage:
            names = [n for n in optuna.get_all_study_names(storage) if n == prefix or n.startswith(f"{prefix}-")]
    except NotFoundError:
        return []
    return [name.removeprefix(prefix).removeprefix("-") for name in sorted(names)]


def read_study(project: "Project", number: int, study: str | None = None) -> StudyView:
    """Return the results of a study.

    Args:
        project: The open project.
        number: Number of the tuned experiment.
        study: Name of the study; None: the only one, or the first one.

    Raises:
        NotFoundError: The experiment has no study, or none of this name.
        InvalidInputError: The experiment has several studies that all have names.
        StoreError: Optuna's storage cannot be read.
    """
    parent = project.store.experiment(number)
    names = study_names(project.workspace, number)
    if not names:
        raise NotFoundError(f"Experiment {number} has no study.", f"Run `ichx tune {number}` to create one.")
    name = study if study is not None else names[0] if len(names) == 1 else ""
    if name not in names:
        called = [known for known in names if known]
        first = ", or omit --study for the first one" if "" in names else ""
        choice = f"Use --study {'|'.join(called)}{first}." if called else "Omit --study for the only one."
        if not name:
            raise InvalidInputError(f"Experiment {number} has several studies: {', '.join(called)}.", choice)
        raise NotFoundError(f"Experiment {number} has no study {name!r}.", f"{did_you_mean(name, called)}{choice}")
    full_name = study_name(number, None) + (f"-{name}" if name else "")  # Optuna allows names that `ichx tune` does not
    with _open_storage(project.workspace) as storage:
        found = optuna.load_study(study_name=full_name, storage=storage)
        return summarize(project, parent, found)


def summarize(project: "Project", parent: "Experiment", study: "Study") -> StudyView:
    """Return the results of `study` of experiment `parent`.

    Raises:
        UnsupportedError: An older version of ichx created the study and did not record its setup.
    """
    setup = study.user_attrs.get("setup", {})
    if "fold" not in setup:
        raise UnsupportedError(
            f"The study {study.study_name} was created by an older version of ichx, which did not record its setup.",
            f"Run `ichx tune {parent.number} --study NAME` to create a new one; its trials stay as experiments.",
        )
    frozen = [t for t in study.get_trials(deepcopy=False) if t.state in STATES]
    space = tuple(map(str, setup["search space"]))
    names = [text.partition("=")[0] for text in space]
    recipe = searchable(from_toml(parent.recipe, source=f"the recipe of experiment {parent.number}"))
    distributions = {name: d for t in frozen for name, d in t.distributions.items()}
    as_is = {
        name: literal(recipe[name]) if isinstance(distributions.get(name), CategoricalDistribution) else recipe[name]
        for name in names
        if name in recipe
    }
    existing = {trial.number for trial in project.store.trials(parent.number)}
    trials = tuple(_complete_view(trial_view(t), as_is, existing) for t in frozen)
    ranked = ranked_trials(trials)
    shares = importances([t for t in frozen if t.state == TrialState.COMPLETE])
    return StudyView(
        experiment=parent.number,
        study=study.study_name,
        name=study.study_name.removeprefix(study_name(parent.number, None)).removeprefix("-"),
        fold=int(setup["fold"]),
        subset=float(setup.get("subset", 1.0)),
        length=float(setup.get("length", 1.0)),
        space=space,
        limits=dict(setup.get("limits") or {}),
        marks=("selected", *marks_of_data(parent)),
        trials=trials,
        best=ranked[0] if ranked else None,
        importances=shares,
        learned=tuple(
            _learned(name, distributions, as_is.get(name), ranked, (shares or {}).get(name))
            for name in sorted(names, key=lambda name: (-(shares or {}).get(name, 0.0), not name.endswith(".lr")))
            if name in distributions or f"{name}{SWITCH}" in distributions
        ),
        saved=_saved(trials),
        promoted=read_promoted(project, study.study_name, [t.experiment for t in trials if t.experiment is not None]),
        objective=_objective(setup),
    )


def _objective(setup: Mapping[str, Any]) -> Objective:
    return CALIBRATED if setup.get("objective") == CALIBRATED else "score"


@contextlib.contextmanager
def _open_storage(workspace: "Workspace") -> Iterator[RDBStorage]:
    """Yield Optuna's storage, opened read-only because a study may be running."""
    storage = open_storage(workspace, read_only=True)
    try:
        with storage_errors(studies_url(workspace)):
            yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _complete_view(view: TrialView, as_is: Mapping[str, Value], existing: set[int]) -> TrialView:
    """Return a trial with the recipe's own values if it is the baseline, and whether its experiment was deleted."""
    values = {name: view.values.get(name, value) for name, value in as_is.items()} if view.baseline else view.values
    return replace(view, values=values, deleted=view.experiment is not None and view.experiment not in existing)


def _learned(
    name: str,
    distributions: Mapping[str, Any],
    as_is: Value | None,
    ranked: Sequence[TrialView],
    importance: float | None,
) -> ValueFindings:
    off = f"{name}{SWITCH}" in distributions
    searched = distributions.get(name, CategoricalDistribution((0.0,)))  # no trial has it on
    quarter = ranked[: math.ceil(len(ranked) / 4)] if len(ranked) >= MIN_TRIALS else []
    values = [t.values[name] for t in quarter if name in t.values]
    choice = isinstance(searched, CategoricalDistribution)
    if choice:
        good = tuple(sorted(set(values), key=lambda value: (-values.count(value), str(value))))
    else:
        good = (min(values), max(values)) if values else ()
    return ValueFindings(
        name=name,
        low=None if choice else searched.low,
        high=None if choice else searched.high,
        log=not choice and searched.log,
        choices=tuple(map(str, searched.choices)) if choice else (),
        as_is=as_is,
        best=ranked[0].values.get(name) if ranked else None,
        good=good,
        importance=importance,
        off=off,
    )


def _saved(trials: Sequence[TrialView]) -> Saved:
    pruned = [(t, t.planned - t.epochs) for t in trials if t.state == "pruned" and t.epochs and t.planned]
    seconds = sum((t.seconds or 0.0) / t.epochs * left for t, left in pruned if t.epochs)
    return Saved(len(pruned), sum(left for _, left in pruned), seconds)
