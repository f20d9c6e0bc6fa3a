"""Interruptions from outside: kills as in `benchmarks/kills.py`, and signals in work that is not training."""

import os
import random
import signal
from pathlib import Path
from types import ModuleType

import pytest
from conftest import Program
from running_programs import start_held, start_ichx, wait_until

from ichx.experiments.callbacks import RunCallbacks
from ichx.experiments.fold_status import fold_score
from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.experiments.run import run_experiment
from ichx.plugins import load_registry
from ichx.project import Project
from ichx.store import open_store
from ichx.training.stop_request import RunStopped
from ichx.workspace import open_workspace

pytestmark = pytest.mark.slow

BATCH = 4
SETTINGS = (
    f"batch={BATCH}",
    "stage.balanced.epochs=1",
    "stage.rebalanced.epochs=1",
    "stage.full.epochs=1",
    "model.dropout=0.2",
    "precision=fp32",
)


def test_a_run_killed_three_times_ends_with_equal_weights(dataset_copy: Path, killed_runs: ModuleType) -> None:
    with open_store(open_workspace(dataset_copy)) as store:
        for _ in range(2):
            new_experiment(store, load_registry(), ExperimentRequest(plugin="tiny_resnet", settings=SETTINGS))
    assert killed_runs.KilledRun(dataset_copy, 1, "0").wait().count("Traceback") == 0
    files = dataset_copy / "experiments" / "2" / "fold-0"
    for place, pattern in (
        ("ichx.training.step_sync:StepSync.after_step", "checkpoint-*.pt"),
        ("ichx.training.checkpoint:_RecordingFile.write", ".checkpoint-*.tmp.pt"),
        ("ichx.training.prediction:Predictor._batch", "checkpoint-*.pt"),
    ):
        arguments = ("run", 2, "--fold", 0, "--device", "cpu", "--checkpoint-every", "0.1s")
        held = start_held(place, files / pattern, *arguments, cwd=dataset_copy)
        held.kill()
        held.communicate()
        assert any(files.glob(pattern))
    last = killed_runs.KilledRun(dataset_copy, 2, "0.1s")
    errors = last.wait()
    assert last.process.returncode == 0, errors
    assert "checkpoint after epoch" in errors
    assert killed_runs.differences(dataset_copy, 1, 2) == []


def test_a_run_killed_while_it_stops_ends_with_equal_weights(dataset_copy: Path, killed_runs: ModuleType) -> None:
    """As at the time limit of a scheduler: SIGTERM, and SIGKILL before the progress is saved."""
    with open_store(open_workspace(dataset_copy)) as store:
        for _ in range(2):
            new_experiment(store, load_registry(), ExperimentRequest(plugin="tiny_resnet", settings=SETTINGS))
    assert killed_runs.KilledRun(dataset_copy, 1, "0.1s").wait().count("Traceback") == 0
    totals, rng = killed_runs.batches_per_epoch(dataset_copy, 1, BATCH), random.Random(3)
    for _ in range(2):
        killed_runs.KilledRun(dataset_copy, 2, "0.1s").stop_and_kill(totals, rng)
    last = killed_runs.KilledRun(dataset_copy, 2, "0.1s")
    errors = last.wait()
    assert last.process.returncode == 0, errors
    assert killed_runs.differences(dataset_copy, 1, 2) == []


def test_folds_of_a_killed_launch_end_and_resume_with_equal_weights(
    dataset_copy: Path, killed_runs: ModuleType, ichx_process: Program
) -> None:
    with open_store(open_workspace(dataset_copy)) as store:
        for _ in range(3):
            new_experiment(store, load_registry(), ExperimentRequest(plugin="tiny_resnet", settings=SETTINGS))
        command = ("--fold", 0, "--jobs", 2, "--device", "cpu", "--checkpoint-every", "0.1s")
        launched = start_ichx("run", 1, 2, *command, cwd=dataset_copy)
        folders = [dataset_copy / "experiments" / str(number) / "fold-0" for number in (1, 2)]
        wait_until(lambda: all(any(folder.glob("checkpoint-*.pt")) for folder in folders), launched)
        launched.kill()
        launched.communicate()
        wait_until(lambda: all(store.runs(number)[-1].state in ("stopped", "dead", "done") for number in (1, 2)))
    done = ichx_process("run", 1, 2, 3, *command, cwd=dataset_copy)
    assert done.code == 0, done.err
    assert killed_runs.differences(dataset_copy, 1, 3) == killed_runs.differences(dataset_copy, 2, 3) == []


class Interrupter(RunCallbacks):
    """Sends this process SIGTERM when something begins, and keeps what went on."""

    def __init__(self, when: str) -> None:
        self.when, self.phases, self.starts = when, list[str](), list[str]()

    def fold_started(self, plan: object) -> None:
        self.starts.append(plan.start)  # type: ignore[attr-defined]

    def phase(self, name: str, done: int, total: int) -> None:
        self.phases.append(name)
        if self.when and name.startswith(self.when):
            self.when = ""
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_stop_outside_training_loses_nothing(dataset_copy: Path, killed_runs: ModuleType) -> None:
    workspace, registry = open_workspace(dataset_copy), load_registry()
    with open_store(workspace) as store:
        for _ in range(2):
            new_experiment(store, registry, ExperimentRequest(plugin="tiny_resnet", settings=SETTINGS))
        states = []
        for when in ("caching ph ", "validating", "predicting ph", "caching ph-test", "predicting ph-test"):
            watch = Interrupter(when)
            with pytest.raises(RunStopped) as caught:
                run_experiment(Project(workspace, store, registry), 1, folds=[0], callbacks=watch)
            assert caught.value.exit_code == 143
            assert not watch.when
            states.append([run.state for run in store.runs(1)])
        last = Interrupter("")
        run_experiment(Project(workspace, store, registry), 1, folds=[0], callbacks=last)
        assert states[0] == [], "a cache is built before the fold is held"
        assert states[-1] == ["stopped"] * (len(states) - 1)
        assert last.phases == [], "what was predicted before is kept"
        assert last.starts == ["checkpoint after epoch 3, the last one"]
        run_experiment(Project(workspace, store, registry), 2, folds=[0])
    assert killed_runs.differences(dataset_copy, 1, 2) == []


def test_a_stop_in_a_later_fold_leaves_the_score_of_the_finished_folds(dataset_copy: Path, ichx: Program) -> None:
    class StopInSecondFold(RunCallbacks):
        folds = 0

        def fold_started(self, plan: object) -> None:
            self.folds += 1
            if self.folds == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    workspace, registry = open_workspace(dataset_copy), load_registry()
    with open_store(workspace) as store:
        new_experiment(store, registry, ExperimentRequest(plugin="tiny_resnet", settings=SETTINGS))
        with pytest.raises(RunStopped):
            run_experiment(Project(workspace, store, registry), 1, callbacks=StopInSecondFold())
        assert store.experiment(1).folds_done == 1
        assert store.experiment(1).score == pytest.approx(fold_score(store, 1, 0))
    assert ichx("audit", 1, cwd=dataset_copy).code == 0
