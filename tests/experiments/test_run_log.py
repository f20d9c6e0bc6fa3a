"""Every run writes its log, once, and no sink that fails stops it."""

import os
import re
import signal
from pathlib import Path

import pytest
from conftest import SHORT, Program

from ichx.experiments.callbacks import CallbackList, RunCallbacks
from ichx.experiments.loggers.run_log import RunLog, unstamped
from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.experiments.run import run_experiment
from ichx.plugins import load_registry
from ichx.project import Project
from ichx.store import EpochRecord, open_store
from ichx.training.stop_request import RunStopped
from ichx.workspace import open_workspace

pytestmark = pytest.mark.slow

STAMPED = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ")


def register(root: Path, *settings: str) -> int:
    with open_store(open_workspace(root)) as store:
        made = new_experiment(
            store, load_registry(), ExperimentRequest(plugin="tiny_resnet", size=32, settings=[*SHORT, *settings])
        )
    return made.number


class Receiver(RunCallbacks):
    """Keeps notes, and acts when an epoch has ended."""

    def __init__(self, signal_at: int = 0, raise_at: int = 0) -> None:
        self.notes: list[str] = []
        self.epochs, self.signal_at, self.raise_at = 0, signal_at, raise_at

    def note(self, message: str) -> None:
        self.notes.append(message)

    def epoch_ended(self, record: EpochRecord) -> None:
        self.epochs += 1
        if self.epochs == self.raise_at:
            raise ValueError("a view that breaks")
        if self.epochs == self.signal_at:
            os.kill(os.getpid(), signal.SIGTERM)


def test_runs_follow_each_other_in_the_log(dataset_copy: Path, ichx: Program) -> None:
    number = register(dataset_copy)
    workspace = open_workspace(dataset_copy)
    with open_store(workspace) as store:
        with pytest.raises(RunStopped):
            run_experiment(
                Project(workspace, store, load_registry()), number, folds=[1], callbacks=Receiver(signal_at=1)
            )
        run_experiment(Project(workspace, store, load_registry()), number, folds=[1])
    done = ichx("exp", "log", number, cwd=dataset_copy)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert all(STAMPED.match(line) for line in lines)
    messages = [unstamped(line) for line in lines]
    starts = [f"experiment {number}, fold 1: run {n} begins" for n in (1, 2)]
    assert [line for line in messages if "begins" in line] == starts
    first, second = messages[: messages.index(starts[1])], messages[messages.index(starts[1]) :]
    assert first[-1] == "run ends: stopped: stopped by SIGTERM"
    assert [line.split(":")[0] for line in first if "score" in line] == ["balanced 1"]
    assert any(line.startswith(f"on {os.uname().nodename}, process {os.getpid()}") for line in first)
    assert any(line.startswith("device: cpu") for line in first)
    assert any(line.startswith("from: checkpoint after epoch 1") for line in second)
    assert [line.split(":")[0] for line in second if "images/s" in line] == ["rebalanced 1", "full 1"]
    assert second[-1] == "run ends: done"


def test_a_job_reports_everything_once(dataset_copy: Path, ichx_process: Program) -> None:
    number = register(dataset_copy)
    done = ichx_process("run", number, "--jobs", 2, "--device", "cpu", cwd=dataset_copy)
    assert done.code == 0, done.err
    for fold in (0, 1):
        text = (dataset_copy / "experiments" / str(number) / f"fold-{fold}" / "run.log").read_text()
        messages = [unstamped(line) for line in text.splitlines()]
        assert sum(f"fold {fold} done: OOF score" in line for line in messages) == 1
        assert [line.split(":")[0] for line in messages if ": loss" in line] == ["balanced 1", "rebalanced 1", "full 1"]


def test_a_log_that_cannot_be_written_is_one_note(dataset_copy: Path) -> None:
    number = register(dataset_copy)
    workspace, receiver = open_workspace(dataset_copy), Receiver()
    log = workspace.experiment_dir(number) / "fold-0" / "run.log"
    log.parent.mkdir(parents=True)
    log.symlink_to("/dev/full")  # as a disk is
    with open_store(workspace) as store:
        run_experiment(Project(workspace, store, load_registry()), number, folds=[0], callbacks=receiver)
        assert [run.state for run in store.runs(number)] == ["done"]
    about = [note for note in receiver.notes if "run log" in note]
    assert about == ["the run log gets no more events of this run: OSError: [Errno 28] No space left on device"]
    assert receiver.epochs == 3


def test_a_callback_that_raises_is_removed(dataset_copy: Path) -> None:
    number = register(dataset_copy)
    workspace, receiver = open_workspace(dataset_copy), Receiver(raise_at=1)
    with open_store(workspace) as store:
        run_experiment(Project(workspace, store, load_registry()), number, folds=[0], callbacks=receiver)
    assert receiver.epochs == 1
    log = (workspace.experiment_dir(number) / "fold-0" / "run.log").read_text()
    assert log.count("note: the view gets no more events of this run: ValueError: a view that breaks") == 1


def test_every_hook_is_passed_on() -> None:
    own = [name for name in vars(RunCallbacks) if not name.startswith("_") and name != "label"]
    assert [name for name in vars(CallbackList) if name in own] == own


def test_an_interruption_is_not_an_error_of_a_callback() -> None:
    class Interrupted(RunCallbacks):
        def note(self, message: str) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        CallbackList(Interrupted()).note("x")


def test_notes_before_the_first_fold_go_into_its_log(dataset_copy: Path) -> None:
    log = RunLog(open_workspace(dataset_copy))
    log.note("early")
    assert not list(dataset_copy.rglob("run.log"))


def test_lines_without_a_time_are_unchanged() -> None:
    assert unstamped("2026-02-03 04:05:06 note: x") == "note: x"
    assert unstamped("2026-02-03 04:05:06") == ""
    for line in ("", "error: no space", "2026-02-30 04:05:06 no such day"):
        assert unstamped(line) == line
