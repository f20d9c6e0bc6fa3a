"""The network for small lesions: what it keeps that a mean over a coarse grid loses, and what it refuses."""

import pytest
import torch

from ichx.errors import IchxError, UnsupportedError
from ichx.plugins import load_registry
from ichx.recipe_text import apply_settings

PLUGIN = load_registry().get("tiny_fine")


def test_it_keeps_an_eighth_of_the_image() -> None:
    model = PLUGIN.build(PLUGIN.recipe, False).eval()
    with torch.inference_mode():
        assert model.get_submodule("features")(torch.rand(2, 3, 64, 64)).shape == (2, 64, 8, 8)


def test_one_positive_place_counts_anywhere() -> None:
    """The maximum over the grid is handed on beside the mean: it does not shrink with the image around it."""
    model = PLUGIN.build(PLUGIN.recipe, False).eval()
    spot = torch.ones(1, 3, 16, 16)
    pooled = []
    model.get_submodule("head").register_forward_pre_hook(lambda _, given: pooled.append(given[0]))
    with torch.inference_mode():
        for edge, at in ((64, 24), (128, 24), (128, 88)):
            image = torch.zeros(1, 3, edge, edge)
            image[..., at : at + 16, at : at + 16] = spot
            model(image)
    small, large, elsewhere = (p[0, 64:] for p in pooled)
    torch.testing.assert_close(small, large)
    torch.testing.assert_close(large, elsewhere)
    assert not torch.allclose(pooled[0][0, :64], pooled[1][0, :64])


def test_other_names_and_pretrained_weights_are_refused() -> None:
    unknown = apply_settings(PLUGIN.recipe, ["model.backbone=fine_resnet9"])
    with pytest.raises(IchxError, match="'fine_resnet9'") as caught:
        PLUGIN.build(unknown, False)
    assert "'fine_resnet8'" in caught.value.remedy
    with pytest.raises(UnsupportedError, match="fine_resnet8"):
        PLUGIN.build(PLUGIN.recipe, True)
    with pytest.raises(UnsupportedError, match="fine_resnet8"):
        PLUGIN.build(apply_settings(PLUGIN.recipe, ["model.drop_path=0.1"]), False)
