"""ResNeXts: models 2 and 6 of the reference solution, and a relative of 6 that sees neighbouring slices."""

from dataclasses import replace

from ichx.plugins.contract import NetworkCost, Plugin, reference_recipe
from ichx.recipe import Recipe


def _with_neighbours(recipe: Recipe) -> Recipe:
    """Return `recipe` for three slices in one window: three channels, which is what the pretrained weights have."""
    return replace(recipe, input=replace(recipe.input, windows=((40.0, 80.0),), centre="series", neighbours=1))


PLUGINS = (
    Plugin(
        name="resnext50",
        summary="ResNeXt-50 32x4d at 378 px with sigmoid windows; the reference's model 6",
        recipe=reference_recipe("resnext50", "resnext50_32x4d.tv_in1k", batch=64, size=378, crop=0, kind="sigmoid"),
        cost=NetworkCost(22.99, 12.36),
        weights_licence="BSD-3-Clause",
    ),
    Plugin(
        name="resnext101_wsl",
        summary="ResNeXt-101 32x8d, weakly supervised weights; the reference's model 2",
        recipe=reference_recipe("resnext101_wsl", "resnext101_32x8d.fb_wsl_ig1b_ft_in1k", batch=64),
        cost=NetworkCost(86.75, 16.41),
        weights_licence="CC BY-NC 4.0",
        notice="its pretrained weights are licensed CC BY-NC 4.0: not for commercial use",
    ),
    Plugin(
        name="resnext50_25d",
        summary="ResNeXt-50 32x4d at 378 px on a slice and its two neighbours in the brain window; sigmoid",
        recipe=_with_neighbours(
            reference_recipe("resnext50_25d", "resnext50_32x4d.tv_in1k", batch=64, size=378, crop=0, kind="sigmoid")
        ),
        cost=NetworkCost(22.99, 12.36),
        weights_licence="BSD-3-Clause",
    ),
)
