"""Warm starts: a new study first tries the best values of earlier studies of the same plugin."""

import math
from dataclasses import replace

import pytest
from optuna_studies import fill, new_study, storage
from scripted_engine import CPU, Recorder, ScriptedEngine, far_from, search
from tuned_workspace import dataset_workspace, parent, project, store, workspace  # noqa: F401

from ichx.experiments.register import draft
from ichx.project import Project
from ichx.recipe_text import apply_settings, from_toml
from ichx.store import Experiment
from ichx.tuning.results import read_study
from ichx.tuning.space import parse_space
from ichx.tuning.trial_view import ranked_trials
from ichx.tuning.warm_start import nearest_values

SEARCHES = ("lr.factor=log:0.1..10", "batch=8,16,32")


def tune_parent(project: Project, parent: Experiment) -> Recorder:
    """Tune `parent` towards a learning rate of 2e-3 and return what happened."""
    seen = Recorder()
    space = parse_space(SEARCHES, from_toml(parent.recipe))
    search(project, ScriptedEngine(project.store, far_from(2e-3)), 8, space=space, budget=CPU, callbacks=seen)
    return seen


def register(project: Project, parent: Experiment, plugin: str | None = None, seed: int = 1) -> int:
    """Register another experiment with the recipe of `parent`, of the same plugin unless another one is named."""
    recipe = apply_settings(from_toml(parent.recipe), [f"seed={seed}", "stage.balanced.lr=1e-3"])
    recipe = replace(recipe, plugin=plugin or recipe.plugin)
    return project.store.add_experiments([draft(recipe, project.store.version("phantom"))])[0].number


def test_the_best_values_of_an_earlier_study_are_tried_first(project: Project, parent: Experiment) -> None:
    best = ranked_trials(tune_parent(project, parent).ended)[0]
    assert not best.baseline
    rate = from_toml(project.store.experiment(best.experiment or 0).recipe).stage[0].lr
    number = register(project, parent)
    space = parse_space(SEARCHES, from_toml(project.store.experiment(number).recipe))
    seen = Recorder()
    arguments = {"experiment": number, "space": space, "budget": CPU, "callbacks": seen, "warm_start": True}
    search(project, ScriptedEngine(project.store, far_from(2e-3)), 2, **arguments)
    first, second = seen.ended
    assert first.baseline
    assert second.warm_start is not None
    assert second.warm_start.startswith(f"trial {best.trial + 1} of experiment-{parent.number}, score ")
    assert from_toml(project.store.experiment(second.experiment or 0).recipe).stage[0].lr == pytest.approx(rate)
    (note,) = seen.notes
    assert second.warm_start in note
    assert "--no-warm-start" in note
    view = read_study(project, number)
    assert [t.warm_start for t in view.trials] == [None, second.warm_start]
    search(project, ScriptedEngine(project.store, far_from(2e-3)), 4, **arguments)
    assert [t.warm_start for t in seen.ended[2:]] == [None, None], "only at the start of a study"
    assert len(seen.notes) == 1


def test_a_warm_start_can_be_left_out(project: Project, parent: Experiment) -> None:
    tune_parent(project, parent)
    number = register(project, parent)
    space = parse_space(SEARCHES, from_toml(project.store.experiment(number).recipe))
    seen = Recorder()
    engine = ScriptedEngine(project.store, far_from(2e-3))
    search(project, engine, 3, experiment=number, space=space, budget=CPU, callbacks=seen, warm_start=False)
    assert [t.warm_start for t in seen.ended] == [None] * 3
    assert seen.notes == []


def test_other_folds_and_other_plugins_start_nothing(project: Project, parent: Experiment) -> None:
    tune_parent(project, parent)
    engine = ScriptedEngine(project.store, far_from(2e-3))
    for number, fold in ((register(project, parent), 0), (register(project, parent, "tiny_resnet"), 1)):
        space = parse_space(SEARCHES, from_toml(project.store.experiment(number).recipe))
        seen = Recorder()
        budget = replace(CPU, fold=fold)
        search(project, engine, 2, experiment=number, space=space, budget=budget, callbacks=seen, warm_start=True)
        assert [t.warm_start for t in seen.ended] == [None, None]


def test_a_study_that_found_nothing_starts_nothing(project: Project, parent: Experiment) -> None:
    space = parse_space(SEARCHES, from_toml(parent.recipe))
    own = from_toml(parent.recipe).stage[0].lr
    search(project, ScriptedEngine(project.store, far_from(own)), 6, space=space, budget=CPU)
    number = register(project, parent)
    seen = Recorder()
    engine = ScriptedEngine(project.store, far_from(own))
    search(project, engine, 2, experiment=number, space=space, budget=CPU, callbacks=seen, warm_start=True)
    assert [t.warm_start for t in seen.ended] == [None, None]


def test_a_study_of_an_older_version_gives_its_values(project: Project, parent: Experiment) -> None:
    with storage(project.workspace) as opened:
        fill(project.store, parent, new_study(opened, parent, "old", fold=1), 12)
    best = read_study(project, parent.number, "old").best
    assert best is not None
    space = parse_space(("lr.factor=log:0.01..10", "batch=8,16,32"), from_toml(parent.recipe))
    seen = Recorder()
    engine = ScriptedEngine(project.store, far_from(2e-3))
    search(project, engine, 2, space=space, budget=CPU, callbacks=seen, study="new", warm_start=True)
    second = seen.ended[1]
    own = from_toml(parent.recipe).stage[0].lr
    assert second.values["lr.factor"] == pytest.approx(float(best.values["stage.balanced.lr"]) / own)
    assert second.values["batch"] == best.values["batch"]


def test_nearest_values_are_within_the_space(parent: Experiment) -> None:
    own = from_toml(parent.recipe)
    space = parse_space(
        ["lr.factor=log:0.5..2", "model.dropout=off,0.1..0.3", "batch=8,16", "augmentation.strength=off,0.5..2"], own
    )
    rates = [f"stage.{stage.name}.lr={stage.lr * 100}" for stage in own.stage]
    far = apply_settings(own, [*rates, "model.dropout=0.6", "batch=64", "augmentation.probability=0"])
    nearest = nearest_values(far, own, space)
    assert nearest == {"lr.factor": 2.0, "model.dropout": 0.3, "augmentation.strength": 0.0}
    assert math.isclose(float(nearest_values(own, own, space)["lr.factor"]), 1.0)
