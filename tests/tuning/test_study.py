"""Studies over a real store: trials as experiments, invalid requests, resuming."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from inline_engine import InlineEngine
from optuna_studies import fill, new_study, storage
from scripted_engine import CPU, Recorder, ScriptedEngine, far_from, search
from tuned_workspace import dataset_workspace, parent, project, space, store, workspace  # noqa: F401

from ichx.datasets.add import AddRequest, add_dataset
from ichx.errors import ConflictError, IchxError, InvalidInputError, NotFoundError, ProcessError
from ichx.experiments.calibrated_fold import read_calibrated_oof
from ichx.experiments.register import draft
from ichx.project import Project
from ichx.recipe_text import apply_settings, from_toml
from ichx.store import Experiment, Selection, Store, TuningInfo
from ichx.training.run_options import RunOptions
from ichx.training.weights import Start, remember_start
from ichx.tuning import database_path
from ichx.tuning.limits import Limits
from ichx.tuning.results import read_study
from ichx.tuning.space import Space, parse_space
from ichx.tuning.trial import Budget
from ichx.tuning.trial_task import TrialTask
from ichx.tuning.trial_view import ranked_trials
from ichx.tuning.tune_report import TuneReport


def log_file(project: Project, experiment: int, fold: int) -> Path:
    return project.workspace.experiment_files(experiment).fold(fold).log


def stop_in_job(number: int) -> tuple[Any, Any]:
    """Return the hooks `before` and `stop_level` that request a stop when job `number` is submitted."""
    level = [0]

    def before(job: int) -> None:
        level[0] = int(job == number)

    return before, lambda: level[0]


def test_trials_are_experiments_and_a_finished_study_stays(project: Project, parent: Experiment, space: Space) -> None:
    store = project.store
    source = Path(store.version("phantom").source)
    (labels,) = source.parent.glob("*train.csv")
    add_dataset(project, AddRequest("phantom", source, labels=labels, folds=3))
    seen = Recorder()
    report = search(project, InlineEngine(), 3, space=space, budget=CPU, callbacks=seen)
    assert report == TuneReport(3, 3, "complete")
    assert seen.started == [t.experiment for t in seen.ended] == [2, 3, 4]
    recipe = from_toml(parent.recipe)
    assert [(t.baseline, t.state) for t in seen.ended] == [(True, "done"), (False, "done"), (False, "done")]
    assert from_toml(store.experiment(2).recipe) == recipe
    for trial in seen.ended:
        child = store.experiment(trial.experiment or 0)
        assert (child.kind, child.parent, child.selected, child.folds_done) == ("trial", parent.number, True, 1)
        pinned = ("version_id", "label_digest", "fold_set_id", "fold_digest")
        assert [getattr(child, p) for p in pinned] == [getattr(parent, p) for p in pinned]
        assert store.version("phantom").id != child.version_id, "trials use the version of their parent"
        tried = from_toml(child.recipe)
        if not trial.baseline:
            tuned = TuningInfo("experiment-1", trial.trial, 1, trial.values, objective="calibrated_score")
            assert child.tuned == tuned
            assert tried.stage[0].lr == trial.values["stage.balanced.lr"]
            assert tried.batch == int(str(trial.values["batch"]))
            settings = [f"stage.balanced.lr={tried.stage[0].lr!r}", f"batch={tried.batch}"]
            assert tried == apply_settings(recipe, settings)
        (run,) = store.runs(child.number)
        assert (run.fold, run.state) == (1, "done")
        (oof,) = store.predictions(child.number, role="oof", view="identity")
        assert oof.score == trial.raw_score
        assert read_calibrated_oof(project, child, [1]).score == pytest.approx(trial.score)
        assert log_file(project, child.number, 1).exists()
    assert [e.number for e in store.experiments()] == [1]
    assert store.listing(Selection(kind=None, parent=1))[1] == 3

    rerun = search(project, InlineEngine(), 3, space=space, budget=CPU)
    assert rerun == TuneReport(3, 0, "complete")
    with pytest.raises(ConflictError, match=r"batch: 16,32, .*8,16,32\n.*lr: log:0\.0001\.\.0\.01, .*not set"):
        search(project, InlineEngine(), 4, budget=CPU)
    other = replace(CPU, options=RunOptions(device="cpu", pretrained=False))
    with pytest.raises(ConflictError, match=r"--pretrained: .*False"):
        search(project, InlineEngine(), 4, space=space, budget=other)
    with pytest.raises(ConflictError, match=r"--subset: 1, .*0\.5") as caught:
        search(project, InlineEngine(), 4, space=space, budget=replace(CPU, subset=0.5))
    assert "--study NAME" in caught.value.remedy
    assert store.listing(Selection(kind="trial"))[1] == 3


def test_a_study_with_scores_of_an_older_version_is_shown_and_not_continued(
    project: Project, parent: Experiment, space: Space
) -> None:
    engine = ScriptedEngine(project.store, far_from(1e-3))
    with storage(project.workspace) as opened:
        old = new_study(opened, parent)
        fill(project.store, parent, old, 6)
        setup = old.user_attrs["setup"]
    before = read_study(project, parent.number)
    assert (before.objective, before.trials[0].raw_score) == ("score", None)
    assert before.best is not None
    with pytest.raises(ConflictError, match=r"experiment-1 .* calibrated score") as caught:
        search(project, engine, 8, space=space, budget=CPU)
    assert "--study NAME" in caught.value.remedy
    with storage(project.workspace) as opened:
        assert optuna.load_study(study_name="experiment-1", storage=opened).user_attrs["setup"] == setup
    assert read_study(project, parent.number) == before
    assert search(project, engine, 2, space=space, budget=CPU, study="new").finished == 2
    new = read_study(project, parent.number, "new")
    assert (new.objective, new.trials[0].raw_score) == ("calibrated_score", new.trials[0].score)


def test_a_stopped_study_resumes_where_it_was(project: Project, space: Space) -> None:
    before, stop_level = stop_in_job(2)
    engine = ScriptedEngine(project.store, far_from(1e-3), before=before)
    assert search(project, engine, 5, space=space, stop_level=stop_level) == TuneReport(2, 2, "stopped")
    assert [run.state for run in project.store.runs(4)] == ["stopped"]
    engine = ScriptedEngine(project.store, far_from(1e-3))
    assert search(project, engine, 5, space=space, timeout=1e-9) == TuneReport(2, 0, "timeout")
    assert engine.jobs == []
    resumed = Recorder()
    report = search(project, engine, 5, space=space, callbacks=resumed)
    assert (report, resumed.started) == (TuneReport(5, 3, "complete"), [4, 5, 6])

    complete = Recorder()
    search(project, ScriptedEngine(project.store, far_from(1e-3)), 5, space=space, callbacks=complete, study="complete")
    assert [t.values for t in complete.ended[2:]] == [t.values for t in resumed.ended]


def test_a_first_failure_ends_the_study_and_a_later_one_does_not(project: Project, space: Space) -> None:
    broken = {0}
    engine = ScriptedEngine(project.store, far_from(1e-3), fails=lambda job: job in broken)
    seen = Recorder()
    with pytest.raises(ProcessError, match=r"Trial 1 .*: exit code 1: out of luck") as caught:
        search(project, engine, 4, space=space, budget=CPU, callbacks=seen)
    assert str(log_file(project, 2, 1)) in caught.value.remedy

    broken |= {2}
    report = search(project, engine, 4, space=space, budget=CPU, callbacks=seen)
    assert report == TuneReport(4, 3, "complete")
    assert [t.state for t in seen.ended] == ["failed", "done", "failed", "done"]
    assert seen.ended[2].log == log_file(project, 4, 1).relative_to(project.workspace.root).as_posix()

    broken |= set(range(20))
    with pytest.raises(ProcessError, match=r"3 trials in a row .* trial 7: exit code 1: out of luck"):
        search(project, engine, 20, space=space, budget=CPU, callbacks=seen)
    assert len(seen.ended) == 7


def test_a_study_without_a_done_trial_is_an_error(project: Project, space: Space) -> None:
    engine = ScriptedEngine(project.store, lambda recipe, part: math.nan)
    with pytest.raises(ProcessError, match=r"Trial 1 .*: no finite score"):
        search(project, engine, 1, space=space)


def test_an_interrupted_trial_resumes_as_the_same_experiment(project: Project, space: Space) -> None:
    def interrupt(number: int) -> None:
        if number == 1:
            raise KeyboardInterrupt

    engine = ScriptedEngine(project.store, far_from(1e-3), before=interrupt)
    with pytest.raises(KeyboardInterrupt):
        search(project, engine, 3, space=space, budget=CPU)
    assert project.store.listing(Selection(kind="trial"))[1] == 2
    engine, seen = ScriptedEngine(project.store, far_from(1e-3)), Recorder()
    report = search(project, engine, 2, space=space, budget=CPU, callbacks=seen)
    assert (seen.started, [t.experiment for t in seen.ended]) == ([3], [3])
    assert (report, len(engine.jobs)) == (TuneReport(2, 1, "complete"), 1)


def test_incompatible_values_are_pruned(project: Project, parent: Experiment) -> None:
    space = parse_space(("input.size=48,64", "input.crop=0,64"), from_toml(parent.recipe))
    engine, seen = ScriptedEngine(project.store, far_from(1e-3)), Recorder()
    search(project, engine, 12, space=space, callbacks=seen, sampler="random", pruner="none")
    invalid = [t for t in seen.ended if t.values == {"input.size": "48", "input.crop": "64"}]
    assert invalid
    assert all((t.state, t.experiment) == ("pruned", None) and "input.crop" in (t.error or "") for t in invalid)
    valid = {str(t.values) for t in seen.ended if t not in invalid}
    assert project.store.listing(Selection(kind="trial"))[1] == len(valid)


def test_the_same_values_are_not_trained_twice(project: Project, parent: Experiment) -> None:
    space = parse_space(["batch=8,16"], from_toml(parent.recipe))
    engine, seen = ScriptedEngine(project.store, lambda recipe, part: recipe.batch / 100), Recorder()
    report = search(project, engine, 6, space=space, callbacks=seen)
    assert (report, len(engine.jobs)) == (TuneReport(6, 6, "complete"), len({str(t.values) for t in seen.ended}))
    assert len(engine.jobs) == 2
    for trial in seen.ended:
        assert trial.score == int(str(trial.values["batch"])) / 100
    assert len(seen.notes) == 4
    assert any("trial 1 " in note for note in seen.notes)


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp"])
def test_every_sampler_approaches_the_best_value(project: Project, parent: Experiment, sampler: str) -> None:
    space = parse_space(["stage.balanced.lr=log:1e-6..1e0", "model.dropout=0.1..0.5"], from_toml(parent.recipe))
    engine, seen = ScriptedEngine(project.store, far_from(1e-3)), Recorder()
    search(project, engine, 15, space=space, callbacks=seen, sampler=sampler, pruner="none")
    (note,) = seen.notes
    assert "model.dropout" in note, "the recipe's value is outside the space"
    assert len({str(t.values) for t in seen.ended}) == 15
    best = ranked_trials(seen.ended)[0]
    assert abs(math.log10(float(best.values["stage.balanced.lr"]) / 1e-3)) < 1


@pytest.mark.parametrize(
    ("settings", "values"),
    [
        ({"trials": 0}, "--trials: 0"),
        ({"jobs": 0}, "--jobs: 0"),
        ({"budget": Budget(subset=0.0)}, "--subset: 0"),
        ({"budget": Budget(length=2)}, "--length: 2"),
        ({"timeout": 0.0}, "--timeout: 0"),
        *(({"study": name}, "--study: ") for name in ("a/b", "../x", "-x", "x" * 65, "a b", " ")),
        ({"limits": Limits(memory_gb=0)}, "--max-memory: 0"),
    ],
)
def test_an_invalid_request_runs_nothing(
    project: Project, parent: Experiment, settings: dict[str, Any], values: str
) -> None:
    engine = ScriptedEngine(project.store, far_from(1e-3))
    with pytest.raises(InvalidInputError, match=values):
        search(project, engine, **{"trials": 1, **settings})
    assert engine.jobs == []
    assert not database_path(project.workspace).exists()


def test_missing_inputs_are_found_before_any_trial(project: Project, parent: Experiment) -> None:
    engine = ScriptedEngine(project.store, far_from(1e-3))
    with pytest.raises(NotFoundError, match="9"):
        search(project, engine, 1, experiment=9)
    with pytest.raises(NotFoundError, match="fold 2"):
        search(project, engine, 1, budget=Budget(fold=2))
    with pytest.raises(IchxError, match=r"none\.pth"):
        search(project, engine, 1, budget=Budget(options=RunOptions(weights=Path("none.pth"))))
    with pytest.raises(IchxError, match=r"0\.01 .* 2 patients .* fold 0"):
        search(project, engine, 1, budget=Budget(subset=0.01))
    recipe = replace(from_toml(parent.recipe), plugin="gone")
    number = project.store.add_experiments([draft(recipe, project.store.version("phantom"))])[0].number
    with pytest.raises(NotFoundError, match="gone"):
        search(project, engine, 1, experiment=number)
    assert not database_path(project.workspace).exists()
    assert project.store.listing(Selection(kind="trial"))[1] == 0


def test_a_trial_that_was_decided_to_be_pruned_is_not_resumed(project: Project, space: Space) -> None:
    """The process is killed between the decision and its record; the job ends by itself."""
    slow = {"seconds": lambda recipe: 1.0 if recipe.batch == 16 else 9.0}
    engine = ScriptedEngine(project.store, far_from(1e-3), **slow)
    limits = Limits(epoch_seconds=5)

    def interrupt(self: TrialTask, *_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrialTask, "_prune", interrupt)
        with pytest.raises(KeyboardInterrupt):
            search(project, engine, 9, space=space, budget=CPU, limits=limits)
    lost = project.store.experiments(Selection(kind="trial"))[0]
    assert lost.state == "stopped"
    engine, seen = ScriptedEngine(project.store, far_from(1e-3), **slow), Recorder()
    search(project, engine, 9, space=space, budget=CPU, limits=limits, callbacks=seen)
    first = seen.ended[0]
    assert (first.experiment, first.state) == (lost.number, "pruned")
    assert "9 s" in first.excess
    assert "5 s" in first.excess
    assert str(lost.number) not in [job.argv[4] for job in engine.jobs]
    view = next(t for t in read_study(project, 1).trials if t.experiment == lost.number)
    assert (view.exceeded, view.epochs is not None) == (("epoch_seconds",), True)


def test_a_failed_baseline_is_repeated(project: Project, space: Space) -> None:
    engine = ScriptedEngine(project.store, far_from(1e-3), fails=lambda job: job == 0)
    with pytest.raises(ProcessError, match="Trial 1 "):
        search(project, engine, 3, space=space, budget=CPU)
    seen = Recorder()
    search(project, engine, 3, space=space, budget=CPU, callbacks=seen)
    assert [(t.trial, t.baseline, t.state) for t in seen.ended] == [(1, True, "done"), (2, False, "done")]
    baseline = read_study(project, 1).baseline
    assert baseline is not None
    assert (baseline.trial, baseline.score) == (1, seen.ended[0].score)
    search(project, engine, 4, space=space, budget=CPU, callbacks=seen)
    assert [t.baseline for t in seen.ended] == [True, False, False]


def test_an_interrupted_trial_is_registered_again_if_its_experiment_was_deleted(project: Project, space: Space) -> None:
    before, stop_level = stop_in_job(1)
    engine = ScriptedEngine(project.store, far_from(1e-3), before=before)
    search(project, engine, 3, space=space, budget=CPU, stop_level=stop_level)
    project.store.trash([3])
    project.store.purge(3)
    engine, seen = ScriptedEngine(project.store, far_from(1e-3)), Recorder()
    report = search(project, engine, 3, space=space, callbacks=seen, budget=CPU)
    assert (report.finished, [t.state for t in seen.ended]) == (3, ["done", "done"])
    assert seen.started[0] > 3


def test_deleting_the_tuned_experiment_ends_the_study(project: Project, space: Space) -> None:
    def purge(job: int) -> None:
        if job == 1:
            project.store.trash([1])
            project.store.purge(1)

    engine = ScriptedEngine(project.store, far_from(1e-3), before=purge)
    with pytest.raises(NotFoundError, match="1"):
        search(project, engine, 5, space=space, budget=CPU)
    trials = project.store.experiments(Selection(kind="trial"))
    assert [(e.parent, e.folds_done) for e in trials] == [(None, 1)] * 2


def test_a_trial_waits_for_the_job_of_an_earlier_process(project: Project, store: Store, space: Space) -> None:
    """The job of a killed process may still run the fold for a while."""
    before, stop_level = stop_in_job(0)
    first = ScriptedEngine(store, far_from(1e-3), before=before)
    search(project, first, 1, space=space, stop_level=stop_level)
    earlier, engine = ScriptedEngine(store, far_from(1e-3)), ScriptedEngine(store, far_from(1e-3))
    earlier.submit(first.jobs[:1])

    class Ending(Recorder):
        def note(self, message: str) -> None:
            super().note(message)
            assert engine.jobs == []
            earlier.cancel("scripted:0")
            earlier.wait("scripted:0")

    seen = Ending()
    assert search(project, engine, 1, space=space, callbacks=seen) == TuneReport(1, 1, "complete")
    (note,) = seen.notes
    assert "experiment 2" in note
    assert len(engine.jobs) == 1


def test_trials_that_start_from_other_weights_than_their_experiment_are_noted(project: Project, space: Space) -> None:
    folder = project.workspace.experiment_dir(1)
    remember_start(folder, Start("file", "own.pth", "0"))
    seen = Recorder()
    search(project, ScriptedEngine(project.store, far_from(1e-3)), 1, space=space, callbacks=seen)
    (note,) = seen.notes
    assert "experiment 1 " in note
    assert "--weights" in note
    remember_start(folder, Start("random"))
    search(project, ScriptedEngine(project.store, far_from(1e-3)), 2, space=space, callbacks=seen)
    assert seen.notes == [note]
