"""Pruned trials: those with a worse score, over a limit, or diverged."""

import optuna
import pytest
from scripted_engine import Recorder, ScriptedEngine, far_from, search
from tuned_workspace import dataset_workspace, parent, project, space, store, workspace  # noqa: F401

from ichx.errors import NotReadyError
from ichx.experiments.register import draft
from ichx.plugins import load_registry
from ichx.project import Project
from ichx.tuning import database_path
from ichx.tuning.limits import Limits
from ichx.tuning.promote import promote
from ichx.tuning.space import Space, parse_space
from ichx.tuning.trial import Budget
from ichx.tuning.trial_view import ranked_trials


def register_tiny(project: Project) -> int:
    recipe = load_registry().get("tiny_byobnet").recipe
    return project.store.add_experiments([draft(recipe, project.store.version("phantom"))])[0].number


def test_worse_trials_are_pruned_and_lose_their_checkpoints(project: Project) -> None:
    store, recipe = project.store, load_registry().get("tiny_byobnet").recipe
    number = register_tiny(project)
    space = parse_space(["stage.balanced.lr=log:1e-6..1e-1"], recipe)
    engine, seen = ScriptedEngine(store, far_from(1e-3)), Recorder()
    report = search(project, engine, 20, experiment=number, space=space, callbacks=seen, jobs=2)
    assert report.finished == 20
    pruned = [t for t in seen.ended if t.state == "pruned"]
    assert 2 <= len(pruned) <= 14
    for trial in pruned:
        assert trial.score is not None
        child = store.experiment(trial.experiment or 0)
        trained = len(store.history(child.number, 0))
        assert f"{trial.score:.5f} after {trained} of {recipe.epochs} epochs" in (trial.error or "")
        assert child.tags == ("pruned",)
        assert trained < recipe.epochs
        assert not list(project.workspace.experiment_files(child.number).fold(0).folder.glob("checkpoint*"))
        with pytest.raises(NotReadyError, match=f"{child.number}"):
            promote(project, child.number)
    done = [t for t in seen.ended if t.state == "done"]
    assert min(done, key=lambda t: t.score or 9).score < seen.ended[0].score
    for pruner in ("hyperband", "none"):
        name, seen = f"by-{pruner}", Recorder()
        engine = ScriptedEngine(store, far_from(1e-3))
        search(project, engine, 12, space=space, pruner=pruner, study=name, callbacks=seen)
        assert any(t.state == "pruned" for t in seen.ended) == (pruner == "hyperband")
        assert store.trials(1)[-1].tuned.study == f"experiment-1-{name}"


def test_a_trial_over_a_limit_is_pruned_and_never_the_best(project: Project) -> None:
    number = register_tiny(project)
    space = parse_space(["batch=4,8,16,32"], load_registry().get("tiny_byobnet").recipe)
    engine = ScriptedEngine(
        project.store, lambda recipe, part: recipe.batch / 100, seconds=lambda recipe: 40 / recipe.batch
    )
    seen = Recorder()
    search(
        project,
        engine,
        12,
        experiment=number,
        space=space,
        budget=Budget(subset=0.5),
        limits=Limits(epoch_seconds=12.0),
        callbacks=seen,
        pruner="none",
    )
    by_batch = {str(t.values["batch"]): t for t in seen.ended if not t.baseline}
    assert by_batch["4"].state == "pruned"
    reason = by_batch["4"].error or ""
    assert "20 s" in reason
    assert "12 s" in reason
    assert by_batch["8"].state == "done"
    best = ranked_trials(seen.ended)[0]
    assert best.values["batch"] == "8"
    url = f"sqlite:///{database_path(project.workspace)}"
    (study,) = optuna.get_all_study_summaries(url)
    for trial in optuna.load_study(study_name=study.study_name, storage=url).trials:
        seconds = 40 / int(trial.params["batch"]) / 0.5
        assert trial.constraints["epoch_seconds"] == pytest.approx(seconds / 12 - 1), "relative to the limit"


def test_the_baseline_is_not_pruned(project: Project) -> None:
    number = register_tiny(project)
    space = parse_space(["batch=4,8,16,32"], load_registry().get("tiny_byobnet").recipe)
    engine, seen = ScriptedEngine(project.store, lambda recipe, part: 0.5, memory=5.0), Recorder()
    search(project, engine, 2, experiment=number, space=space, limits=Limits(memory_gb=4.0), callbacks=seen)
    assert [t.state for t in seen.ended] == ["done", "pruned"]
    assert ranked_trials(seen.ended) == []
    assert seen.ended[0].excess == seen.ended[1].error
    assert "5 GB" in seen.ended[0].excess
    assert "4 GB" in seen.ended[0].excess


def test_a_diverged_trial_is_pruned(project: Project, space: Space) -> None:
    def diverge(job: int) -> bool:
        if job == 1:
            (engine.jobs[job].log.parent / "nonfinite.json").write_text("{}")
        return job == 1

    engine, seen = ScriptedEngine(project.store, far_from(1e-3), fails=diverge), Recorder()
    search(project, engine, 3, space=space, callbacks=seen)
    assert [t.state for t in seen.ended] == ["done", "pruned", "done"]
    assert (seen.ended[1].error or "").endswith("exit code 1: out of luck")
