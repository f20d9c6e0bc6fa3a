"""Optuna studies as `ichx tune` leaves them, created without training, for tests of what reads them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from ichx.experiments.register import draft
from ichx.recipe import Recipe
from ichx.recipe_text import apply_settings, from_toml
from ichx.store import Experiment, Store, TuningInfo
from ichx.workspace import Workspace

SPACE: dict[str, BaseDistribution] = {
    "stage.balanced.lr": FloatDistribution(1e-4, 1e-1, log=True),
    "model.dropout": FloatDistribution(0.0, 0.4),
    "batch": CategoricalDistribution(("16", "32")),
}
SEARCHES = ["batch=16,32", "model.dropout=0.0..0.4", "stage.balanced.lr=log:0.0001..0.1"]
BEST_LR = 1e-2


def score_of(values: Mapping[str, Any]) -> float:
    """Return a score that depends on the learning rate only."""
    return 0.1 + 0.05 * (math.log10(float(values["stage.balanced.lr"])) - math.log10(BEST_LR)) ** 2


@contextmanager
def storage(workspace: Workspace) -> Iterator[RDBStorage]:
    """Yield Optuna's storage of the workspace, which is created if needed."""
    opened = RDBStorage(f"sqlite:///{workspace.root / 'db' / 'tuning.db'}")
    try:
        yield opened
    finally:
        opened.remove_session()
        opened.engine.dispose()


def new_study(opened: RDBStorage, parent: Experiment, name: str = "", **setup: Any) -> optuna.Study:
    """Return a new study of `parent`, with parts of its `setup` replaced."""
    full_name = f"experiment-{parent.number}" + (f"-{name}" if name else "")
    study = optuna.create_study(storage=opened, study_name=full_name, direction="minimize")
    common: dict[str, Any] = {"search space": SEARCHES, "recipe": parent.recipe_digest, "fold": 0, "subset": 1.0}
    study.set_user_attr("setup", common | {"length": 1.0, "limits": {}} | setup)
    return study


def register(
    store: Store, parent: Experiment, study: str, trial: int, values: Mapping[str, Any], of: int = 0, **tuned: Any
) -> int:
    """Return the number of a trial's experiment, or with a `score` of a promoted one, whose trial is `of`."""
    recipe: Recipe = from_toml(parent.recipe)
    kind = "experiment" if "score" in tuned else "trial"
    experiment = replace(
        draft(
            apply_settings(recipe, [f"{name}={value}" for name, value in values.items()]),
            store.version_by_id(parent.version_id),
            name=f"{study}-{kind}{trial}",
            parent=of or parent.number,
        ),
        kind=kind,
        selected=True,
        tuned=TuningInfo(study=study, trial=trial, fold=0, values=dict(values), **tuned),
    )
    return store.add_experiments([experiment])[0].number


def fill(store: Store, parent: Experiment, study: optuna.Study, trials: int, *, seed: int = 0) -> list[int]:
    """Add trials: the first is the baseline, the second fails, every fourth is pruned; return their experiments."""
    rng = np.random.default_rng(seed)
    numbers = []
    for number in range(trials):
        values: dict[str, Any] = {
            "stage.balanced.lr": float(10 ** rng.uniform(-4, -1)),
            "model.dropout": float(rng.uniform(0, 0.4)),
            "batch": ("16", "32")[int(rng.integers(2))],
        }
        attrs: dict[str, Any] = {"epochs": [6, 6], "seconds": 60.0}
        if number == 0:
            values = {"stage.balanced.lr": 4e-3}  # the space does not contain the recipe's batch and dropout
            attrs["baseline"] = True
        state = TrialState.PRUNED if number % 4 == 3 else TrialState.COMPLETE
        if number == 1:
            study.add_trial(frozen(values, TrialState.FAIL, error="exit code 1: no memory", log="experiments/9/t.log"))
            continue
        experiment = register(store, parent, study.study_name, number, values)
        numbers.append(experiment)
        attrs["experiment"] = experiment
        if state == TrialState.PRUNED:
            attrs |= {"epochs": [2, 6], "seconds": 20.0}
        score = score_of(values)
        study.add_trial(frozen(values, state, score, **attrs))
    return numbers


def frozen(
    values: Mapping[str, Any],
    state: TrialState,
    score: float | None = None,
    constraints: Sequence[tuple[str, float]] = (),
    **attrs: Any,
) -> FrozenTrial:
    """Return a finished trial with the user attributes `attrs`."""
    reported = {} if score is None else {10: score + 0.02, 13: score + (0.0 if state == TrialState.COMPLETE else 0.01)}
    return create_trial(
        state=state,
        value=score if state == TrialState.COMPLETE else None,
        params=dict(values),
        distributions={name: SPACE[name] for name in values},
        user_attrs=attrs,
        system_attrs={f"constraints:{name}": value for name, value in constraints},
        intermediate_values=reported,
    )
