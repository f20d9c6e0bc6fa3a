"""How much scores of a recipe differ between seeds: smaller differences between two experiments can be noise."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from ichx.recipe import digest
from ichx.recipe_text import from_toml
from ichx.store import Selection

if TYPE_CHECKING:
    from ichx.store import Experiment, Store

COVERAGE: Final = 1.96
"""Standard deviations within which 95 % of normal draws are."""


@dataclass(frozen=True)
class SeedSpread:
    """Scores of experiments that differ only in their seed."""

    groups: tuple[tuple[int, ...], ...]
    """Numbers of the experiments of each recipe."""
    deviation: float
    """Standard deviation of the OOF score within a recipe, pooled over the recipes."""

    @property
    def noise(self) -> float:
        """Difference of two experiments that seeds alone exceed in 5 % of cases, if scores are normal."""
        return COVERAGE * math.sqrt(2) * self.deviation


def seed_spread(store: "Store", experiments: "Sequence[Experiment]") -> SeedSpread | None:
    """Return the spread of the recipes of `experiments` over their seeds, from all finished experiments of the store.

    None if no recipe among them has been trained completely with two seeds on the same data and folds.
    """
    groups: dict[tuple[object, ...], dict[int, float]] = {}
    for experiment in experiments:
        identity = _without_seed(store, experiment)
        if identity in groups:
            continue
        groups[identity] = scores = {}
        alike = Selection(dataset=experiment.dataset, kind=None)
        for summary in store.experiments(alike, limit=None):
            finished = summary.score is not None and summary.folds_done == summary.folds
            if finished and (summary.plugin, summary.size) == (experiment.plugin, experiment.size):
                other = store.experiment(summary.number)
                if other.score is not None and _without_seed(store, other) == identity:
                    scores[other.number] = other.score
    several = [scores for scores in groups.values() if len(scores) > 1]
    if not several:
        return None
    squares = sum(statistics.variance(scores.values()) * (len(scores) - 1) for scores in several)
    deviation = math.sqrt(squares / sum(len(scores) - 1 for scores in several))
    return SeedSpread(tuple(tuple(sorted(scores)) for scores in several), deviation)


def _without_seed(store: "Store", experiment: "Experiment") -> tuple[object, ...]:
    recipe = experiment.recipe_digest if experiment.external else digest(replace(from_toml(experiment.recipe), seed=0))
    pins = (experiment.label_digest, experiment.fold_digest, experiment.subset, experiment.members)
    return recipe, *pins, store.version_by_id(experiment.version_id).part_shares
