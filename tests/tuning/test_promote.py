"""Trials on a share of the patients and epochs, and their promotion."""

from dataclasses import replace

import pytest
from inline_engine import InlineEngine
from scripted_engine import CPU, Recorder, search
from tuned_workspace import dataset_workspace, project, workspace  # noqa: F401

from ichx.errors import ConflictError, InvalidInputError
from ichx.evaluation.audit import audit
from ichx.evaluation.members import requested_members
from ichx.evaluation.oof import read_oof
from ichx.experiments.calibrated_fold import read_calibrated_oof
from ichx.experiments.register import draft
from ichx.plugins import load_registry
from ichx.project import Project
from ichx.recipe_text import apply_settings, from_toml
from ichx.store import marks
from ichx.tuning.promote import promote
from ichx.tuning.space import parse_space


def test_trials_train_a_share_of_the_patients_and_epochs(project: Project) -> None:
    store = project.store
    recipe = load_registry().get("tiny_byobnet").recipe
    sampling = [f"stage.{stage.name}.sampling=all" for stage in recipe.stage]
    small = ["input.size=64", "input.crop=0", "stage.full.epochs=4", "stage.full.patience=2"]
    recipe = apply_settings(recipe, [*small, *sampling])
    parent = store.add_experiments([draft(recipe, store.version("phantom"))])[0]
    space = parse_space(["stage.full.epochs=2..6", "batch=8,16"], recipe)
    budget = replace(CPU, subset=0.5, length=0.5)
    seen = Recorder()
    search(project, InlineEngine(), 2, experiment=parent.number, space=space, budget=budget, callbacks=seen)
    for trial in seen.ended:
        child = store.experiment(trial.experiment or 0)
        assert child.tuned is not None
        assert (child.tuned.subset, child.tuned.length) == (0.5, 0.5)
        full = from_toml(child.recipe).stage[-1]
        epochs = int(trial.values.get("stage.full.epochs", 4))
        assert full.epochs == max(round(epochs / 2), 1)
        oof = read_oof(project, child)
        assert len(set(oof.patients)) == 1  # of the fold's two
        assert oof.left_out == 0
        assert oof.score == pytest.approx(trial.raw_score)
        calibrated = read_calibrated_oof(project, child, [1])
        assert calibrated.score == pytest.approx(trial.score), "patience took the epoch with the best calibrated score"
        assert marks(child) == ("selected", "50 % of the patients", "partial (1 of 2 folds)")
        found = audit(project, child.number)
        assert found.passed, found
        subset = next(c.detail for c in found.checks if c.subject == "subset")
        assert "2 of 4" in subset
        assert "0.5" in subset
    with pytest.raises(InvalidInputError, match=r"(?s)2.*3"):
        requested_members(project, [2, 3], None)
    best = seen.ended[1]
    number = best.experiment or 0
    promoted = promote(project, number)
    experiment = promoted.experiment
    assert promoted.created
    assert from_toml(experiment.recipe).stage[-1].epochs == best.values["stage.full.epochs"]
    starts = [project.workspace.experiment_files(n).start for n in (experiment.number, number)]
    assert starts[0].read_text() == starts[1].read_text()
    assert (experiment.subset, marks(experiment)) == (1, ("selected", "partial (0 of 2 folds)"))
    assert (experiment.kind, experiment.parent, experiment.selected) == ("experiment", number, True)
    assert experiment.tuned is not None
    assert (experiment.tuned.subset, experiment.tuned.length, experiment.tuned.score) == (1, 1, best.score)
    repeated = promote(project, number)
    assert (repeated.experiment, repeated.created) == (experiment, False)
    with pytest.raises(ConflictError, match=r"2 .* experiment 1"):
        promote(project, seen.ended[0].experiment or 0)
    with pytest.raises(InvalidInputError, match="1"):
        promote(project, 1)


def test_a_trial_that_averages_epochs_has_the_score_of_its_predictions(project: Project) -> None:
    store = project.store
    recipe = load_registry().get("tiny_byobnet").recipe
    short = [f"stage.{stage.name}.epochs=1" for stage in recipe.stage[:-1]]
    recipe = apply_settings(
        recipe, [*short, "input.size=64", "input.crop=0", "stage.full.epochs=2", "prediction.average_last=2"]
    )
    parent = store.add_experiments([draft(recipe, store.version("phantom"))])[0]
    seen = Recorder()
    space = parse_space(["batch=8,16"], recipe)
    search(project, InlineEngine(), 1, experiment=parent.number, space=space, budget=CPU, callbacks=seen)
    (trial,) = seen.ended
    number = trial.experiment or 0
    last = store.history(number, 1)[-1].values
    assert trial.score == pytest.approx(read_calibrated_oof(project, store.experiment(number), [1]).score)
    assert (trial.score, trial.raw_score) != (last["calibrated_score"], last["score"])
