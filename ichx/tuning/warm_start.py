"""Warm start: a new study first tries the best values of earlier studies of the same plugin."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ichx.errors import IchxError
from ichx.formatting import format_value
from ichx.recipe import Recipe, settable
from ichx.recipe_text import from_toml
from ichx.tuning.budget import Value, trial_recipe
from ichx.tuning.joint_values import measure_joint
from ichx.tuning.space import Choice, Range, Space, Switch, recorded
from ichx.tuning.storage import study_owner
from ichx.tuning.trial_view import STATES, TrialView, ranked_trials, trial_view

if TYPE_CHECKING:
    from optuna import Study

    from ichx.store import Experiment, Store

MAX_TRIALS: Final = 3
"""Number of earlier trials that are repeated at most, one of each study, the newest studies first."""
_DONE: Final = "warm start"
"""User attribute of a study that has been started."""


@dataclass(frozen=True)
class EarlierBest:
    """The best trial of an earlier study."""

    source: str
    """The trial in words."""
    values: Mapping[str, Value]
    """Values of the new study that come nearest to its recipe, by name."""


def warm_start(study: "Study", store: "Store", parent: "Experiment", space: Space, fold: int) -> list[str]:
    """Let the next trials of a new study repeat the best ones of earlier studies; return these in words.

    Args:
        study: The study, in which the trial of the unchanged recipe is the only one.
        store: The store.
        parent: The tuned experiment.
        space: The search space of the study.
        fold: The fold whose score the study optimises.
    """
    if study.user_attrs.get(_DONE) is not None:
        return []
    found = []
    if not any(not t.user_attrs.get("baseline") for t in study.get_trials(deepcopy=False)):
        for best in earlier_best(study, store, parent, space, fold):
            params = recorded(space, best.values)
            study.enqueue_trial(params, user_attrs={"warm_start": best.source}, skip_if_exists=True)
            found.append(best.source)
    study.set_user_attr(_DONE, found)
    return found


def earlier_best(study: "Study", store: "Store", parent: "Experiment", space: Space, fold: int) -> list[EarlierBest]:
    """Return the best trials of earlier studies that are better than their unchanged recipe, at most `MAX_TRIALS`.

    Studies on another fold of the same patients are left out: through their values, that fold would choose, too.
    """
    own = from_toml(parent.recipe)
    found: list[EarlierBest] = []
    for name, experiment, setup, trials in _earlier_studies(study, store):
        chosen_elsewhere = experiment.dataset == parent.dataset and (
            experiment.fold_digest != parent.fold_digest or setup.get("fold") != fold
        )
        if experiment.plugin != parent.plugin or chosen_elsewhere:
            continue
        best = next(iter(ranked_trials(trials)), None)
        baseline = next((t for t in trials if t.baseline and t.score is not None), None)
        if best is None or best.baseline:
            continue
        try:
            recipe = trial_recipe(from_toml(experiment.recipe), best.values)
        except IchxError:  # a recipe of another version; the study starts without it
            continue
        values = nearest_values(recipe, own, space)
        unchanged = nearest_values(own, own, space)
        if values != unchanged and values not in [one.values for one in found]:
            before = "" if baseline is None else f", its unchanged recipe {format_value(baseline.score)}"
            source = f"trial {best.trial + 1} of {name}, score {format_value(best.score)}{before}"
            found.append(EarlierBest(source, values))
        if len(found) == MAX_TRIALS:
            break
    return found


def nearest_values(recipe: Recipe, own: Recipe, space: Space) -> dict[str, Value]:
    """Return the values of `space`, searched around the recipe `own`, that come nearest to `recipe`, by name.

    A value without a near one, e.g. another choice, is left out.
    """
    known = settable(recipe) | measure_joint(recipe, own)
    nearest = {d.name: _nearest(d, known[d.name]) for d in space if d.name in known}
    return {name: value for name, value in nearest.items() if value is not None}


def _nearest(dimension: Range | Choice | Switch, value: Any) -> Value | None:
    contained = dimension.contained(value)
    if contained is not None or isinstance(dimension, Choice):
        return contained
    numbers = dimension.numbers if isinstance(dimension, Switch) else dimension
    nearest: float = min(max(value, numbers.low), numbers.high)
    return int(nearest) if numbers.integer else nearest


def _earlier_studies(
    study: "Study", store: "Store"
) -> "Iterator[tuple[str, Experiment, Mapping[str, Any], list[TrialView]]]":
    """Yield name, experiment, setup and trials of the other studies of the storage, the newest first."""
    storage = study._storage
    for frozen in sorted(storage.get_all_studies(), key=lambda one: -one._study_id):
        number = study_owner(frozen.study_name)
        setup = frozen.user_attrs.get("setup")
        if number is None or not setup or frozen.study_name == study.study_name:
            continue
        try:
            experiment = store.experiment(number)
        except IchxError:  # deleted
            continue
        trials = [trial_view(t) for t in storage.get_all_trials(frozen._study_id, False) if t.state in STATES]
        yield frozen.study_name, experiment, setup, trials
