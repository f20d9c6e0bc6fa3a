"""A plugin of ichx: three convolutions, to show what a package of models is made of.

Only the declaration stands here, so that `ichx plugin list` need not import torch; the network is in `network`.
"""

from typing import TYPE_CHECKING

from ichx.plugins import Plugin
from ichx.recipe import InputRecipe, ModelRecipe, Recipe, StageRecipe

if TYPE_CHECKING:
    from torch import nn


def build(recipe: Recipe, pretrained: bool) -> "nn.Module":
    """Return the network of `recipe`; there are no pretrained weights of it."""
    from ichx.errors import IchxError
    from shallow_ct.network import Shallow

    if pretrained:
        raise IchxError("shallow_ct has no pretrained weights", "leave out --pretrained")
    return Shallow(recipe.input.channels, recipe.model.dropout)


def build_augmentation(recipe: Recipe) -> object:
    """Return the augmentation of `recipe`; albumentations is imported in training only."""
    from shallow_ct.augmentation import pipeline

    return pipeline()


PLUGINS = (
    Plugin(
        name="shallow_ct",
        summary="three convolutions, from another package",
        recipe=Recipe(
            plugin="shallow_ct",
            model=ModelRecipe(backbone="shallow", pretrained=False),
            input=InputRecipe(size=64, windows=((40.0, 80.0), (80.0, 200.0), (600.0, 2800.0))),
            stage=(StageRecipe(name="full", sampling="all", epochs=1, lr=3e-3),),
            batch=16,
        ),
        weights_licence="random weights",
        build=build,
        build_augmentation=build_augmentation,
    ),
)
