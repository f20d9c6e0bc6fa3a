"""`ichx tune` in processes: stopped, killed, failing."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest
from running_programs import wait_until
from scripted_engine import search
from tuned_workspace import dataset_workspace, parent, project, store, workspace  # noqa: F401

from ichx.errors import ProcessError
from ichx.jobs import LocalEngine
from ichx.project import Project
from ichx.store import Experiment, Selection, Store
from ichx.training.run_options import RunOptions
from ichx.tuning.trial import Budget

pytestmark = pytest.mark.slow


def test_a_killed_tuning_resumes(store: Store, parent: Experiment) -> None:
    def start(trials: int) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "ichx", "tune", "1", "--trials", str(trials), "--device", "cpu", "--fold", "1"]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    stopped = start(1)
    wait_until(lambda: [run.state for run in store.runs(2)] == ["running"], stopped)
    stopped.terminate()
    _, err = stopped.communicate()
    assert stopped.returncode == 143
    assert "Traceback" not in err
    assert [run.state for run in store.runs(2)] != ["running"]

    killed = start(1)
    wait_until(lambda: [run.state for run in store.runs(2)][-1:] == ["running"], killed)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()

    _, err = (last := start(1)).communicate()
    assert last.returncode == 0, err
    assert "trial 1 of 1, experiment 2" in err
    assert [e.number for e in store.experiments(Selection(kind="trial"))] == [2]
    assert store.experiment(2).folds_done == 1


def test_a_failed_job_is_reported_with_its_log(project: Project, parent: Experiment) -> None:
    missing = Budget(fold=1, options=RunOptions(device="cuda:77"))
    with (
        contextlib.closing(LocalEngine(2)) as engine,
        pytest.raises(ProcessError, match=r"exit code 1: .*cuda:77") as caught,
    ):
        search(project, engine, 3, jobs=2, budget=missing)
    assert "run.log" in caught.value.remedy
