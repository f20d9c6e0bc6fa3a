"""Promotion of a trial to an experiment: the same values with all patients, full stages and every fold."""

import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ichx.errors import ConflictError, InvalidInputError, NotFoundError, NotReadyError
from ichx.experiments.register import draft
from ichx.recipe import digest
from ichx.recipe_text import from_toml
from ichx.store import Selection
from ichx.tuning.budget import trial_recipe
from ichx.tuning.trial_score import trial_score

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import Experiment


@dataclass(frozen=True)
class Promotion:
    """The experiment that a trial is promoted to."""

    experiment: "Experiment"
    created: bool
    """Whether it did not exist before."""


def promote(project: "Project", number: int, name: str | None = None) -> Promotion:
    """Register the recipe of a trial as an experiment. It starts from the same weights and is marked as selected.

    Args:
        project: The open project.
        number: Number of the trial's experiment.
        name: Name of the new experiment.

    Raises:
        InvalidInputError: The experiment is not a trial.
        ConflictError: The trial is the baseline, whose recipe is an experiment already.
        NotReadyError: The trial has no score.
        NotFoundError: The tuned experiment was deleted.
    """
    trial = project.store.experiment(number)
    tuned = trial.tuned
    if trial.kind != "trial" or tuned is None:
        raise InvalidInputError(
            f"Experiment {number} is not a trial.", "Run `ichx tune show EXPERIMENT` for the trials of an experiment."
        )
    if not tuned.values:
        raise ConflictError(
            f"Experiment {number} has the unchanged recipe of experiment {trial.parent}.",
            f"Run that one on all folds: `ichx run {trial.parent}`.",
        )
    score = trial_score(project, trial, tuned.fold)
    if score is None:
        raise NotReadyError(
            f"Experiment {number} is not trained to its end and has no score.",
            f"Run `ichx run {number} --fold {tuned.fold}` to resume it, or promote another trial.",
        )
    if trial.parent is None:
        raise NotFoundError(
            f"The experiment that trial {number} belongs to was deleted.",
            f"Register the trial's recipe: `ichx exp show {number} --toml > FILE`, `ichx exp new --from FILE`.",
        )
    parent = project.store.experiment(trial.parent)
    recipe = trial_recipe(from_toml(parent.recipe), tuned.values)
    for summary in project.store.experiments(Selection(parent=number), limit=None):
        known = project.store.experiment(summary.number)
        if known.tuned is not None and known.recipe_digest == digest(recipe):
            return Promotion(known, created=False)
    version = project.store.version_by_id(trial.version_id)
    experiment = replace(
        draft(recipe, version, name=name or f"{parent.name}-{trial.name}", parent=number, members=trial.members),
        fold_set_id=trial.fold_set_id,
        fold_digest=trial.fold_digest,
        selected=True,
        tuned=replace(tuned, subset=1.0, length=1.0, score=score),
    )
    promoted = project.store.add_experiments([experiment])[0]
    start = project.workspace.experiment_files(number).start
    if start.exists():
        target = project.workspace.experiment_files(promoted.number).start
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(start, target)
    return Promotion(promoted, created=True)
