"""Studies over a real store: what trials are, what is refused, and how a study goes on."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from inline_engine import InlineEngine
from scripted_engine import CPU, ScriptedEngine, Told, far_from
from tuned_workspace import made, parent, space, store, workspace  # noqa: F401

from ichx.datasets.add import AddRequest, add_dataset
from ichx.errors import IchxError
from ichx.experiments.register import draft
from ichx.project import Project
from ichx.recipe_text import apply_settings, from_toml
from ichx.store import Experiment, Selection, Store, Tuned
from ichx.training.run_options import RunOptions
from ichx.training.weights import Start, remember_start
from ichx.tuning.limits import Limits
from ichx.tuning.results import read_study
from ichx.tuning.running import TrialRunner, best_of
from ichx.tuning.space import Space, parse_space
from ichx.tuning.study import tune
from ichx.tuning.study_events import TuneEnding
from ichx.tuning.trial import Budget
from ichx.workspace import Workspace


def test_trials_are_experiments_and_a_finished_study_stays(
    workspace: Workspace, store: Store, parent: Experiment, space: Space
) -> None:
    source = Path(store.version("phantom").source)
    (labels,) = source.parent.glob("*train.csv")
    add_dataset(Project(workspace, store), AddRequest("phantom", source, labels=labels, folds=3))
    told = Told()
    ending = tune(Project(workspace, store), 1, InlineEngine(), trials=3, space=space, budget=CPU, events=told)
    assert ending == TuneEnding(3, 3, "complete")
    assert told.started == [t.experiment for t in told.ended] == [2, 3, 4]
    given = from_toml(parent.recipe)
    assert [(t.baseline, t.state) for t in told.ended] == [(True, "done"), (False, "done"), (False, "done")]
    assert from_toml(store.experiment(2).recipe) == given
    for trial in told.ended:
        child = store.experiment(trial.experiment or 0)
        assert (child.kind, child.parent, child.selected, child.folds_done) == ("trial", parent.number, True, 1)
        pinned = ("version_id", "label_digest", "fold_set_id", "fold_digest")
        assert [getattr(child, p) for p in pinned] == [getattr(parent, p) for p in pinned]
        assert store.version("phantom").id != child.version_id  # the dataset has moved on, the trials have not
        recipe = from_toml(child.recipe)
        if not trial.baseline:
            assert child.tuned == Tuned("experiment-1", trial.trial, 1, trial.values)
            assert recipe.stage[0].lr == trial.values["stage.balanced.lr"]
            assert recipe.batch == int(str(trial.values["batch"]))
            settings = [f"stage.balanced.lr={recipe.stage[0].lr!r}", f"batch={recipe.batch}"]
            assert recipe == apply_settings(given, settings)
        (run,) = store.runs(child.number)
        assert (run.fold, run.state) == (1, "done")
        (oof,) = store.predictions(child.number, role="oof", view="identity")
        assert oof.score == trial.score
        assert workspace.experiment_files(child.number).fold(1).log.exists()
    assert [e.number for e in store.experiments()] == [1]
    assert store.listing(Selection(kind=None, parent=1))[1] == 3

    again = tune(Project(workspace, store), 1, InlineEngine(), trials=3, space=space, budget=CPU)
    assert again == TuneEnding(3, 0, "complete")
    with pytest.raises(
        IchxError, match=r"it searches batch=16,32, not [0-9,]+; stage.balanced.lr=log:0.0001..0.01, not log"
    ):
        tune(Project(workspace, store), 1, InlineEngine(), trials=4, budget=CPU)
    other = replace(CPU, options=RunOptions(device="cpu", pretrained=False))
    with pytest.raises(IchxError, match=r"it was made without --pretrained, not with --no-pretrained"):
        tune(Project(workspace, store), 1, InlineEngine(), trials=4, space=space, budget=other)
    with pytest.raises(IchxError, match=r"it was made with --subset 1, not with --subset 0.5") as caught:
        tune(Project(workspace, store), 1, InlineEngine(), trials=4, space=space, budget=replace(CPU, subset=0.5))
    assert "--study NAME" in caught.value.remedy
    assert store.listing(Selection(kind="trial"))[1] == 3


def test_stopped_and_timed_out_it_goes_on_where_it_was(workspace: Workspace, store: Store, space: Space) -> None:
    heard = [0]

    def hear(job: int) -> None:
        heard[0] = int(job == 2)

    engine = ScriptedEngine(store, far_from(1e-3), before=hear)
    ending = tune(Project(workspace, store), 1, engine, trials=5, space=space, stops=lambda: heard[0])
    assert ending == TuneEnding(2, 2, "stopped")
    assert [run.state for run in store.runs(4)] == ["stopped"]
    ending = tune(
        Project(workspace, store), 1, ScriptedEngine(store, far_from(1e-3)), trials=5, space=space, timeout=1e-9
    )
    assert ending == TuneEnding(2, 0, "timeout")
    told = Told()
    engine = ScriptedEngine(store, far_from(1e-3))
    ending = tune(Project(workspace, store), 1, engine, trials=5, space=space, events=told)
    assert (ending, told.started) == (TuneEnding(5, 3, "complete"), [4, 5, 6])

    whole = Told()
    tune(
        Project(workspace, store),
        1,
        ScriptedEngine(store, far_from(1e-3)),
        trials=5,
        space=space,
        events=whole,
        study="b",
    )
    assert [t.values for t in whole.ended[2:]] == [t.values for t in told.ended]  # as if nothing had happened


def test_a_first_failure_ends_the_study_and_a_later_one_does_not(
    workspace: Workspace, store: Store, space: Space
) -> None:
    broken = {0}
    engine = ScriptedEngine(store, far_from(1e-3), fails=lambda job: job in broken)
    told = Told()
    with pytest.raises(IchxError, match="trial 1 failed before any succeeded: exit code 1: out of luck") as caught:
        tune(Project(workspace, store), 1, engine, trials=4, space=space, budget=CPU, events=told)
    assert str(workspace.experiment_files(2).fold(1).log) in caught.value.remedy

    broken |= {2}
    ending = tune(Project(workspace, store), 1, engine, trials=4, space=space, budget=CPU, events=told)
    assert ending == TuneEnding(4, 3, "complete")
    assert [t.state for t in told.ended] == ["failed", "done", "failed", "done"]
    assert told.ended[2].log == workspace.experiment_files(4).fold(1).log.relative_to(workspace.root).as_posix()

    broken |= set(range(20))
    with pytest.raises(IchxError, match="3 trials in a row failed, the last one: exit code 1"):
        tune(Project(workspace, store), 1, engine, trials=20, space=space, budget=CPU, events=told)
    assert len(told.ended) == 7


def test_an_interrupted_trial_goes_on_as_the_same_experiment(workspace: Workspace, store: Store, space: Space) -> None:
    def interrupt(number: int) -> None:
        if number == 1:
            raise KeyboardInterrupt

    engine = ScriptedEngine(store, far_from(1e-3), before=interrupt)
    with pytest.raises(KeyboardInterrupt):
        tune(Project(workspace, store), 1, engine, trials=3, space=space, budget=CPU)
    assert store.listing(Selection(kind="trial"))[1] == 2
    engine, told = ScriptedEngine(store, far_from(1e-3)), Told()
    ending = tune(Project(workspace, store), 1, engine, trials=2, space=space, budget=CPU, events=told)
    assert (told.started, [t.experiment for t in told.ended]) == ([3], [3])
    assert (ending, len(engine.jobs)) == (TuneEnding(2, 1, "complete"), 1)


def test_values_that_do_not_go_together_are_passed_over(workspace: Workspace, store: Store, parent: Experiment) -> None:
    space = parse_space(("input.size=48,64", "input.crop=0,64"), from_toml(parent.recipe))
    engine, told = ScriptedEngine(store, far_from(1e-3)), Told()
    tune(Project(workspace, store), 1, engine, trials=12, space=space, events=told, sampler="random", pruner="none")
    misfits = [t for t in told.ended if t.values == {"input.size": "48", "input.crop": "64"}]
    assert misfits
    assert all((t.state, t.experiment) == ("pruned", None) and "input.crop" in (t.reason or "") for t in misfits)
    fitting = {str(t.values) for t in told.ended if t not in misfits}
    assert store.listing(Selection(kind="trial"))[1] == len(fitting)


def test_the_same_values_are_not_trained_twice(workspace: Workspace, store: Store, parent: Experiment) -> None:
    space = parse_space(["batch=8,16"], from_toml(parent.recipe))
    engine, told = ScriptedEngine(store, lambda recipe, part: recipe.batch / 100), Told()
    ending = tune(Project(workspace, store), 1, engine, trials=6, space=space, events=told)
    assert (ending, len(engine.jobs)) == (TuneEnding(6, 6, "complete"), len({str(t.values) for t in told.ended}))
    assert len(engine.jobs) == 2
    for trial in told.ended:
        assert trial.score == int(str(trial.values["batch"])) / 100
    assert any("has the values of trial 1, and so its score" in note for note in told.notes)


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp"])
def test_every_sampler_finds_what_is_better(
    workspace: Workspace, store: Store, parent: Experiment, sampler: str
) -> None:
    space = parse_space(["stage.balanced.lr=log:1e-6..1e0", "model.dropout=0.1..0.5"], from_toml(parent.recipe))
    told = Told()
    engine = ScriptedEngine(store, far_from(1e-3))
    tune(Project(workspace, store), 1, engine, trials=15, space=space, events=told, sampler=sampler, pruner="none")
    assert told.notes == ["what the recipe has for model.dropout lies outside of what is searched"]
    assert len({str(t.values) for t in told.ended}) == 15
    best = best_of(told.ended)
    assert best is not None
    assert abs(math.log10(float(best.values["stage.balanced.lr"]) / 1e-3)) < 1


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"trials": 0}, "--trials must be 1"),
        ({"jobs": 0}, "--jobs must be 1"),
        ({"budget": Budget(fold=2)}, "no fold 2; its folds are 0 to 1"),
        ({"budget": Budget(subset=0.0)}, "--subset 0: must be above 0 and at most 1"),
        ({"budget": Budget(length=2)}, "--length 2: must be above 0 and at most 1"),
        ({"budget": Budget(subset=0.01)}, "a share of 0.01 leaves none of the 2 patients of fold 0"),
        ({"sampler": "tep"}, "--sampler tep: must be one of tpe, gp, random"),
        ({"pruner": "mean"}, "--pruner mean: must be one of median, hyperband, none"),
        ({"timeout": 0.0}, "--timeout must be above 0"),
        ({"limits": Limits(memory_gb=0)}, "--max-memory must be above 0"),
        ({"budget": Budget(options=RunOptions(weights=Path("none.pth")))}, "none.pth"),
    ],
)
def test_what_cannot_be_is_said_at_once(
    workspace: Workspace, store: Store, parent: Experiment, wrong: dict[str, Any], problem: str
) -> None:
    with pytest.raises(IchxError, match=problem):
        tune(Project(workspace, store), 1, ScriptedEngine(store, far_from(1e-3)), **{"trials": 1, **wrong})
    with pytest.raises(IchxError, match="no experiment has the number 9"):
        tune(Project(workspace, store), 9, InlineEngine(), trials=1)
    assert not (workspace.root / "db" / "tuning.db").exists()


def test_what_an_earlier_process_had_decided_is_told_with_what_it_needed(
    workspace: Workspace, store: Store, space: Space
) -> None:
    """It is killed between the decision to end a trial and telling so; the job ends on its own."""
    slow = {"seconds": lambda recipe: 1.0 if recipe.batch == 16 else 9.0}
    engine = ScriptedEngine(store, far_from(1e-3), **slow)
    limits = Limits(epoch_seconds=5)

    def tell(self: TrialRunner, *_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrialRunner, "_prune", tell)
        with pytest.raises(KeyboardInterrupt):
            tune(Project(workspace, store), 1, engine, trials=9, space=space, budget=CPU, limits=limits)
    lost = store.experiments(Selection(kind="trial"))[0]
    assert lost.state == "stopped"
    again, told = ScriptedEngine(store, far_from(1e-3), **slow), Told()
    tune(Project(workspace, store), 1, again, trials=9, space=space, budget=CPU, limits=limits, events=told)
    first = told.ended[0]
    assert (first.experiment, first.state) == (lost.number, "pruned")
    assert "more than 5 s" in first.excess
    assert str(lost.number) not in [job.argv[4] for job in again.jobs]
    view = next(t for t in read_study(Project(workspace, store), 1).trials if t.experiment == lost.number)
    assert (view.exceeded, view.epochs is not None) == (("epoch_seconds",), True)


def test_a_baseline_that_failed_is_tried_again(workspace: Workspace, store: Store, space: Space) -> None:
    engine = ScriptedEngine(store, far_from(1e-3), fails=lambda job: job == 0)
    with pytest.raises(IchxError, match="trial 1 failed before any succeeded"):
        tune(Project(workspace, store), 1, engine, trials=3, space=space, budget=CPU)
    told = Told()
    tune(Project(workspace, store), 1, engine, trials=3, space=space, budget=CPU, events=told)
    assert [(t.trial, t.baseline, t.state) for t in told.ended] == [(1, True, "done"), (2, False, "done")]
    baseline = read_study(Project(workspace, store), 1).baseline
    assert baseline is not None
    assert (baseline.trial, baseline.score) == (1, told.ended[0].score)
    tune(Project(workspace, store), 1, engine, trials=4, space=space, budget=CPU, events=told)
    assert [t.baseline for t in told.ended] == [True, False, False]


def test_an_interrupted_trial_whose_experiment_was_deleted_is_made_again(
    workspace: Workspace, store: Store, space: Space
) -> None:
    heard = [0]

    def hear(job: int) -> None:
        heard[0] = int(job == 1)

    engine, told = ScriptedEngine(store, far_from(1e-3), before=hear), Told()
    tune(Project(workspace, store), 1, engine, trials=3, space=space, budget=CPU, stops=lambda: heard[0])
    store.trash([3])
    store.purge(3)
    ending = tune(
        Project(workspace, store),
        1,
        ScriptedEngine(store, far_from(1e-3)),
        trials=3,
        space=space,
        events=told,
        budget=CPU,
    )
    assert (ending.finished, [t.state for t in told.ended]) == (3, ["done", "done"])
    assert told.started[0] > 3


def test_a_study_whose_experiment_is_deleted_meanwhile_says_so(
    workspace: Workspace, store: Store, space: Space
) -> None:
    def purge(job: int) -> None:
        if job == 1:
            store.trash([1])
            store.purge(1)

    engine = ScriptedEngine(store, far_from(1e-3), before=purge)
    with pytest.raises(IchxError, match="no experiment has the number 1"):
        tune(Project(workspace, store), 1, engine, trials=5, space=space, budget=CPU)
    assert [(e.parent, e.folds_done) for e in store.experiments(Selection(kind="trial"))] == [(None, 1)] * 2


def test_a_plugin_that_is_gone_is_told_before_any_trial(workspace: Workspace, store: Store, parent: Experiment) -> None:
    recipe = replace(from_toml(parent.recipe), plugin="gone")
    number = store.add_experiments([draft(recipe, store.version("phantom"))])[0].number
    with pytest.raises(IchxError, match="'gone'"):
        tune(Project(workspace, store), number, ScriptedEngine(store, far_from(1e-3)), trials=1)
    assert store.listing(Selection(kind="trial"))[1] == 0


def test_trials_that_start_from_other_weights_than_their_experiment_are_told(
    workspace: Workspace, store: Store, space: Space
) -> None:
    remember_start(workspace.experiment_dir(1), Start("file", "own.pth", "0"))
    told = Told()
    tune(Project(workspace, store), 1, ScriptedEngine(store, far_from(1e-3)), trials=1, space=space, events=told)
    (note,) = told.notes
    assert note.startswith("the folds of experiment 1 started from a file's weights, its trials start from random")
    remember_start(workspace.experiment_dir(1), Start("random"))
    tune(Project(workspace, store), 1, ScriptedEngine(store, far_from(1e-3)), trials=2, space=space, events=told)
    assert told.notes == [note]
