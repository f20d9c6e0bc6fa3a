"""A trial as an experiment: registering it, and the job that runs its fold."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ichx.errors import IchxError
from ichx.experiments.register import draft
from ichx.jobs import Job
from ichx.jobs.fold_job import fold_job
from ichx.recipe import digest
from ichx.recipe_text import from_toml
from ichx.store import TuningInfo
from ichx.training.run_options import RunOptions
from ichx.tuning.budget import Value, trial_recipe

if TYPE_CHECKING:
    from ichx.jobs.resources import Shares
    from ichx.store import Experiment, Store
    from ichx.workspace import Workspace


@dataclass(frozen=True)
class Budget:
    """What every trial of a study trains: one fold, with a share `subset` of the patients and `length` of the epochs.

    `options` are those of `ichx run`.
    """

    fold: int = 0
    subset: float = 1.0
    length: float = 1.0
    options: RunOptions = field(default_factory=RunOptions)

    def problems(self) -> list[str]:
        """Return what no trial could be run with."""
        shares = (("subset", self.subset), ("length", self.length))
        return [f"--{name} {share:g}: must be above 0 and at most 1" for name, share in shares if not 0 < share <= 1]


class UnfitError(IchxError):
    """Values that each could be trained with, but not together."""


def register_trial(
    store: "Store", parent: "Experiment", study: str, number: int, values: Mapping[str, Value], budget: Budget
) -> int:
    """Return the experiment of trial `number` of `study`: `parent` with `values`, on its data and folds; made once.

    One that was deleted or is in the trash is made again. Raises `UnfitError` for values that no training could use
    together, and `IchxError` where `parent` is gone.
    """
    store.experiment(parent.number)
    given = from_toml(parent.recipe)
    try:
        recipe = trial_recipe(given, values, budget.length)
    except IchxError as error:
        raise UnfitError(error.problem, error.remedy) from error
    tuned = TuningInfo(study, number, budget.fold, dict(values), budget.subset, budget.length)
    for known in store.trials(parent.number):
        # The study may have been interrupted before it could note this; another file's study may have had the name.
        if known.tuned == tuned and known.recipe_digest == digest(recipe) and known.trashed is None:
            return known.number
    name = f"{study.removeprefix(f'experiment-{parent.number}').lstrip('-') or 'tune'}-{number + 1}"
    made = replace(
        draft(recipe, store.version_by_id(parent.version_id), name=name, parent=parent.number, kind="trial"),
        fold_set_id=parent.fold_set_id,
        fold_digest=parent.fold_digest,
        selected=True,
        tuned=tuned,
    )
    return store.add_experiments([made])[0].number


def trial_job(workspace: "Workspace", experiment: int, budget: Budget, device: str, shares: "Shares") -> Job:
    """Return the job that runs the fold of a trial's experiment on `device`, with its share; run again, it goes on."""
    options = replace(budget.options, device=device)
    if options.workers is None:
        options = replace(options, workers=shares.workers)
    log = workspace.experiment_files(experiment).fold(budget.fold).log
    return fold_job(workspace, experiment, budget.fold, options, log, shares.environment)
