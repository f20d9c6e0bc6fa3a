"""U-Nets: classifiers that also segment bleeds, if the dataset has masks to learn from."""

from dataclasses import replace
from typing import TYPE_CHECKING

from ichx.plugins.contract import NetworkCost, Plugin, reference_recipe
from ichx.plugins.tiny import TINY_AUGMENTATION, TINY_INPUT, TINY_STAGES
from ichx.recipe import ModelRecipe, Recipe

if TYPE_CHECKING:
    from torch import nn


def build_unet(recipe: Recipe, pretrained: bool) -> "nn.Module":
    """Return the U-Net of `recipe` with the decoder that segmentation-models-pytorch takes for large encoders."""
    from ichx.plugins.unet_network import build

    return build(recipe, pretrained, (256, 128, 64, 32, 16))


def build_tiny_unet(recipe: Recipe, pretrained: bool) -> "nn.Module":
    """Return the U-Net of `recipe` with a decoder as small as its encoder."""
    from ichx.plugins.unet_network import build

    return build(recipe, pretrained, (48, 32, 24, 16, 8))


_RESNEXT50 = reference_recipe("unet_resnext50", "resnext50_32x4d.tv_in1k", batch=64)

PLUGINS = (
    Plugin(
        name="unet_resnext50",
        summary="U-Net on ResNeXt-50 32x4d: six labels and masks",
        recipe=replace(_RESNEXT50, model=replace(_RESNEXT50.model, mask_weight=1.0)),
        cost=NetworkCost(32.02, 4.23),
        weights_licence="BSD-3-Clause",
        masks=True,
        build=build_unet,
        backbones="timm",
    ),
    Plugin(
        name="tiny_unet",
        summary="U-Net on a residual encoder: six labels and masks; brain, subdural, bone; linear",
        recipe=Recipe(
            plugin="tiny_unet",
            model=ModelRecipe(backbone="test_resnet.r160_in1k", pretrained=False, mask_weight=3.0),
            input=TINY_INPUT,
            stage=TINY_STAGES,
            batch=16,
            augmentation=TINY_AUGMENTATION,
        ),
        cost=NetworkCost(0.59, 0.02),
        weights_licence="random weights",
        masks=True,
        build=build_tiny_unet,
        backbones="timm",
    ),
)
