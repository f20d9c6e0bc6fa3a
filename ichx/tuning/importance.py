"""How much each searched value mattered for the score: Optuna's fANOVA over finished trials. Nothing is shown here."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import optuna

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

ENOUGH = 8
"""Finished trials without which nothing is said of what mattered: a guess would look like a finding."""

SEED = 0


def importances(done: "Sequence[FrozenTrial]") -> dict[str, float] | None:
    """Return the share of each searched value in what the score varied by, the largest first; together they are 1.

    It is the functional analysis of variance of a random forest that is fitted to the trials `done` with a fixed seed
    (Hutter et al. 2014, https://proceedings.mlr.press/v32/hutter14.html), a value alone, not together with others. The
    same trials give the same shares. None with fewer than `ENOUGH` trials that have all values, and where all scores or
    all values are equal.
    """
    names = {name for trial in done for name in trial.params}
    whole = [trial for trial in done if trial.params.keys() == names and np.isfinite(trial.values[0])]
    varied = [name for name in sorted(names) if len({str(trial.params[name]) for trial in whole}) > 1]
    if len(whole) < ENOUGH or not varied or len({trial.values[0] for trial in whole}) < 2:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        level = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            study = optuna.create_study(direction="minimize")
            study.add_trials(whole)  # those alone: the evaluator leaves out values that some finished trial lacks
            evaluator = optuna.importance.FanovaImportanceEvaluator(seed=SEED)
            found = optuna.importance.get_param_importances(study, evaluator=evaluator, params=varied)
        finally:
            optuna.logging.set_verbosity(level)
    shares = {name: float(found.get(name, 0.0)) for name in sorted(names)}
    return dict(sorted(shares.items(), key=lambda pair: -pair[1]))
