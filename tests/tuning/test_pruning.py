"""Trials that are ended early: those that lag behind, need too much, or diverge."""

import optuna
import pytest
from scripted_engine import ScriptedEngine, Told, far_from
from tuned_workspace import made, parent, space, store, workspace  # noqa: F401

from ichx.errors import IchxError
from ichx.experiments.register import draft
from ichx.plugins import load_registry
from ichx.project import Project
from ichx.store import Store
from ichx.tuning.limits import Limits
from ichx.tuning.promote import promote
from ichx.tuning.running import best_of
from ichx.tuning.space import Space, parse_space
from ichx.tuning.study import tune
from ichx.tuning.trial import Budget
from ichx.workspace import Workspace


def test_what_lags_behind_is_ended_and_its_checkpoints_go(workspace: Workspace, store: Store) -> None:
    recipe = load_registry().get("tiny_byobnet").recipe
    parent = store.add_experiments([draft(recipe, store.version("phantom"))])[0]
    space = parse_space(["stage.balanced.lr=log:1e-6..1e-1"], recipe)
    told = Told()
    engine = ScriptedEngine(store, far_from(1e-3))
    ending = tune(Project(workspace, store), parent.number, engine, trials=20, space=space, events=told, jobs=2)
    assert ending.finished == 20
    pruned = [t for t in told.ended if t.state == "pruned"]
    assert 2 <= len(pruned) <= 14
    for trial in pruned:
        assert "lags behind" in (trial.reason or "")
        assert trial.score is not None
        child = store.experiment(trial.experiment or 0)
        assert child.tags == ("pruned",)
        assert len(store.history(child.number, 0)) < recipe.epochs
        assert not list(workspace.experiment_files(child.number).fold(0).log.parent.glob("checkpoint*"))
        with pytest.raises(IchxError, match="not been trained to its end"):
            promote(Project(workspace, store), child.number)
    done = [t for t in told.ended if t.state == "done"]
    assert min(done, key=lambda t: t.score or 9).score < told.ended[0].score
    for pruner in ("hyperband", "none"):
        name = f"by-{pruner}"
        told = Told()
        tune(
            Project(workspace, store),
            1,
            ScriptedEngine(store, far_from(1e-3)),
            trials=12,
            space=space,
            pruner=pruner,
            study=name,
            events=told,
        )
        assert any(t.state == "pruned" for t in told.ended) == (pruner == "hyperband")
        assert store.trials(1)[-1].tuned.study == f"experiment-1-{name}"


def test_limits_end_a_trial_and_keep_it_from_being_the_best(workspace: Workspace, store: Store) -> None:
    recipe = load_registry().get("tiny_byobnet").recipe
    parent = store.add_experiments([draft(recipe, store.version("phantom"))])[0]
    space = parse_space(["batch=4,8,16,32"], recipe)
    engine = ScriptedEngine(store, lambda recipe, part: recipe.batch / 100, seconds=lambda r: 40 / r.batch)
    told = Told()
    tune(
        Project(workspace, store),
        parent.number,
        engine,
        trials=12,
        space=space,
        budget=Budget(subset=0.5),
        limits=Limits(epoch_seconds=12.0),
        events=told,
        pruner="none",
    )
    by_batch = {str(t.values["batch"]): t for t in told.ended if not t.baseline}
    assert by_batch["4"].state == "pruned"
    assert by_batch["4"].reason == "an epoch takes 20 s on all patients, more than 12 s"
    assert by_batch["8"].state == "done"
    best = best_of(told.ended)
    assert best is not None
    assert best.values["batch"] == "8"
    (study,) = optuna.get_all_study_summaries(f"sqlite:///{workspace.root / 'db' / 'tuning.db'}")
    trials = optuna.load_study(study_name=study.study_name, storage=f"sqlite:///{workspace.root}/db/tuning.db").trials
    for trial in trials:
        seconds = 40 / int(trial.params["batch"]) / 0.5
        assert trial.constraints["epoch_seconds"] == pytest.approx(seconds / 12 - 1), "a part of the limit"

    told = Told()
    engine = ScriptedEngine(store, lambda recipe, part: 0.5, memory=5.0)
    tune(
        Project(workspace, store),
        1,
        engine,
        trials=2,
        space=space,
        limits=Limits(memory_gb=4.0),
        events=told,
        study="small",
    )
    assert [t.state for t in told.ended] == ["done", "pruned"]  # the others are held against the first
    assert best_of(told.ended) is None
    assert told.ended[0].excess == told.ended[1].reason == "it needs 5 GB, more than 4 GB"


def test_what_diverges_is_kept_away_from(workspace: Workspace, store: Store, space: Space) -> None:
    def diverge(job: int) -> bool:
        if job == 1:
            (engine.jobs[job].log.parent / "nonfinite.json").write_text("{}")
        return job == 1

    engine, told = ScriptedEngine(store, far_from(1e-3), fails=diverge), Told()
    tune(Project(workspace, store), 1, engine, trials=3, space=space, events=told)
    assert [t.state for t in told.ended] == ["done", "pruned", "done"]
    assert told.ended[1].reason == "diverged: exit code 1: out of luck"
