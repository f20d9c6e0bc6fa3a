"""What a study has found, as its storage and the store have it: read only, also while the study runs.

How trials come about is in `ichx.tuning.study`; how this is shown in `ichx.cli.tune_show` and `ichx.report.tuned`.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from ichx.errors import IchxError, did_you_mean
from ichx.recipe import literal, settable
from ichx.recipe_text import from_toml
from ichx.tuning.budget import Value
from ichx.tuning.database import DATABASE
from ichx.tuning.importance import ENOUGH, importances
from ichx.tuning.promoted import Promoted, read_promoted
from ichx.tuning.storage import BUSY_SECONDS, told_of

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

    from ichx.project import Project
    from ichx.store import Experiment
    from ichx.workspace import Workspace

STATES = {
    TrialState.COMPLETE: "done",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
}


@dataclass(frozen=True)
class TrialView:
    """A trial. `state` is `done`, `pruned`, `failed` or `running`; `exceeded` names the limits that it does not keep.

    `baseline` is the recipe as it is. `score` is the final one of a done trial, of another the last that it reported.
    `epochs` are trained of `planned`. `experiment` is None where the values did not go together. `error` is why it
    failed or was ended early. `deleted` says that its experiment is gone.
    """

    trial: int
    experiment: int | None
    state: str
    baseline: bool
    values: Mapping[str, Value]
    score: float | None
    exceeded: tuple[str, ...]
    epochs: int | None
    planned: int | None
    seconds: float | None
    error: str | None
    log: str | None
    deleted: bool = False

    @property
    def chosen_from(self) -> bool:
        """Whether it may be the best one: done, and within all limits."""
        return self.state == "done" and not self.exceeded and self.score is not None


@dataclass(frozen=True)
class Learned:
    """What the study learned of one searched value.

    It is searched from `low` to `high`, logarithmically where `log`, or among `choices`. `good` are the lowest and the
    highest value of the best quarter of the trials, or their choices, the most frequent first; empty where these are
    too few to tell. `importance` is its share in what the score varied by, 0 to 1.
    """

    name: str
    low: float | None
    high: float | None
    log: bool
    choices: tuple[str, ...]
    as_is: Value | None
    best: Value | None
    good: tuple[Value, ...]
    importance: float | None


@dataclass(frozen=True)
class Saved:
    """What pruning spared: epochs that `trials` did not train, and about how long these had taken."""

    trials: int
    epochs: int
    seconds: float


@dataclass(frozen=True)
class StudyView:
    """A study of `experiment` on `fold`, with `subset` of the patients and `length` of the epochs.

    `name` is what it was called, empty for the first; `trials` are by number; `importances` None where too little is
    known. `marks` follow every score of a trial.
    """

    experiment: int
    study: str
    name: str
    fold: int
    subset: float
    length: float
    space: tuple[str, ...]
    limits: Mapping[str, Any]
    marks: tuple[str, ...]
    trials: tuple[TrialView, ...]
    best: TrialView | None
    importances: Mapping[str, float] | None
    learned: tuple[Learned, ...]
    saved: Saved
    promoted: tuple[Promoted, ...]

    @property
    def baseline(self) -> TrialView | None:
        """The trial of the recipe as it is; the newest, where one has failed."""
        return next((t for t in reversed(self.trials) if t.baseline), None)

    def counted(self, state: str) -> int:
        """Return how many trials are in `state`."""
        return sum(t.state == state for t in self.trials)


def study_names(workspace: "Workspace", number: int) -> list[str]:
    """Return what the studies of experiment `number` are called, the first one (without a name) as an empty text."""
    if not (workspace.root / "db" / DATABASE).is_file():
        return []
    with _opened(workspace) as storage:
        return _names(storage, number)


def read_study(project: "Project", number: int, study: str | None = None) -> StudyView:
    """Return what the study called `study` of experiment `number` has found so far.

    Without a name it is the first one, or the only one. Raises `IchxError` where there is none.
    """
    parent = project.store.experiment(number)
    tune = f"`ichx tune {number}` makes one"
    if not (project.workspace.root / "db" / DATABASE).is_file():
        raise IchxError(f"experiment {number} has no study", tune)
    with _opened(project.workspace) as storage:
        names = _names(storage, number)
        if not names:
            raise IchxError(f"experiment {number} has no study", tune)
        wanted = study if study is not None else names[0] if len(names) == 1 else ""
        if wanted not in names:
            called = [name for name in names if name]
            first = ", or leave --study out for the first" if "" in names else ""
            choice = (
                f"choose with --study {'|'.join(called)}{first}" if called else "leave --study out for its only one"
            )
            which = f"has no study {wanted!r}" if wanted else f"has several studies: {', '.join(called)}"
            raise IchxError(f"experiment {number} {which}", f"{did_you_mean(wanted, called)}{choice}")
        found = optuna.load_study(study_name=_full(number, wanted), storage=storage)
        return summarize(project, parent, found)


def summarize(project: "Project", parent: "Experiment", study: "Study") -> StudyView:
    """Return what `study` of experiment `parent` has found so far; it may be running."""
    setup = study.user_attrs.get("setup", {})
    if "fold" not in setup:
        raise IchxError(
            f"the study {study.study_name} was made by an older ichx, which did not note what it searched on",
            f"`ichx tune {parent.number} --study NAME` makes a new one; its trials stay as experiments",
        )
    frozen = [t for t in study.get_trials(deepcopy=False) if t.state in STATES]
    space = tuple(map(str, setup["search space"]))
    names = [text.partition("=")[0] for text in space]
    recipe = settable(from_toml(parent.recipe, source=f"the recipe of experiment {parent.number}"))
    distributions = {name: d for t in frozen for name, d in t.distributions.items()}
    as_is = {
        name: literal(recipe[name]) if isinstance(distributions.get(name), CategoricalDistribution) else recipe[name]
        for name in names
        if name in recipe
    }
    there = {trial.number for trial in project.store.trials(parent.number)}
    trials = tuple(_trial(t, as_is, there) for t in frozen)
    ranked = sorted((t for t in trials if t.chosen_from), key=_rank)
    best = ranked[0] if ranked else None
    shares = importances([t for t in frozen if t.state == TrialState.COMPLETE])
    return StudyView(
        experiment=parent.number,
        study=study.study_name,
        name=study.study_name.removeprefix(_full(parent.number, "")).removeprefix("-"),
        fold=int(setup["fold"]),
        subset=float(setup.get("subset", 1.0)),
        length=float(setup.get("length", 1.0)),
        space=space,
        limits=dict(setup.get("limits") or {}),
        marks=("selected", "leaky folds") if parent.leaked else ("selected",),
        trials=trials,
        best=best,
        importances=shares,
        learned=tuple(
            _learned(name, distributions[name], as_is.get(name), ranked, (shares or {}).get(name))
            for name in sorted(names, key=lambda name: (-(shares or {}).get(name, 0.0), not name.endswith(".lr")))
            if name in distributions
        ),
        saved=_saved(trials),
        promoted=read_promoted(project, study.study_name, [t.experiment for t in trials if t.experiment is not None]),
    )


@contextlib.contextmanager
def _opened(workspace: "Workspace") -> Iterator[RDBStorage]:
    """Yield Optuna's storage, which is not written to: a study may be running."""
    path = workspace.root / "db" / DATABASE
    with told_of(path, "read", RuntimeError):  # of another version
        storage = RDBStorage(
            f"sqlite:///file:{quote(str(path))}?mode=ro&uri=true",
            engine_kwargs={"connect_args": {"timeout": BUSY_SECONDS}},
        )
    try:
        with told_of(path, "read"):
            yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _full(number: int, name: str) -> str:
    return f"experiment-{number}-{name}" if name else f"experiment-{number}"


def _names(storage: RDBStorage, number: int) -> list[str]:
    first = _full(number, "")
    found = [n for n in optuna.get_all_study_names(storage) if n == first or n.startswith(f"{first}-")]
    return [name.removeprefix(first).removeprefix("-") for name in sorted(found)]


def _trial(trial: "FrozenTrial", as_is: Mapping[str, Value], there: "set[int]") -> TrialView:
    attrs = trial.user_attrs
    number = attrs.get("experiment")
    score = trial.values[0] if trial.state == TrialState.COMPLETE else None
    if score is None and trial.intermediate_values:
        score = trial.intermediate_values[max(trial.intermediate_values)]
    epochs, planned = attrs.get("epochs") or (None, None)
    baseline = bool(attrs.get("baseline", False))
    return TrialView(
        trial=trial.number,
        experiment=number,
        state=STATES[trial.state],
        baseline=baseline,
        values={name: trial.params.get(name, value) for name, value in as_is.items()} if baseline else trial.params,
        score=score if score is not None and math.isfinite(score) else None,
        exceeded=tuple(sorted(name for name, value in trial.constraints.items() if value > 0)),
        epochs=epochs,
        planned=planned,
        seconds=attrs.get("seconds"),
        error={"failed": attrs.get("error"), "pruned": attrs.get("ended")}.get(STATES[trial.state]),
        log=attrs.get("log") if trial.state == TrialState.FAIL else None,
        deleted=number is not None and number not in there,
    )


def _rank(trial: TrialView) -> tuple[float, int]:
    return (math.inf if trial.score is None else trial.score, trial.trial)


def _learned(
    name: str, searched: Any, as_is: Value | None, ranked: Sequence[TrialView], importance: float | None
) -> Learned:
    quarter = ranked[: math.ceil(len(ranked) / 4)] if len(ranked) >= ENOUGH else []
    values = [t.values[name] for t in quarter if name in t.values]
    choice = isinstance(searched, CategoricalDistribution)
    if choice:
        good = tuple(sorted(set(values), key=lambda value: (-values.count(value), str(value))))
    else:
        good = (min(values), max(values)) if values else ()
    return Learned(
        name=name,
        low=None if choice else searched.low,
        high=None if choice else searched.high,
        log=not choice and searched.log,
        choices=tuple(map(str, searched.choices)) if choice else (),
        as_is=as_is,
        best=ranked[0].values.get(name) if ranked else None,
        good=good,
        importance=importance,
    )


def _saved(trials: Sequence[TrialView]) -> Saved:
    """Return what the pruned trials did not train, at each one's own seconds per epoch."""
    found = [(t, t.planned - t.epochs) for t in trials if t.state == "pruned" and t.epochs and t.planned]
    seconds = sum((t.seconds or 0.0) / t.epochs * left for t, left in found if t.epochs)
    return Saved(len(found), sum(left for _, left in found), seconds)
