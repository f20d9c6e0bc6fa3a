"""Trials on a share of the patients and epochs, and what they are promoted to."""

from dataclasses import replace

import pytest
from inline_engine import InlineEngine
from scripted_engine import CPU, Told
from tuned_workspace import made, store, workspace  # noqa: F401

from ichx.errors import IchxError, InvalidInputError
from ichx.evaluation.audit import audit
from ichx.evaluation.members import requested_members
from ichx.evaluation.oof import read_oof
from ichx.experiment_files import START_FILE
from ichx.experiments.register import draft
from ichx.plugins import load_registry
from ichx.project import Project
from ichx.recipe_text import apply_settings, from_toml
from ichx.store import Store, marks
from ichx.tuning.promote import promote
from ichx.tuning.space import parse_space
from ichx.tuning.study import tune
from ichx.workspace import Workspace


def test_trials_train_a_share_of_the_patients_and_epochs(workspace: Workspace, store: Store) -> None:
    recipe = load_registry().get("tiny_byobnet").recipe
    sampling = [f"stage.{stage.name}.sampling=all" for stage in recipe.stage]
    small = ["input.size=64", "input.crop=0", "stage.full.epochs=4", "stage.full.patience=2"]
    recipe = apply_settings(recipe, [*small, *sampling])
    parent = store.add_experiments([draft(recipe, store.version("phantom"))])[0]
    space = parse_space(["stage.full.epochs=2..6", "batch=8,16"], recipe)
    budget = replace(CPU, subset=0.5, length=0.5)
    told = Told()
    tune(Project(workspace, store), parent.number, InlineEngine(), trials=2, space=space, budget=budget, events=told)
    for trial in told.ended:
        child = store.experiment(trial.experiment or 0)
        assert child.tuned is not None
        assert (child.tuned.subset, child.tuned.length) == (0.5, 0.5)
        full = from_toml(child.recipe).stage[-1]
        wanted = int(trial.values.get("stage.full.epochs", 4))
        assert full.epochs == max(round(wanted / 2), 1)
        oof = read_oof(Project(workspace, store), child)
        assert len(set(oof.patients)) == 1  # of the fold's two
        assert oof.left_out == 0
        assert oof.score == pytest.approx(trial.score)
        assert marks(child) == ("selected", "50 % of the patients", "partial (1 of 2 folds)")
        found = audit(Project(workspace, store), child.number)
        assert found.passed, found
        assert next(c.detail for c in found.checks if c.subject == "subset").startswith(
            "a trial on 2 of 4 patients, a share of 0.5"
        )
    with pytest.raises(InvalidInputError, match=r"2 is a tuning trial .*\n.* 3 is a tuning trial"):
        requested_members(Project(workspace, store), [2, 3], None)
    chosen = told.ended[1]
    whole = promote(Project(workspace, store), chosen.experiment or 0).experiment
    found = from_toml(whole.recipe)
    assert found.stage[-1].epochs == chosen.values["stage.full.epochs"]
    assert whole.tuned is not None
    started = [workspace.experiment_dir(n) / START_FILE for n in (whole.number, chosen.experiment or 0)]
    assert started[0].read_text() == started[1].read_text()
    assert (whole.subset, marks(whole)) == (1, ("selected", "partial (0 of 2 folds)"))
    assert (whole.kind, whole.parent, whole.selected) == ("experiment", chosen.experiment, True)
    assert (whole.tuned.subset, whole.tuned.length, whole.tuned.score) == (1, 1, chosen.score)
    assert promote(Project(workspace, store), chosen.experiment or 0).experiment == whole
    with pytest.raises(IchxError, match="tried experiment 1 as it is"):
        promote(Project(workspace, store), told.ended[0].experiment or 0)
    with pytest.raises(IchxError, match="experiment 1 is no tuning trial"):
        promote(Project(workspace, store), 1)
