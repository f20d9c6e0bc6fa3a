"""The default search space: the few values that matter for most recipes, around a recipe's values."""

from collections.abc import Iterator

from ichx.recipe import Recipe, settable
from ichx.tuning.joint_values import LR_FACTOR, LR_RATIO, STRENGTH, searchable
from ichx.tuning.space import Space, parse_space

FACTORS = (0.2, 5.0)
"""Bounds of the factor of all learning rates."""
RATIOS = (0.4, 2.5)
"""Bounds of the ratio of the learning rates of two successive stages, relative to the recipe's."""
STRENGTHS = (0.25, 2.0)
WEIGHT_DECAYS = (1e-5, 0.1)
DROP_PATHS = (0.05, 0.4)
DROPOUTS = (0.1, 0.5)
SERIES_DROPS = (0.05, 0.3)
"""Bounds of the share of slices that are left out."""

AVERAGES = (0.0, 0.99, 0.999, 0.9999)
"""Decays of the moving average of the weights; 0 is no average."""


def default_space(recipe: Recipe) -> Space:
    """Return the default search space of a recipe, which contains the recipe's own values."""
    return parse_space([f"{name}={text}" for name, text in _searches(recipe)], recipe)


def _searches(recipe: Recipe) -> Iterator[tuple[str, str]]:
    own, joint = settable(recipe), searchable(recipe)
    highest = 10.0 / max(stage.lr for stage in recipe.stage)  # a rate is at most 10
    yield LR_FACTOR, f"log:{FACTORS[0]}..{min(FACTORS[1], max(highest, 1.0))}"
    if LR_RATIO in joint:
        highest = min((10.0 / stage.lr) ** (1 / place) for place, stage in enumerate(recipe.stage) if place)
        yield LR_RATIO, f"log:{RATIOS[0]}..{min(RATIOS[1], max(highest, 1.0))}"
    yield "optimizer.weight_decay", _switch(WEIGHT_DECAYS, recipe.optimizer.weight_decay, log=True)
    if recipe.sequence is None:
        if recipe.augmentation.probability > 0:
            yield STRENGTH, f"off,{STRENGTHS[0]}..{STRENGTHS[1]}"
        # Not every backbone has stochastic depth.
        if recipe.model.drop_path > 0:
            yield "model.drop_path", _switch(DROP_PATHS, recipe.model.drop_path)
        else:
            yield "model.dropout", _switch(DROPOUTS, recipe.model.dropout)
    else:
        yield "sequence.drop", _switch(SERIES_DROPS, recipe.sequence.drop)
        yield "sequence.dropout", _switch(DROPOUTS, recipe.sequence.dropout)
    averaged = recipe.swa.epochs > 0 or recipe.prediction.average_last > 1
    if not averaged and (recipe.sequence is None or recipe.sequence.average_last == 1):
        yield "ema.decay", ",".join(map(repr, sorted({*AVERAGES, own["ema.decay"]})))
    batches = (max(recipe.batch // 2, 1), recipe.batch, min(recipe.batch * 2, 65536))
    yield "batch", ",".join(map(str, dict.fromkeys(batches)))


def _switch(bounds: tuple[float, float], own: float, *, log: bool = False) -> str:
    """Return the search of 0 or a value within `bounds`, which are extended to the recipe's `own` value."""
    low, high = (min(bounds[0], own), max(bounds[1], own)) if own > 0 else bounds
    return f"off,{'log:' if log else ''}{low!r}..{high!r}"
