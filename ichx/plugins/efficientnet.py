"""EfficientNets: models 1 and 4 of the reference solution."""

from dataclasses import replace

from ichx.plugins.contract import NetworkCost, Plugin, reference_recipe
from ichx.recipe import Recipe


def _recipe(name: str, backbone: str) -> Recipe:
    """Return a recipe with the regularization that the reference's EfficientNets are built with."""
    recipe = reference_recipe(name, backbone, batch=128)
    return replace(recipe, model=replace(recipe.model, dropout=0.3, drop_path=0.2, bn_momentum=0.01))


PLUGINS = (
    Plugin(
        name="efficientnet_b3",
        summary="EfficientNet-B3, AutoAugment weights; the reference's model 1",
        recipe=_recipe("efficientnet_b3", "tf_efficientnet_b3.aa_in1k"),
        cost=NetworkCost(10.71, 0.96),
        weights_licence="Apache-2.0",
    ),
    Plugin(
        name="efficientnet_b2",
        summary="EfficientNet-B2, AutoAugment weights; the reference's model 4",
        recipe=_recipe("efficientnet_b2", "tf_efficientnet_b2.aa_in1k"),
        cost=NetworkCost(7.71, 0.66),
        weights_licence="Apache-2.0",
    ),
)
