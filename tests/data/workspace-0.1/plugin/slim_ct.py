"""A third-party plugin for version 0.1: 1,800 parameters, so that the fixture stays small."""

from typing import TYPE_CHECKING

from ichx.plugins import Plugin
from ichx.recipe import InputRecipe, ModelRecipe, Recipe, StageRecipe

if TYPE_CHECKING:
    from torch import nn


def build(recipe: Recipe, pretrained: bool) -> "nn.Module":
    """Return three convolutions and a linear layer."""
    from slim_ct_network import Slim

    return Slim(recipe.input.channels, recipe.model.dropout)


PLUGINS = (
    Plugin(
        name="slim_ct",
        summary="three narrow convolutions",
        recipe=Recipe(
            plugin="slim_ct",
            model=ModelRecipe(backbone="slim", pretrained=False),
            input=InputRecipe(size=24, windows=((40.0, 80.0), (80.0, 200.0), (600.0, 2800.0))),
            stage=(StageRecipe(name="full", sampling="all", epochs=1, lr=3e-3),),
            batch=8,
        ),
        weights_licence="random weights",
        build=build,
    ),
)
