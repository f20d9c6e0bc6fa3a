"""A trial as an experiment: registering it, and the job that runs its fold."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ichx.engine import Job
from ichx.recipe import digest
from ichx.recipe_text import apply_settings, from_toml
from ichx.store import Selection
from ichx.training.fold_job import fold_job
from ichx.training.options import RunOptions
from ichx.training.register import draft
from ichx.tuning.space import Value, settings

if TYPE_CHECKING:
    from ichx.store import Experiment, Store
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
    for known in store.experiments(Selection(kind="trial", parent=parent.number), limit=None):
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
    log = workspace.experiment_dir(experiment) / "trial.log"
    options = RunOptions(device=choices.device, pretrained=choices.pretrained)
    return fold_job(workspace, experiment, choices.fold, options, log)
