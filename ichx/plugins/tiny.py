"""Tiny models, under 1 M parameters, that train on a CPU in seconds: for the demo, the tests and a first look.

They start from random weights, so all three stages have learning rates to match.
"""

from ichx.plugins.contract import Plugin
from ichx.recipe import AugmentationRecipe, InputRecipe, ModelRecipe, Recipe, StageRecipe

TINY_STAGES = (
    StageRecipe(name="balanced", sampling="fixed", epochs=1, lr=6e-3),
    StageRecipe(name="rebalanced", sampling="redrawn", epochs=1, lr=6e-3),
    StageRecipe(name="full", sampling="all", epochs=3, lr=6e-3, milestones=(1, 2), gamma=0.3),
)


def _tiny(name: str, backbone: str, summary: str, kind: str) -> Plugin:
    recipe = Recipe(
        plugin=name,
        model=ModelRecipe(backbone=backbone, pretrained=False),
        # The crop fills the frame with the head: of 64 px, none is spent on the air around it.
        input=InputRecipe(size=88, crop=64, window_kind=kind),
        stage=TINY_STAGES,
        batch=32,
        # Distortions meant for 256 px and more blur what little 64 px show.
        augmentation=AugmentationRecipe(probability=0.5, grid_limit=0.0, anchors=0.0, rotate=10.0),
    )
    return Plugin(name=name, summary=summary, recipe=recipe, weights_licence="random weights")


PLUGINS = (
    _tiny("tiny_resnet", "test_resnet.r160_in1k", "0.4 M parameters, residual; linear windows", "linear"),
    _tiny("tiny_resnet_sigmoid", "test_resnet.r160_in1k", "0.4 M, residual; sigmoid windows", "sigmoid"),
    _tiny("tiny_byobnet", "test_byobnet.r160_in1k", "0.2 M, squeeze-and-excitation; linear windows", "linear"),
    _tiny("tiny_efficientnet", "test_efficientnet.r160_in1k", "0.1 M, inverted residual; sigmoid windows", "sigmoid"),
)
