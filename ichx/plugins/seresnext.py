"""Squeeze-and-excitation ResNeXt: models 3 and 5 of the reference solution."""

from ichx.plugins.contract import REFERENCE_STAGES, NetworkCost, Plugin, reference_recipe
from ichx.recipe import StageRecipe

_BALANCED = StageRecipe(name="balanced", sampling="fixed", epochs=2, lr=8e-4, milestones=(1,), gamma=0.5)

PLUGINS = (
    Plugin(
        name="seresnext50",
        summary="SE-ResNeXt-50 32x4d; the reference's model 5",
        recipe=reference_recipe(
            "seresnext50",
            "legacy_seresnext50_32x4d.in1k",
            batch=128,
            stages=(_BALANCED, *REFERENCE_STAGES[1:]),
        ),
        cost=NetworkCost(25.52, 4.23),
        weights_licence="Apache-2.0",
    ),
)
