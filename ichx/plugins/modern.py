"""Backbones of the 2020s: convolutional networks, hybrids of convolution and attention, and a recipe that fits them.

The values follow the fine-tuning recipes of the backbones' authors: AdamW with a warm-up, a cosine and rates that fall
towards the input, stochastic depth, an average of the weights. They were not tuned on head CT.
"""

from dataclasses import dataclass, replace

from ichx.plugins.contract import NetworkCost, Plugin
from ichx.recipe import (
    AugmentationRecipe,
    EmaRecipe,
    InputRecipe,
    ModelRecipe,
    OptimizerRecipe,
    Recipe,
    StageRecipe,
)

BRAIN_SUBDURAL_BONE = ((40.0, 80.0), (80.0, 200.0), (600.0, 2800.0))
ADJACENT_SIZE = 384
AUGMENTATION = AugmentationRecipe(scale=0.1, grid_limit=0.1, window_shift=10.0, window_scale=0.1)


@dataclass(frozen=True)
class _Model:
    """What differs between the recipes."""

    backbone: str
    size: int
    batch: int
    lr: float
    """Largest learning rate, of the head."""
    layer_decay: float
    """1 for networks with batch norms, whose layers are trained alike."""
    drop_path: float
    dropout: float = 0.0
    normalize: str = "imagenet"
    """As the weights expect it."""
    clip: float = 1.0


def _recipe(name: str, model: _Model) -> Recipe:
    """Return the recipe with one stage over all slices."""
    return Recipe(
        plugin=name,
        model=ModelRecipe(backbone=model.backbone, dropout=model.dropout, drop_path=model.drop_path),
        input=InputRecipe(size=model.size, windows=BRAIN_SUBDURAL_BONE, normalize=model.normalize),
        stage=(_stage("full", "all", 4, model.lr),),
        batch=model.batch,
        optimizer=OptimizerRecipe("adamw", weight_decay=0.05, layer_decay=model.layer_decay, clip=model.clip),
        augmentation=AUGMENTATION,
        ema=EmaRecipe(decay=0.9995),
    )


def _stage(name: str, sampling: str, epochs: int, lr: float) -> StageRecipe:
    return StageRecipe(name=name, sampling=sampling, epochs=epochs, lr=lr, scheduler="cosine", warmup=0.25)


def _three_stages(recipe: Recipe) -> Recipe:
    """Return `recipe` with the reference's stages: balanced, balanced with new negatives, all slices."""
    lr = recipe.stage[0].lr
    stages = (
        _stage("balanced", "fixed", 3, lr),
        _stage("rebalanced", "redrawn", 2, lr / 2),
        _stage("full", "all", 2, lr / 4),
    )
    return replace(recipe, stage=stages)


def _adjacent(recipe: Recipe) -> Recipe:
    """Return `recipe` for a slice and its two neighbours in the brain window, at the size that all of these share.

    Three channels, which is what the pretrained weights have; one cache for all networks of a plan.
    """
    size = ADJACENT_SIZE
    image = replace(recipe.input, size=size, crop=0, windows=((40.0, 80.0),), centre="series", neighbours=1)
    return replace(recipe, input=image)


def _plugin(name: str, summary: str, cost: NetworkCost, model: _Model) -> Plugin:
    recipe = _recipe(name, model)
    return Plugin(
        name=name,
        summary=summary,
        recipe=recipe,
        presets={"three-stage": _three_stages(recipe), "adjacent": _adjacent(recipe)},
        cost=cost,
        weights_licence="Apache-2.0",
    )


PLUGINS = (
    _plugin(
        "convnext_small",
        "ConvNeXt-S, ImageNet-12k weights, 384 px",
        NetworkCost(49.46, 25.52),
        _Model("convnext_small.in12k_ft_in1k_384", 384, 32, 2e-4, layer_decay=0.8, drop_path=0.2),
    ),
    _plugin(
        "efficientnetv2_m",
        "EfficientNetV2-M, ImageNet-21k weights, 480 px",
        NetworkCost(52.87, 24.58),
        _Model(
            "tf_efficientnetv2_m.in21k_ft_in1k",
            480,
            32,
            3e-4,
            layer_decay=1.0,
            drop_path=0.2,
            dropout=0.3,
            normalize="inception",
        ),
    ),
    _plugin(
        "maxvit_tiny",
        "MaxViT-T, convolution and attention, 512 px",
        NetworkCost(30.54, 33.25),
        _Model("maxvit_tiny_tf_512.in1k", 512, 16, 2e-4, layer_decay=0.85, drop_path=0.2, normalize="inception"),
    ),
    _plugin(
        "hgnetv2_b4",
        "HGNetV2-B4, fast, distilled weights, 384 px",
        NetworkCost(17.76, 8.02),
        _Model("hgnetv2_b4.ssld_stage2_ft_in1k", 384, 64, 5e-4, layer_decay=1.0, drop_path=0.1),
    ),
    _plugin(
        "caformer_s18",
        "CAFormer-S18, convolution and attention, ImageNet-22k weights, 384 px",
        NetworkCost(24.30, 13.36),
        _Model("caformer_s18.sail_in22k_ft_in1k_384", 384, 32, 2e-4, layer_decay=0.85, drop_path=0.15),
    ),
    _plugin(
        "seresnextaa101d",
        "SE-ResNeXt-101 with anti-aliasing, ImageNet-12k weights, 320 px",
        NetworkCost(91.55, 35.05),
        _Model("seresnextaa101d_32x8d.sw_in12k_ft_in1k_288", 320, 32, 3e-4, layer_decay=1.0, drop_path=0.1),
    ),
)
