"""Studies as their users run them, as processes, and from outside: what Optuna's file and the store say of one."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from ichx.datasets.add import AddRequest, add_dataset
from ichx.phantom.dicom_files import write_phantom
from ichx.phantom.study import CHALLENGE_PREVALENCE
from ichx.project import Project
from ichx.store import Store, open_store
from ichx.workspace import init_workspace, open_workspace

FINISHED = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED, optuna.trial.TrialState.FAIL)
PREVALENCE = {label: round(2.8 * share, 4) for label, share in CHALLENGE_PREVALENCE.items()}
"""The challenge's, nearly tripled: so that each fold of a few patients has every label."""
PIXELS = 64
END_SECONDS = 1.5
"""A kill at a trial's end comes within this time after its last prediction is recorded."""

Told = dict[int, tuple[str, float | None, str]]
"""Of each finished trial by its number: state, score, and the values that it tried, as JSON."""


def make_workspace(folder: Path, patients: int) -> Path:
    """Return a workspace with a labelled phantom in three folds."""
    phantom = write_phantom(folder / "phantom", patients=patients, seed=7, size=96, prevalence=PREVALENCE)
    workspace = init_workspace(folder / "workspace")
    with open_store(workspace) as store:
        add_dataset(
            Project(workspace, store), AddRequest("phantom", phantom.train, labels=phantom.train_labels, folds=3)
        )
    return workspace.root


def start(root: Path, *command: object) -> "subprocess.Popen[str]":
    """Return `ichx COMMAND` as a process in the workspace."""
    return subprocess.Popen(
        [sys.executable, "-m", "ichx", *map(str, command)],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("ICHX_")},
    )


def ichx(root: Path, *command: object) -> str:
    """Return what `ichx COMMAND` prints; the benchmark ends where it fails."""
    process = start(root, *command)
    out, err = process.communicate()
    if process.returncode:
        raise SystemExit(f"ichx {' '.join(map(str, command))} failed:\n{err}")
    return out


def told(root: Path, *command: object) -> Any:
    """Return what `ichx COMMAND --json` prints."""
    return json.loads(ichx(root, *command, "--json"))


def new(root: Path, settings: tuple[str, ...], seed: int = 0) -> int:
    """Return the number of a new experiment of a tiny network with `settings`."""
    given = [part for setting in (*settings, f"seed={seed}") for part in ("--set", setting)]
    return _registered(root, "--plugin", "tiny_resnet", "--size", PIXELS, *given)


def _registered(root: Path, *options: object) -> int:
    return int(told(root, "exp", "new", *options)[0]["number"])


def recipes(root: Path, number: int, study: str) -> list[str]:
    """Return the recipes, as TOML, that the trials of experiment `number` in its study called `study` have tried."""
    with open_store(open_workspace(root)) as store:
        trials = _trials(store, number, f"experiment-{number}-{study}")
        return [store.experiment(experiment).recipe for experiment, _ in trials]


def register(root: Path, recipe: str) -> int:
    """Return the number of a new experiment with `recipe`."""
    file = root / "recipe.toml"
    file.write_text(recipe, encoding="utf-8")
    return _registered(root, "--from", file)


def finished(root: Path, name: str) -> Told:
    """Return what Optuna's file says of the finished trials of the study called `name`; nothing where there is none."""
    path = root / "db" / "tuning.db"
    if not path.exists():
        return {}
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    try:
        study = optuna.load_study(study_name=name, storage=storage)
        trials = study.get_trials(deepcopy=False)
    except KeyError:
        return {}
    finally:
        storage.remove_session()
        storage.engine.dispose()
    return {
        t.number: (t.state.name, t.value if t.state.name == "COMPLETE" else None, json.dumps(t.params, sort_keys=True))
        for t in trials
        if t.state in FINISHED
    }


def repeated(root: Path, number: int, name: str) -> int:
    """Return how many trials of the study called `name` are more than one experiment, or were trained twice."""
    with open_store(open_workspace(root)) as store:
        trials = _trials(store, number, name)
        whole = [sum(run.state == "done" for run in store.runs(experiment)) for experiment, _ in trials]
    twice = len(trials) - len({trial for _, trial in trials})
    return twice + sum(max(runs - 1, 0) for runs in whole)


@dataclass
class KillReport:
    """What came of kills: how many there were, those `at_end` of a trial, and what was `lost` or `repeated`."""

    kills: int = 0
    at_end: int = 0
    lost: int = 0
    repeated: int = 0


def kill_often(root: Path, number: int, tune: Sequence[object], *, kills: int, span: float) -> KillReport:
    """Begin the command `tune` on experiment `number` and kill it that often, then let it end; return what was lost.

    Of three kills one comes right after a trial has been trained, when it is told to Optuna and the next one gets its
    values, and two at a random moment within `span` seconds of the start.
    """
    rng = random.Random(5)
    name = f"experiment-{number}-{tune[tune.index('--study') + 1]}"
    report, before = KillReport(), Told()
    while report.kills < kills:
        process = start(root, *tune)
        at_end = report.kills % 3 == 0
        if at_end:
            _await_end(root, number, name, process)
        time.sleep(rng.uniform(0, END_SECONDS if at_end else span))
        if process.poll() is not None:
            if process.returncode:
                raise SystemExit(f"the study failed:\n{process.communicate()[1]}")
            break
        process.send_signal(signal.SIGKILL)
        process.communicate()
        report.kills += 1
        report.at_end += at_end
        now = finished(root, name)
        report.lost += sum(now.get(trial) != of_trial for trial, of_trial in before.items())
        when = "at the end of a trial" if at_end else "at some moment"
        print(f"kill {report.kills}, {when}: {len(now)} trials finished", flush=True)
        before = now
    ichx(root, *tune)
    now = finished(root, name)
    report.lost += sum(now.get(trial) != of_trial for trial, of_trial in before.items())
    report.repeated = repeated(root, number, name)
    return report


def _await_end(root: Path, number: int, name: str, process: "subprocess.Popen[str]") -> None:
    """Return when one more trial of the study is trained, or the process has ended."""
    with open_store(open_workspace(root)) as store:

        def trained() -> int:
            return sum(store.experiment(experiment).folds_done for experiment, _ in _trials(store, number, name))

        before = trained()
        while process.poll() is None and trained() == before:
            time.sleep(0.02)


def _trials(store: Store, number: int, name: str) -> list[tuple[int, int]]:
    """Return the experiments of a study with the numbers of their trials."""
    return [(e.number, e.tuned.trial) for e in store.trials(number) if e.tuned is not None and e.tuned.study == name]
