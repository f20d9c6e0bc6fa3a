"""Optuna studies run as processes, killed at random moments, and read from Optuna's database and the store."""

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

import numpy as np
import optuna

from ichx.datasets.add import AddRequest, add_dataset
from ichx.datasets.dataset import load_folds, load_version
from ichx.evaluation.metric import constant_score
from ichx.labels import LABELS
from ichx.phantom.dicom_files import write_phantom
from ichx.phantom.study import CHALLENGE_PREVALENCE
from ichx.project import Project
from ichx.store import Store, open_store
from ichx.workspace import init_workspace, open_workspace

FINISHED = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED, optuna.trial.TrialState.FAIL)
PREVALENCE = {label: round(2.8 * share, 4) for label, share in CHALLENGE_PREVALENCE.items()}
"""The challenge's prevalences, nearly tripled: each fold of a few patients has every label."""
PIXELS = 64
END_SECONDS = 1.5
"""A kill at the end of a trial follows the record of its last prediction within this time."""

FinishedTrials = dict[int, tuple[str, float | None, str]]
"""State, score and parameters (as JSON) by number of a trial."""


def make_workspace(folder: Path, patients: int) -> Path:
    """Return a new workspace with a labelled phantom in three folds."""
    phantom = write_phantom(folder / "phantom", patients=patients, seed=7, size=96, prevalence=PREVALENCE)
    workspace = init_workspace(folder / "workspace")
    with open_store(workspace) as store:
        add_dataset(
            Project(workspace, store), AddRequest("phantom", phantom.train, labels=phantom.train_labels, folds=3)
        )
    return workspace.root


def start_ichx(root: Path, *command: object) -> "subprocess.Popen[str]":
    """Start `ichx COMMAND` in the workspace and return its process."""
    return subprocess.Popen(
        [sys.executable, "-m", "ichx", *map(str, command)],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("ICHX_")},
    )


def run_ichx(root: Path, *command: object) -> str:
    """Return the output of `ichx COMMAND`. Raises `SystemExit` if it fails."""
    process = start_ichx(root, *command)
    output, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"ichx {' '.join(map(str, command))} failed:\n{errors}")
    return output


def read_json(root: Path, *command: object) -> Any:
    """Return the output of `ichx COMMAND --json`."""
    return json.loads(run_ichx(root, *command, "--json"))


def register_tiny(root: Path, settings: tuple[str, ...], seed: int = 0) -> int:
    """Register an experiment of a tiny network with `settings` and return its number."""
    options = [part for setting in (*settings, f"seed={seed}") for part in ("--set", setting)]
    return _register(root, "--plugin", "tiny_resnet", "--size", PIXELS, *options)


def register_own(root: Path, seed: int = 0) -> int:
    """Register an experiment with a tiny network's own recipe and return its number."""
    return _register(root, "--plugin", "tiny_resnet", "--set", f"seed={seed}")


def constant_prevalence(project: Project, only: Sequence[int]) -> float:
    """Return the score on the folds `only` of predicting the prevalences of the other folds of each."""
    version = project.store.version("phantom")
    slices = load_version(project.workspace, version).slices
    folds = load_folds(project.workspace, version, version.fold_set(), slices)
    labels = slices[list(LABELS)].to_numpy(float)
    sizes = [int((folds == fold).sum()) for fold in only]
    scores = [constant_score(labels[folds != fold], labels[folds == fold]) for fold in only]
    return float(np.average(scores, weights=sizes))


def _register(root: Path, *options: object) -> int:
    return int(read_json(root, "exp", "new", *options)[0]["number"])


def trial_recipes(root: Path, number: int, study: str) -> list[str]:
    """Return the recipes, as TOML, of the trials in the study `study` of experiment `number`."""
    with open_store(open_workspace(root)) as store:
        trials = _trials(store, number, f"experiment-{number}-{study}")
        return [store.experiment(experiment).recipe for experiment, _ in trials]


def register_recipe(root: Path, recipe: str) -> int:
    """Register an experiment with `recipe` (TOML) and return its number."""
    file = root / "recipe.toml"
    file.write_text(recipe, encoding="utf-8")
    return _register(root, "--from", file)


def finished_trials(root: Path, name: str) -> FinishedTrials:
    """Return the finished trials of the study `name` in Optuna's database; none if there is no such study."""
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


def count_repeated(root: Path, number: int, name: str) -> int:
    """Return how many trials of the study `name` have several experiments, or were trained several times."""
    with open_store(open_workspace(root)) as store:
        trials = _trials(store, number, name)
        done = [sum(run.state == "done" for run in store.runs(experiment)) for experiment, _ in trials]
    duplicates = len(trials) - len({trial for _, trial in trials})
    return duplicates + sum(max(runs - 1, 0) for runs in done)


@dataclass
class KillReport:
    """Number of kills, of those at the end of a trial, and of lost or repeated trials."""

    kills: int = 0
    at_end: int = 0
    lost: int = 0
    repeated: int = 0


def kill_often(root: Path, number: int, tune: Sequence[object], *, kills: int, span: float) -> KillReport:
    """Start the command `tune` on experiment `number` and kill it `kills` times, then let it finish.

    One of three kills follows the end of a training, when its result is reported to Optuna and the next trial is
    sampled; two are at random within `span` seconds of the start.
    """
    rng = random.Random(5)
    name = f"experiment-{number}-{tune[tune.index('--study') + 1]}"
    report, before = KillReport(), FinishedTrials()
    while report.kills < kills:
        process = start_ichx(root, *tune)
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
        now = finished_trials(root, name)
        report.lost += sum(now.get(trial) != result for trial, result in before.items())
        when = "at the end of a trial" if at_end else "at random"
        print(f"kill {report.kills}, {when}: {len(now)} trials finished", flush=True)
        before = now
    run_ichx(root, *tune)
    now = finished_trials(root, name)
    report.lost += sum(now.get(trial) != result for trial, result in before.items())
    report.repeated = count_repeated(root, number, name)
    return report


def _await_end(root: Path, number: int, name: str, process: "subprocess.Popen[str]") -> None:
    """Wait until one more trial of the study is trained, or the process has ended."""
    with open_store(open_workspace(root)) as store:

        def trained() -> int:
            return sum(store.experiment(experiment).folds_done for experiment, _ in _trials(store, number, name))

        before = trained()
        while process.poll() is None and trained() == before:
            time.sleep(0.02)


def _trials(store: Store, number: int, name: str) -> list[tuple[int, int]]:
    """Return (experiment, trial) of each trial of a study."""
    return [(e.number, e.tuned.trial) for e in store.trials(number) if e.tuned is not None and e.tuned.study == name]
