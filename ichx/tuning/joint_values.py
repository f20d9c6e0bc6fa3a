"""Joint values: searched values that change several values of a recipe together, e.g. all learning rates."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from ichx.recipe import AugmentationRecipe, Recipe, has_part, settable

LR_FACTOR: Final = "lr.factor"
"""Multiplies the learning rate of every stage."""
LR_RATIO: Final = "lr.ratio"
"""Multiplies the learning rate of the second stage, once more that of the third, and so on."""
STRENGTH: Final = "augmentation.strength"
"""Multiplies the size of every transform; 0 turns augmentation of samples off."""

JOINT: Final = (LR_FACTOR, LR_RATIO, STRENGTH)
"""All joint values; 1 is the recipe as it is."""

_SHARES: Final = ("shift", "scale", "grid_limit", "window_scale", "crop_area", "erase")
"""Sizes of transforms as shares, which are below 1."""
_SIZES: Final = (*_SHARES, "rotate", "anchors", "elastic_alpha", "window_shift", "noise", "gamma")
_BOUNDS: Final = {**dict.fromkeys(_SHARES, 0.95), "noise": 1000.0, "gamma": 4.0}
"""Largest valid sizes."""


def searchable(recipe: Recipe) -> dict[str, Any]:
    """Return every value of `recipe` that a study can search, by name, with its joint values."""
    joint: dict[str, Any] = {LR_FACTOR: 1.0}
    if len(recipe.stage) > 1:
        joint[LR_RATIO] = 1.0
    if has_part(recipe, "augmentation"):
        joint[STRENGTH] = 1.0
    return settable(recipe) | joint


def apply_joint(recipe: Recipe, values: Mapping[str, float]) -> Recipe:
    """Return `recipe` changed by joint values, by name."""
    factor, ratio = values.get(LR_FACTOR, 1.0), values.get(LR_RATIO, 1.0)
    stages = tuple(replace(s, lr=s.lr * factor * ratio**place) for place, s in enumerate(recipe.stage))
    changed = replace(recipe, stage=stages) if (factor, ratio) != (1.0, 1.0) else recipe
    strength = values.get(STRENGTH, 1.0)
    return changed if strength == 1.0 else replace(changed, augmentation=_scaled(recipe.augmentation, strength))


def measure_joint(recipe: Recipe, own: Recipe) -> dict[str, float]:
    """Return the joint values by which `recipe` differs from `own`, as far as it does in their way."""
    found: dict[str, float] = {}
    if [s.name for s in recipe.stage] == [s.name for s in own.stage]:
        rates = [theirs.lr / ours.lr for theirs, ours in zip(recipe.stage, own.stage, strict=True)]
        found[LR_FACTOR] = rates[0]
        if len(rates) > 1:
            found[LR_RATIO] = float((rates[-1] / rates[0]) ** (1 / (len(rates) - 1)))
    if has_part(own, "augmentation") and has_part(recipe, "augmentation"):
        if recipe.augmentation.probability == 0:
            found[STRENGTH] = 0.0
        else:
            pairs = [(getattr(recipe.augmentation, name), getattr(own.augmentation, name)) for name in _SIZES]
            found[STRENGTH] = next((theirs / ours for theirs, ours in pairs if ours > 0), 1.0)
    return found


def _scaled(augmentation: AugmentationRecipe, strength: float) -> AugmentationRecipe:
    if strength == 0:
        return replace(augmentation, probability=0.0, window_shift=0.0, window_scale=0.0)  # windows vary independently
    sizes = {name: getattr(augmentation, name) * strength for name in _SIZES}
    return replace(augmentation, **sizes | {name: min(sizes[name], bound) for name, bound in _BOUNDS.items()})
