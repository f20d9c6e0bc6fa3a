"""Licences of weights follow the backbone of the recipe."""

import pytest
import timm

from ichx.plugins import load_registry
from ichx.plugins.licences import NAMES, licence_notice, timm_licence, weights_licence
from ichx.recipe_text import apply_settings

NON_COMMERCIAL = "resnext101_32x8d.fb_wsl_ig1b_ft_in1k"


def declared() -> list[tuple[str, str, str]]:
    plugins = load_registry().plugins.values()
    return [(p.name, p.recipe.model.backbone, p.weights_licence) for p in plugins if p.recipe.model.pretrained]


@pytest.mark.parametrize(("name", "backbone", "licence"), declared())
def test_declared_licences_are_those_of_timm(name: str, backbone: str, licence: str) -> None:
    if not timm.is_model(backbone):
        pytest.skip(f"{name} is not built by timm")
    assert licence == timm_licence(backbone), name


def test_a_non_commercial_backbone_is_reported_for_any_plugin() -> None:
    plugin = load_registry().get("resnext50")
    assert licence_notice(plugin, plugin.recipe) == ""
    changed = apply_settings(plugin.recipe, [f"model.backbone={NON_COMMERCIAL}"])
    assert weights_licence(plugin, changed) == "CC BY-NC 4.0"
    for value in (NON_COMMERCIAL, "CC BY-NC 4.0"):
        assert value in licence_notice(plugin, changed)
    free = apply_settings(plugin.recipe, ["model.backbone=resnet18.tv_in1k"])
    assert (weights_licence(plugin, free), licence_notice(plugin, free)) == ("BSD-3-Clause", "")


def test_an_unknown_backbone_has_no_licence() -> None:
    assert timm_licence("no_such_network") == ""


def test_abbreviations_are_those_of_timm() -> None:
    known = {timm.get_pretrained_cfg(name).license for name in timm.list_models("resnet*", pretrained=True)}
    assert known & NAMES.keys()
