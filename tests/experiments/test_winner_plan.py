"""The plan after the winners: what it registers, all or nothing, and its cost."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ichx.cli.app import app
from ichx.datasets.dataset import load_version
from ichx.experiments.sequence_members import check_members
from ichx.experiments.winner_plan import NETWORKS, PRESET, TAG, WinnerPlan, plan_winner, register_winner
from ichx.plugins import load_registry
from ichx.plugins.measures import NetworkMeasure, save_measure
from ichx.project import Project
from ichx.recipe import digest
from ichx.recipe_text import from_toml
from ichx.store import Selection, open_store
from ichx.workspace import open_workspace


@pytest.fixture
def project(dataset_copy: Path):
    workspace = open_workspace(dataset_copy)
    with open_store(workspace) as store:
        yield Project(workspace, store, load_registry())


@pytest.fixture
def plan(project: Project) -> WinnerPlan:
    return plan_winner(project)


def test_it_is_registered_as_a_chain_of_members(project: Project, plan: WinnerPlan) -> None:
    registered = register_winner(project, plan)
    images, features, stack = registered[:3], registered[3:6], registered[6:]
    assert [e.plugin for e in images] == list(NETWORKS)
    for e in images:
        recipe = from_toml(e.recipe)
        assert digest(recipe) == digest(load_registry().get(e.plugin).presets[PRESET])
        assert (recipe.input.slices, recipe.input.channels, recipe.input.size) == (3, 3, 384)
    assert [e.members for e in features] == [(e.number,) for e in images]
    assert [e.members for e in stack] == [tuple(e.number for e in registered[:6])]
    assert all(TAG in project.store.experiment(e.number).tags for e in registered)
    assert len({(e.label_digest, e.fold_digest) for e in registered}) == 1
    (note,) = project.store.notes(stack[0].number)
    assert ",".join(str(e.number) for e in registered) in note.text
    check_members(project, [e.number for e in registered[:6]], ["logits"])


def test_a_failure_registers_nothing(project: Project, plan: WinnerPlan) -> None:
    before = len(project.store.experiments(Selection(), limit=None))
    broken = replace(plan, drafts=(*plan.drafts[:-1], replace(plan.drafts[-1], fold_digest="another")))
    with pytest.raises(ValueError, match="digests"):
        register_winner(project, broken)
    assert len(project.store.experiments(Selection(), limit=None)) == before
    assert TAG not in project.store.tags()


def test_its_cost_counts_every_image_and_uses_measures(project: Project, plan: WinnerPlan) -> None:
    slices = len(load_version(project.workspace, project.store.version("ph")).slices)
    tests = sum(version.slices for version in project.store.test_sets("ph"))
    version = project.store.version("ph")
    folds, one = version.folds[0].k, plan.planned[0]
    recipe = from_toml(plan.drafts[0].recipe)
    views = len(recipe.prediction.views)
    assert one.predict_images == recipe.epochs * slices + (views - 1) * slices + views * folds * tests
    assert 0 < one.train_images <= recipe.epochs * (folds - 1) * slices
    assert one.train_images % recipe.batch == 0
    assert plan.hours is None
    assert plan.cache_bytes > 0
    assert all(p.feature_bytes > 2 * 768 * folds * (slices + tests) for p in plan.planned[3:6])
    for draft in plan.drafts[:3]:
        measure = NetworkMeasure(
            device="a test",
            batch=32,
            measured_batch=32,
            train_rate=10.0,
            train_gb=1.0,
            predict_batch=64,
            predict_rate=40.0,
            predict_gb=1.0,
        )
        save_measure(from_toml(draft.recipe), measure)
    measured = plan_winner(project)
    expected = [(p.train_images / 10 + p.predict_images / 40) / 3600 for p in measured.planned[:3]]
    assert measured.hours == pytest.approx(sum(expected))


def test_the_command_asks_nothing_and_a_dry_run_registers_nothing(
    dataset_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(dataset_copy)
    run = CliRunner().invoke
    before = json.loads(run(app, ["exp", "list", "--json"]).stdout)
    dry = run(app, ["exp", "new", "--winner", "--dry-run", "--json"])
    assert dry.exit_code == 0, dry.output
    assert json.loads(dry.stdout)["experiments"] == []
    assert json.loads(run(app, ["exp", "list", "--json"]).stdout) == before
    made = run(app, ["exp", "new", "--winner"])
    assert made.exit_code == 0, made.output
    assert "PMACs" in made.stdout
    assert "--with-members" in made.output
    assert run(app, ["exp", "new", "--winner", "--plugin", "tiny_fine"]).exit_code == 2
    assert run(app, ["exp", "new", "--winner", "--reference"]).exit_code == 2
    assert run(app, ["exp", "new", "--plugin", "tiny_fine", "--dry-run"]).exit_code == 2
