"""Licences of pretrained weights of the backbone in a recipe. timm is asked about undeclared backbones only."""

from typing import TYPE_CHECKING, Final

from ichx.plugins.backbones import timm_backbones

if TYPE_CHECKING:
    from ichx.plugins.contract import Plugin
    from ichx.recipe import Recipe

NAMES: Final = {
    "apache-2.0": "Apache-2.0",
    "mit": "MIT",
    "bsd-3-clause": "BSD-3-Clause",
    "cc-by-nc-4.0": "CC BY-NC 4.0",
    "cc-by-nc-sa-4.0": "CC BY-NC-SA 4.0",
}
"""Names of licences as timm's pretrained configs abbreviate them."""


def weights_licence(plugin: "Plugin", recipe: "Recipe") -> str:
    """Return the licence of the pretrained weights of the backbone in `recipe`; empty if it is unknown."""
    backbone = recipe.model.backbone
    return plugin.weights_licence if backbone == plugin.recipe.model.backbone else timm_licence(backbone)


def licence_notice(plugin: "Plugin", recipe: "Recipe") -> str:
    """Return what a user must know about the weights of the backbone in `recipe`; empty if there is nothing."""
    backbone = recipe.model.backbone
    if backbone == plugin.recipe.model.backbone:
        return plugin.notice
    licence = timm_licence(backbone)
    if "NC" not in licence.replace("-", " ").upper().split():
        return ""
    return f"the pretrained weights of {backbone} are licensed {licence}: not for commercial use"


def timm_licence(backbone: str) -> str:
    """Return the licence in timm's pretrained config of `backbone`; empty if timm does not state one."""
    licence = timm_backbones().get(backbone, "")
    return NAMES.get(licence, licence)
