"""Curves of an experiment over its epochs, for drawing: positions on the axis, stages, thinning."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

from ichx.recipe_text import from_toml

if TYPE_CHECKING:
    from ichx.store import EpochRecord, Experiment

MAX_POINTS: Final = 2000
"""Maximum number of points of a curve in a browser."""


@dataclass(frozen=True)
class Stage:
    """A stage on the axis of epochs, which counts through all stages."""

    name: str
    first: int
    """Its first epoch, from 1."""
    last: int


def planned_stages(experiment: "Experiment") -> tuple[Stage, ...]:
    """Return the stages of the recipe, also those that have not begun; none without a recipe."""
    if experiment.external:
        return ()
    recipe = from_toml(experiment.recipe, source=f"the recipe of experiment {experiment.number}")
    ends = accumulate(stage.epochs for stage in recipe.stage)
    return tuple(Stage(stage.name, end - stage.epochs + 1, end) for stage, end in zip(recipe.stage, ends, strict=True))


def position(stages: Sequence[Stage], record: "EpochRecord") -> int:
    """Return the position of an epoch on the axis; a stage that patience ended early leaves a gap."""
    if record.stage_index < len(stages):
        return stages[record.stage_index].first - 1 + record.epoch
    return (stages[-1].last if stages else 0) + record.epoch


def curves(stages: Sequence[Stage], records: "Sequence[EpochRecord]") -> dict[str, list[list[Any]]]:
    """Return `[positions, values]` by metric, with at most `MAX_POINTS` points; None for values that are not finite."""
    found: dict[str, tuple[list[int], list[float]]] = {}
    for record in records:
        at = position(stages, record)
        for name, value in record.values.items():
            xs, ys = found.setdefault(name, ([], []))
            xs.append(at)
            ys.append(value)
    return {name: _thinned(xs, ys) for name, (xs, ys) in found.items()}


def _thinned(xs: Sequence[int], ys: Sequence[float]) -> list[list[Any]]:
    index = extremes(ys)
    return [[xs[i] for i in index], [ys[i] if math.isfinite(ys[i]) else None for i in index]]


def extremes(values: Sequence[float], limit: int = MAX_POINTS) -> list[int]:
    """Return the indices of at most `limit` values: the ends, and the smallest and largest value of each bucket.

    Args:
        values: The values; those that are not finite are drawn as gaps, where a bucket has no others.
        limit: Maximum number of indices, at least 4.
    """
    inner = len(values) - 2
    if inner + 2 <= limit:
        return list(range(len(values)))
    buckets = (limit - 2) // 2
    found = [0]
    for bucket in range(buckets):
        start, end = 1 + bucket * inner // buckets, 1 + (bucket + 1) * inner // buckets
        finite = [i for i in range(start, end) if math.isfinite(values[i])] or [start]
        found += sorted({min(finite, key=values.__getitem__), max(finite, key=values.__getitem__)})
    return [*found, len(values) - 1]
