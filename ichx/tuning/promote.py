"""From a trial to an experiment: the same values, but all patients, whole stages and every fold."""

import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ichx.errors import IchxError
from ichx.experiments.fold_status import fold_score
from ichx.experiments.register import draft
from ichx.recipe import digest
from ichx.recipe_text import from_toml
from ichx.store import Selection
from ichx.tuning.budget import trial_recipe

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import Experiment


@dataclass(frozen=True)
class Promoted:
    """The experiment that a trial was promoted to; not `created` where it had been before."""

    experiment: "Experiment"
    created: bool


def promote(project: "Project", number: int, name: str | None = None) -> Promoted:
    """Register the recipe that trial `number` tried as an experiment of its own, and return it; the trial stays.

    It starts from the same weights as the trial. Its score is marked as selected: the trial's fold chose it. Raises
    `IchxError` for what is no trial, for one without a score, for the recipe as it is, and where the tuned experiment
    is gone.
    """
    trial = project.store.experiment(number)
    tuned = trial.tuned
    if trial.kind != "trial" or tuned is None:
        raise IchxError(
            f"experiment {number} is no tuning trial", "`ichx tune show EXPERIMENT` lists the trials of one"
        )
    if not tuned.values:
        raise IchxError(
            f"experiment {number} tried experiment {trial.parent} as it is",
            f"run that on all folds: `ichx run {trial.parent}`",
        )
    score = fold_score(project.store, number, tuned.fold)
    if score is None:
        raise IchxError(
            f"experiment {number} has not been trained to its end, so that nothing is known of it",
            f"`ichx run {number} --fold {tuned.fold}` goes on with it; or promote another trial",
        )
    if trial.parent is None:
        raise IchxError(
            f"the experiment that trial {number} was tried for is gone, and its recipe with it",
            f"`ichx exp show {number} --toml > FILE` and `ichx exp new --from FILE` register the trial's own recipe",
        )
    parent = project.store.experiment(trial.parent)
    recipe = trial_recipe(from_toml(parent.recipe), tuned.values)
    for known in project.store.experiments(Selection(parent=number), limit=None):
        whole = project.store.experiment(known.number)
        if whole.tuned is not None and whole.recipe_digest == digest(recipe):
            return Promoted(whole, created=False)
    made = replace(
        draft(
            recipe,
            project.store.version_by_id(trial.version_id),
            name=name or f"{parent.name}-{trial.name}",
            parent=number,
        ),
        fold_set_id=trial.fold_set_id,
        fold_digest=trial.fold_digest,
        selected=True,
        tuned=replace(tuned, subset=1.0, length=1.0, score=score),
    )
    promoted = project.store.add_experiments([made])[0]
    start = project.workspace.experiment_files(number).start
    if start.exists():
        files = project.workspace.experiment_files(promoted.number)
        files.folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(start, files.start)
    return Promoted(promoted, created=True)
