"""Samplers with addressed draws: the values of a trial depend on seed and trial number, not on earlier draws."""

import itertools
import json
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler

from ichx.tuning.budget import Value

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

Sampler = Literal["tpe", "gp", "random"]
"""Tree-structured Parzen estimators, a Gaussian process, and random search."""


def create_sampler(name: Sampler, seed: int) -> BaseSampler:
    """Return the sampler `name`; the same finished trials and the same `seed` give the same values."""
    return _AddressedSampler(name, seed)


class _AddressedSampler(BaseSampler):
    """Draws each value with a separate sampler that is seeded by study seed, trial number and name of the value.

    So an interrupted study continues with the values that it would have had without the interruption.
    """

    def __init__(self, name: Sampler, seed: int) -> None:
        self._name, self._seed = name, seed

    def infer_relative_search_space(self, study: "Study", trial: "FrozenTrial") -> "dict[str, BaseDistribution]":
        return self._sampler(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: "Study", trial: "FrozenTrial", search_space: "dict[str, BaseDistribution]"
    ) -> dict[str, Any]:
        # A resumed trial is recorded as running, and the Gaussian process would avoid its values.
        return _recorded(trial, self._name) or self._sampler(trial).sample_relative(study, trial, search_space)

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
        return TPESampler(seed=state, constant_liar=True)  # trials that run at the same time avoid each other


def _recorded(trial: "FrozenTrial", sampler: str) -> dict[str, Any]:
    """Return the values that Optuna's `sampler` has drawn together for this trial before; empty if it has not."""
    parts: Iterator[Any] = (trial.system_attrs.get(f"{sampler}:relative_params:{i}") for i in itertools.count())
    try:
        drawn: dict[str, Any] = json.loads("".join(itertools.takewhile(bool, parts)))
    except json.JSONDecodeError:  # there are none, or the process ended while it recorded them
        return {}
    return drawn
