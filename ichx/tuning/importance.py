"""Importance of each searched value for the score: Optuna's fANOVA over done trials."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import optuna

from ichx.tuning.connection import quiet_optuna

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

MIN_TRIALS = 8
"""Number of done trials that is needed: an importance from fewer would be a guess."""

SEED = 0


def importances(done: "Sequence[FrozenTrial]") -> dict[str, float] | None:
    """Return the share of the score's variance that each searched value explains, largest first; the sum is 1.

    This is the functional analysis of variance of a random forest with a fixed seed (Hutter et al. 2014,
    https://proceedings.mlr.press/v32/hutter14.html), main effects only. The same trials give the same shares.

    Args:
        done: Done trials.

    Returns:
        None for fewer than `MIN_TRIALS` trials with all values, and if all scores or all values are equal.
    """
    names = {name for trial in done for name in trial.params}
    complete = [trial for trial in done if trial.params.keys() == names and np.isfinite(trial.values[0])]
    varied = [name for name in sorted(names) if len({str(trial.params[name]) for trial in complete}) > 1]
    if len(complete) < MIN_TRIALS or not varied or len({trial.values[0] for trial in complete}) < 2:
        return None
    with quiet_optuna():
        study = optuna.create_study(direction="minimize")
        study.add_trials(complete)  # no others: the evaluator drops values that any done trial lacks
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=SEED)
        found = optuna.importance.get_param_importances(study, evaluator=evaluator, params=varied)
    shares = {name: float(found.get(name, 0.0)) for name in sorted(names)}
    return dict(sorted(shares.items(), key=lambda pair: -pair[1]))
