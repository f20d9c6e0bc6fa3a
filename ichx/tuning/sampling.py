"""Samplers of a study, whose draws are addressed: what a trial gets does not depend on what was drawn before it."""

import itertools
import json
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler

from ichx.tuning.budget import Value

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

SAMPLERS = ("tpe", "gp", "random")
"""Tree-structured Parzen estimators (the default), a Gaussian process, and chance."""


def make_sampler(name: str, seed: int) -> BaseSampler:
    """Return the sampler `name` of `SAMPLERS`; the same trials and the same `seed` give the same values."""
    return _Addressed(name, seed)


class _Addressed(BaseSampler):
    """Draws a value by seed, number of the trial and name, and by the trials that are finished.

    So a study that was ended while a trial got its values goes on as if it had not been. Each draw has a sampler of its
    own, for Optuna's draw from streams.
    """

    def __init__(self, name: str, seed: int) -> None:
        self._name, self._seed = name, seed

    def infer_relative_search_space(self, study: "Study", trial: "FrozenTrial") -> "dict[str, BaseDistribution]":
        return self._sampler(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: "Study", trial: "FrozenTrial", search_space: "dict[str, BaseDistribution]"
    ) -> dict[str, Any]:
        # A trial that goes on has been noted as one that runs, from which the Gaussian process would keep away.
        return _noted(trial, self._name) or self._sampler(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: "Study", trial: "FrozenTrial", param_name: str, param_distribution: "BaseDistribution"
    ) -> Value:
        sampler = self._sampler(trial, param_name)
        drawn: Value = sampler.sample_independent(study, trial, param_name, param_distribution)
        return drawn

    def _sampler(self, trial: "FrozenTrial", value: str = "") -> BaseSampler:
        address = (self._seed, trial.number, zlib.crc32(value.encode()))
        state = int(np.random.SeedSequence(address).generate_state(1)[0])
        if self._name == "random":
            return RandomSampler(seed=state)
        if self._name == "gp":
            return GPSampler(seed=state)
        return TPESampler(seed=state, constant_liar=True)  # side by side, trials keep away from each other


def _noted(trial: "FrozenTrial", sampler: str) -> dict[str, Any]:
    """Return the values that Optuna's `sampler` has drawn together for a trial before; nothing where it has not."""
    parts: Iterator[Any] = (trial.system_attrs.get(f"{sampler}:relative_params:{i}") for i in itertools.count())
    try:
        drawn: dict[str, Any] = json.loads("".join(itertools.takewhile(bool, parts)))
    except json.JSONDecodeError:  # there is none, or it was ended while it noted them
        return {}
    return drawn
