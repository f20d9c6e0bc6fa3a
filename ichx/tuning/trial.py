"""A trial as an experiment: registering it, the job that runs its fold, and what came of that."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ichx.engine import Job
from ichx.recipe import digest
from ichx.recipe_text import apply_settings, from_toml
from ichx.training.register import draft
from ichx.tuning.space import Value, settings

if TYPE_CHECKING:
    from ichx.store import Experiment, Run, Store
    from ichx.workspace import Workspace


@dataclass(frozen=True)
class RunChoices:
    """What `ichx run` is told for every trial: the fold, the device, and whether to start from the hub's weights."""

    fold: int
    device: str = "auto"
    pretrained: bool | None = None


def register_trial(store: "Store", parent: "Experiment", fold: int, number: int, values: Mapping[str, Value]) -> int:
    """Return the experiment of trial `number`: `parent` with `values`, on the same data and folds; made at most once.

    Raises `IchxError` for values that no training could use together.
    """
    recipe = apply_settings(from_toml(parent.recipe), settings(values))
    name = f"{parent.name}-fold{fold}-trial{number}"
    for known in store.experiments(limit=None, kind="trial", parent=parent.number):
        if known.name == name and store.experiment(known.number).recipe_digest == digest(recipe):
            return known.number  # the study was interrupted before it could note this
    made = replace(
        draft(recipe, store.version_by_id(parent.version_id), name=name, parent=parent.number, kind="trial"),
        fold_set_id=parent.fold_set_id,
        fold_digest=parent.fold_digest,
        selected=True,
    )
    return store.add_experiments([made])[0].number


def trial_job(workspace: "Workspace", experiment: int, choices: RunChoices) -> Job:
    """Return the job that runs the fold of a trial's experiment; run again, it goes on."""
    argv = [sys.executable, "-m", "ichx", "run", str(experiment), "--fold", str(choices.fold)]
    argv += ["--device", choices.device]
    if choices.pretrained is not None:
        argv.append("--pretrained" if choices.pretrained else "--no-pretrained")
    log = workspace.experiment_dir(experiment) / "trial.log"
    return Job(tuple(argv), log, f"experiment {experiment}", {"ICHX_WORKSPACE": str(workspace.root)})


def fold_score(store: "Store", experiment: int, fold: int) -> float | None:
    """Return the experiment's OOF score on the fold, without test-time augmentation; None before it is predicted."""
    scores = [p.score for p in store.predictions(experiment, role="oof", view="identity") if p.fold == fold]
    return scores[0] if scores else None


def live_run(store: "Store", experiment: int, fold: int) -> "Run | None":
    """Return the run that holds the fold at this moment, if any does."""
    return next((run for run in store.runs(experiment, fold) if run.state == "running"), None)


def last_words(log: Path, start: int) -> str:
    """Return the error that a log tells from byte `start` on: the line of an `error:`, or the last line."""
    with log.open("rb") as handle:
        handle.seek(start)
        lines = [line.strip() for line in handle.read().decode(errors="replace").splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or ["it said nothing"])[-1]
