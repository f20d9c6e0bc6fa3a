"""Studies over a real store, a small phantom and a tiny model."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
from inline_engine import InlineEngine
from typer.testing import CliRunner

from ichx.cli.app import app
from ichx.ct.phantom_dicom import write_phantom
from ichx.data.dataset import add_dataset
from ichx.engine import LocalEngine
from ichx.errors import IchxError
from ichx.plugins import load_registry
from ichx.recipe_text import apply_settings, from_toml
from ichx.store import Experiment, Selection, Store, open_store
from ichx.training.register import draft
from ichx.tuning.events import TrialResult, TuneEvents
from ichx.tuning.space import Value
from ichx.tuning.study import tune
from ichx.tuning.trial import RunChoices
from ichx.workspace import Workspace, init_workspace, open_workspace

SEARCH = ("stage.balanced.lr=log:1e-4..1e-2", "batch=16,32")
CPU = RunChoices(fold=1, device="cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a workspace with a small labelled dataset in two folds."""
    root = tmp_path_factory.mktemp("tuned")
    workspace = init_workspace(root / "workspace")
    files = write_phantom(root / "phantom", patients=4, seed=1, size=64)
    with open_store(workspace) as store:
        add_dataset(workspace, store, "phantom", files.train, labels=files.train_labels, folds=2)
    return workspace.root


@pytest.fixture
def workspace(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    root = shutil.copytree(made, tmp_path / "workspace")
    monkeypatch.setenv("ICHX_WORKSPACE", str(root))
    monkeypatch.setenv("COLUMNS", "200")
    return open_workspace(root)


@pytest.fixture
def store(workspace: Workspace) -> Iterator[Store]:
    with open_store(workspace) as store:
        yield store


@pytest.fixture
def parent(store: Store) -> Experiment:
    recipe = load_registry().get("tiny_byobnet").recipe
    short = [f"stage.{stage.name}.{value}" for stage in recipe.stage for value in ("epochs=1", "milestones=[]")]
    recipe = apply_settings(recipe, [*short, "input.size=64", "input.crop=0"])
    return store.add_experiments([draft(recipe, store.version("phantom"), name="short")])[0]


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """So small a model only loses by more threads, most of all on a busy machine."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Told(TuneEvents):
    def __init__(self) -> None:
        self.started: list[int] = []
        self.ended: list[TrialResult] = []

    def trial_started(self, trial: int, trials: int, experiment: int, values: Mapping[str, Value]) -> None:
        self.started.append(experiment)

    def trial_ended(self, result: TrialResult, best: TrialResult | None) -> None:
        self.ended.append(result)


def test_trials_are_experiments_and_a_finished_study_stays(
    workspace: Workspace, store: Store, parent: Experiment
) -> None:
    source = Path(store.version("phantom").source)
    (labels,) = source.parent.glob("*train.csv")
    add_dataset(workspace, store, "phantom", source, labels=labels, folds=3)
    told = Told()
    report = tune(workspace, store, parent.number, InlineEngine(), trials=2, searches=SEARCH, choices=CPU, events=told)
    assert (report.new, [t.experiment for t in sorted(report.trials, key=lambda t: t.trial)]) == (2, [2, 3])
    assert [t.score for t in report.trials] == sorted(t.score or 0.0 for t in report.trials)
    assert told.started == [2, 3]
    assert sorted(told.ended, key=lambda t: t.score or 0.0) == list(report.trials)
    for trial in report.trials:
        child = store.experiment(trial.experiment or 0)
        assert (child.kind, child.parent, child.selected, child.folds_done) == ("trial", parent.number, True, 1)
        pinned = ("version_id", "label_digest", "fold_set_id", "fold_digest")
        assert [getattr(child, p) for p in pinned] == [getattr(parent, p) for p in pinned]
        assert store.version("phantom").id != child.version_id  # the dataset has moved on, the trials have not
        recipe, given = from_toml(child.recipe), from_toml(parent.recipe)
        assert recipe.stage[0].lr == trial.values["stage.balanced.lr"]
        assert recipe.batch == int(str(trial.values["batch"]))
        settings = [f"stage.balanced.lr={recipe.stage[0].lr!r}", f"batch={recipe.batch}"]
        assert recipe == apply_settings(given, settings)
        (run,) = store.runs(child.number)
        assert (run.fold, run.state) == (1, "done")
        (oof,) = store.predictions(child.number, role="oof", view="identity")
        assert oof.score == trial.score
    assert [e.number for e in store.experiments()] == [1]

    again = tune(workspace, store, parent.number, InlineEngine(), trials=2, searches=SEARCH, choices=CPU)
    assert (again.new, again.trials) == (0, report.trials)
    with pytest.raises(IchxError, match=r"another search space:\n  batch=16,32 stage.balanced.lr=log:0.0001..0.01"):
        tune(workspace, store, parent.number, InlineEngine(), trials=3, choices=CPU)
    other = RunChoices(fold=1, pretrained=False)
    with pytest.raises(IchxError, match=r"another start"):
        tune(workspace, store, parent.number, InlineEngine(), trials=3, searches=SEARCH, choices=other)
    assert store.listing(Selection(kind="trial"))[1] == 2


def test_a_first_failure_ends_the_study_and_a_later_one_does_not(
    workspace: Workspace, store: Store, parent: Experiment
) -> None:
    def break_third(number: int) -> None:
        if number in (0, 2):
            (workspace.root / store.version("phantom").path).rename(workspace.root / "away")
        elif number in (1, 3) and (workspace.root / "away").exists():
            (workspace.root / "away").rename(workspace.root / store.version("phantom").path)

    engine, told = InlineEngine(break_third), Told()
    with pytest.raises(IchxError, match="trial 0 failed before any succeeded: exit code 1: ") as caught:
        tune(workspace, store, 1, engine, trials=4, searches=SEARCH, choices=CPU, events=told)
    assert str(workspace.experiment_dir(2) / "trial.log") in caught.value.remedy
    assert "datasets" in caught.value.problem
    with pytest.raises(IchxError, match="no trial of 1 succeeded; the last one: exit code 1"):
        tune(workspace, store, 1, engine, trials=1, searches=SEARCH, choices=CPU)

    report = tune(workspace, store, 1, engine, trials=4, searches=SEARCH, choices=CPU, events=told)
    assert [t.error is None for t in sorted(report.trials, key=lambda t: t.trial)] == [False, True, False, True]
    assert [t.score is None for t in report.trials] == [False, False, True, True]
    assert [t.log for t in report.trials[2:]] == ["experiments/2/trial.log", "experiments/4/trial.log"]
    assert [t.trial for t in told.ended] == [0, 1, 2, 3]


def test_an_interrupted_trial_goes_on_as_the_same_experiment(
    workspace: Workspace, store: Store, parent: Experiment
) -> None:
    def interrupt(number: int) -> None:
        if number == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(workspace, store, 1, InlineEngine(interrupt), trials=3, searches=SEARCH, choices=CPU)
    assert store.listing(Selection(kind="trial"))[1] == 2
    engine, told = InlineEngine(), Told()
    report = tune(workspace, store, 1, engine, trials=2, searches=SEARCH, choices=CPU, events=told)
    assert (told.started, [t.experiment for t in told.ended]) == ([3], [3])
    assert (report.new, len(report.trials), len(engine.jobs)) == (1, 2, 1)


def test_values_that_do_not_go_together_fail_without_an_experiment(
    workspace: Workspace, store: Store, parent: Experiment
) -> None:
    searches, told = ("input.size=48,64", "input.crop=0,64"), Told()
    nowhere = RunChoices(fold=1, device="cuda:77")  # those that do go together fail, too, but as experiments
    for trials in range(1, 7):
        with pytest.raises(IchxError, match=r"failed before any succeeded"):
            tune(workspace, store, 1, InlineEngine(), trials=trials, searches=searches, choices=nowhere, events=told)
    misfits = [t for t in told.ended if t.values == {"input.size": "48", "input.crop": "64"}]
    assert 0 < len(misfits) < 6
    assert all((t.experiment, t.log) == (None, None) and "input.crop" in (t.error or "") for t in misfits)
    assert store.listing(Selection(kind="trial"))[1] == 6 - len(misfits)


@pytest.mark.parametrize(
    ("trials", "jobs", "fold", "problem"),
    [(0, 1, 0, "--trials must be 1"), (1, 0, 0, "--jobs must be 1"), (1, 1, 2, "no fold 2; its folds are 0 to 1")],
)
def test_what_cannot_be_is_said_at_once(
    workspace: Workspace, store: Store, parent: Experiment, trials: int, jobs: int, fold: int, problem: str
) -> None:
    with pytest.raises(IchxError, match=problem):
        tune(workspace, store, 1, InlineEngine(), trials=trials, jobs=jobs, choices=RunChoices(fold=fold))
    with pytest.raises(IchxError, match="no experiment has the number 9"):
        tune(workspace, store, 9, InlineEngine(), trials=1)
    assert not (workspace.root / "db" / "tuning.db").exists()


def until(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 180
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_killed_as_typed_it_goes_on(workspace: Workspace, store: Store, parent: Experiment) -> None:
    def start(trials: int) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "ichx", "tune", "1", "--trials", str(trials), "--device", "cpu", "--fold", "1"]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    stopped = start(1)
    until(lambda: [run.state for run in store.runs(2)] == ["running"], stopped)
    stopped.terminate()
    _, err = stopped.communicate()
    assert stopped.returncode == 130
    assert "the same command goes on" in err
    assert [run.state for run in store.runs(2)] != ["running"]

    killed = start(1)
    until(lambda: [run.state for run in store.runs(2)][-1:] == ["running"], killed)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()

    out, err = (last := start(1)).communicate()
    assert last.returncode == 0, err
    assert "1 trial." in out
    assert "[selected]" in err
    asked = CliRunner().invoke(app, ["tune", "1", "--trials", "1", "--device", "cpu", "--fold", "1", "--json"])
    report = json.loads(asked.stdout)
    assert (report["new"], [t["experiment"] for t in report["trials"]]) == (0, [2])
    assert [e.number for e in store.experiments(Selection(kind="trial"))] == [2]
    assert store.experiment(2).folds_done == 1


def test_a_job_that_dies_is_told_with_its_log(workspace: Workspace, store: Store, parent: Experiment) -> None:
    choices = RunChoices(fold=1, device="cuda:77")
    with (
        contextlib.closing(LocalEngine(2)) as engine,
        pytest.raises(IchxError, match=r"exit code 1: .*cuda:77") as caught,
    ):
        tune(workspace, store, 1, engine, trials=3, jobs=2, choices=choices)
    assert "trial.log" in caught.value.remedy
