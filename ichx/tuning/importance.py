"""Importance of each searched value for the score: Optuna's fANOVA over done trials."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from ichx.tuning.connection import quiet_optuna
from ichx.tuning.space import OFF, SWITCH

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
    done = _with_numbers(done)
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


def _with_numbers(done: "Sequence[FrozenTrial]") -> "Sequence[FrozenTrial]":
    """Return the trials with one number for each value that may be off, which lies below all others if it is off.

    Optuna records whether the value is on, and the number only if it is: no trial would have all values.
    """
    switched = {name.removesuffix(SWITCH) for trial in done for name in trial.params if name.endswith(SWITCH)}
    searched = {name: d for trial in done for name, d in trial.distributions.items() if name in switched}
    return (
        done if not switched else [_numbered(trial, {name: searched.get(name) for name in switched}) for trial in done]
    )


def _numbered(trial: "FrozenTrial", searched: "Mapping[str, Any]") -> "FrozenTrial":
    """Return a trial with one number for each of the values `searched` by their distributions."""
    params = {name: value for name, value in trial.params.items() if not name.endswith(SWITCH)}
    distributions = {name: trial.distributions[name] for name in params}
    for name, numbers in searched.items():
        if f"{name}{SWITCH}" not in trial.params:
            continue
        low, high, log = (0.0, 1.0, False) if numbers is None else (numbers.low, numbers.high, numbers.log)
        scale = math.log if log else float
        low, high = scale(low), scale(high)
        off = trial.params[f"{name}{SWITCH}"] == OFF
        params[name] = low - 0.25 * (high - low) if off else scale(trial.params[name])
        distributions[name] = FloatDistribution(low - 0.25 * (high - low), high)
    return create_trial(state=TrialState.COMPLETE, value=trial.values[0], params=params, distributions=distributions)
