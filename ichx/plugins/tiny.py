"""Tiny models, under 1 M parameters, that train on a CPU in seconds: for the demo, the tests and a first look.

They start from random weights, so all three stages have learning rates to match.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from ichx.plugins.contract import NetworkCost, Plugin
from ichx.recipe import AugmentationRecipe, InputRecipe, ModelRecipe, Recipe, StageRecipe

if TYPE_CHECKING:
    from torch import nn

TINY_STAGES = (
    StageRecipe(name="balanced", sampling="fixed", epochs=1, lr=6e-3),
    StageRecipe(name="rebalanced", sampling="redrawn", epochs=1, lr=6e-3),
    StageRecipe(name="full", sampling="all", epochs=3, lr=6e-3, scheduler="cosine"),
)

# No file's own window among them: it differs from scanner to scanner, which a few hundred patients do not teach.
BRAIN_SUBDURAL_BONE = ((40.0, 80.0), (80.0, 200.0), (600.0, 2800.0))
BRAIN_BLOOD_SUBDURAL = ((40.0, 80.0), (60.0, 40.0), (80.0, 200.0))


# The crop fills the frame with the head: of 64 px, none is spent on the air around it.
TINY_INPUT = InputRecipe(size=88, crop=64, windows=BRAIN_SUBDURAL_BONE)
# Distortions meant for 256 px and more blur what little 64 px show.
TINY_AUGMENTATION = AugmentationRecipe(probability=0.5, grid_limit=0.0, anchors=0.0, rotate=10.0)

FINE_BACKBONES = ("fine_resnet8", "fine_resnet8_thin")
"""The networks of `ichx.plugins.fine_resnet`."""


def build_fine(recipe: Recipe, pretrained: bool) -> "nn.Module":
    """Return the network of `ichx.plugins.fine_resnet` that `recipe` names."""
    from ichx.plugins.fine_resnet import build

    return build(recipe, pretrained)


def _tiny(
    name: str,
    backbone: str,
    summary: str,
    kind: str,
    windows: tuple[tuple[float, float], ...] = BRAIN_SUBDURAL_BONE,
    *,
    neighbours: int = 0,
    cost: NetworkCost,
) -> Plugin:
    recipe = Recipe(
        plugin=name,
        model=ModelRecipe(backbone=backbone, pretrained=False),
        input=replace(
            TINY_INPUT,
            window_kind=kind,
            windows=windows,
            centre="series" if neighbours else "slice",
            neighbours=neighbours,
        ),
        stage=TINY_STAGES,
        # Random weights need many steps more than they need smooth ones.
        batch=16,
        augmentation=TINY_AUGMENTATION,
    )
    plugin = Plugin(name=name, summary=summary, recipe=recipe, cost=cost, weights_licence="random weights")
    return replace(plugin, build=build_fine, backbones=FINE_BACKBONES) if backbone in FINE_BACKBONES else plugin


PLUGINS = (
    _tiny(
        "tiny_fine",
        "fine_resnet8",
        "fine grid; brain, subdural, bone; sigmoid",
        "sigmoid",
        cost=NetworkCost(0.12, 0.01),
    ),
    _tiny(
        "tiny_fine_thin",
        "fine_resnet8_thin",
        "fine grid, fewer channels; brain, blood, subdural; sigmoid",
        "sigmoid",
        BRAIN_BLOOD_SUBDURAL,
        cost=NetworkCost(0.07, 0.01),
    ),
    _tiny(
        "tiny_fine_25d",
        "fine_resnet8",
        "fine grid, on a slice and its two neighbours; brain, subdural, bone; sigmoid",
        "sigmoid",
        neighbours=1,
        cost=NetworkCost(0.12, 0.01),
    ),
    _tiny("tiny_resnet", "test_resnet.r160_in1k", "residual; linear windows", "linear", cost=NetworkCost(0.37, 0.02)),
    _tiny(
        "tiny_byobnet",
        "test_byobnet.r160_in1k",
        "squeeze-and-excitation; linear windows",
        "linear",
        cost=NetworkCost(0.2, 0.0),
    ),
    _tiny(
        "tiny_efficientnet",
        "test_efficientnet.r160_in1k",
        "inverted residual; sigmoid windows",
        "sigmoid",
        cost=NetworkCost(0.1, 0.01),
    ),
)
