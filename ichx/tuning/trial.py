"""Trials as experiments: the budget of a trial, and its registration in the store."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ichx.errors import IchxError, InvalidInputError
from ichx.evaluation.choices import CALIBRATED
from ichx.experiments.register import draft
from ichx.recipe import digest
from ichx.recipe_text import from_toml
from ichx.store import TuningInfo
from ichx.training.run_options import RunOptions
from ichx.tuning.budget import Value, trial_recipe

if TYPE_CHECKING:
    from ichx.store import Experiment, Store


@dataclass(frozen=True)
class Budget:
    """What every trial of a study trains."""

    fold: int = 0
    subset: float = 1.0
    """Share of the patients."""
    length: float = 1.0
    """Share of the epochs of each stage."""
    options: RunOptions = field(default_factory=RunOptions)

    def problems(self) -> list[str]:
        """Return what is invalid."""
        shares = (("subset", self.subset), ("length", self.length))
        return [
            f"Invalid value for --{name}: {share:g}. It must be above 0 and at most 1."
            for name, share in shares
            if not 0 < share <= 1
        ]


class IncompatibleValuesError(InvalidInputError):
    """Searched values that are valid separately but not together."""


def register_trial(
    store: "Store", parent: "Experiment", study: str, number: int, values: Mapping[str, Value], budget: Budget
) -> int:
    """Return the experiment of a trial, which is registered if it does not exist or is in the trash.

    Args:
        store: The store.
        parent: The tuned experiment, whose dataset version and folds the trial uses.
        study: Full name of the study.
        number: Number of the trial, from 0.
        values: Searched values by name.
        budget: What the trial trains.

    Raises:
        IncompatibleValuesError: The recipe cannot have these values together.
        NotFoundError: `parent` was deleted.
    """
    store.experiment(parent.number)
    try:
        recipe = trial_recipe(from_toml(parent.recipe), values, budget.length)
    except IchxError as error:
        raise IncompatibleValuesError(error.problem, error.remedy) from error
    tuned = TuningInfo(study, number, budget.fold, dict(values), budget.subset, budget.length, objective=CALIBRATED)
    for known in store.trials(parent.number):
        # A process may have ended between the registration and Optuna's record of it. An earlier study file may have
        # had a study of the same name.
        if known.tuned == tuned and known.recipe_digest == digest(recipe) and known.trashed is None:
            return known.number
    name = f"{study.removeprefix(f'experiment-{parent.number}').lstrip('-') or 'tune'}-{number + 1}"
    version = store.version_by_id(parent.version_id)
    trial = replace(
        draft(recipe, version, name=name, parent=parent.number, members=parent.members),
        kind="trial",
        fold_set_id=parent.fold_set_id,
        fold_digest=parent.fold_digest,
        selected=True,
        tuned=tuned,
    )
    return store.add_experiments([trial])[0].number
