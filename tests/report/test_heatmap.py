"""Grad-CAM equals its formula on a linear network and works with every kind of backbone; mask maps."""

import numpy as np
import pytest
import timm
import torch
from torch import nn

from ichx.errors import UnsupportedError
from ichx.labels import LABELS
from ichx.plugins import load_registry
from ichx.plugins.contract import Segmented
from ichx.report.heatmap import grad_cam, last_spatial_layer, mask_maps


class LinearNetwork(nn.Module):
    """A network with a known Grad-CAM: 4 x 4 average pooling, global average, linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.AvgPool2d(4)
        self.head = nn.Linear(3, len(LABELS), bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x).mean((2, 3)))


def test_maps_equal_the_formula() -> None:
    torch.manual_seed(0)
    model, images = LinearNetwork(), torch.rand(2, 3, 16, 16)
    layer = last_spatial_layer(model, 16)
    assert (layer.name, layer.edge, layer.layout) == ("features", 4, "nchw")
    found = grad_cam(model, layer, images)
    means = nn.functional.avg_pool2d(images, 4)
    expected = torch.relu(torch.einsum("lc,nchw->nlhw", model.head.weight / 16, means))
    np.testing.assert_allclose(found.maps, expected.detach().numpy(), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found.logits, model(images).detach().numpy(), rtol=1e-5)


def test_the_model_is_restored() -> None:
    model = LinearNetwork().train()
    model.head.weight.requires_grad_(True)
    grad_cam(model, last_spatial_layer(model, 16), torch.rand(1, 3, 16, 16))
    assert model.training
    assert model.head.weight.requires_grad
    assert model.head.weight.grad is None
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("backbone", "pixels", "edge", "layout"),
    [
        ("resnext50_32x4d", 64, 2, "nchw"),
        ("legacy_seresnext50_32x4d", 64, 2, "nchw"),
        ("tf_efficientnet_b3", 64, 2, "nchw"),
        ("convnext_atto", 64, 2, "nchw"),
        ("swin_tiny_patch4_window7_224", 224, 7, "nhwc"),
        ("vit_tiny_patch16_224", 224, 14, "tokens"),
    ],
)
def test_every_kind_of_backbone_has_maps(backbone: str, pixels: int, edge: int, layout: str) -> None:
    torch.manual_seed(1)
    model = timm.create_model(backbone, pretrained=False, num_classes=len(LABELS))
    layer = last_spatial_layer(model, pixels)
    assert (layer.edge, layer.layout) == (edge, layout)
    images = torch.rand(1, 3, pixels, pixels)
    found = grad_cam(model, layer, images)
    assert found.maps.shape == (1, len(LABELS), edge, edge)
    assert (found.maps >= 0).all()
    with torch.inference_mode():
        np.testing.assert_allclose(found.logits, model.eval()(images).numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [n for n in load_registry().plugins if n.startswith("tiny")])
def test_every_tiny_plugin_has_a_spatial_layer(name: str) -> None:
    plugin = load_registry().get(name)
    pixels = plugin.recipe.input.pixels
    layer = last_spatial_layer(plugin.build(plugin.recipe, False), pixels, plugin.recipe.input.channels)
    assert 1 < layer.edge <= pixels // 8


def test_the_map_peaks_at_the_bright_square() -> None:
    model = LinearNetwork()
    nn.init.ones_(model.head.weight)
    image = torch.zeros(1, 3, 16, 16)
    image[..., 8:12, 4:8] = 1
    (heat,) = grad_cam(model, last_spatial_layer(model, 16), image).maps[:, 0]
    assert np.unravel_index(heat.argmax(), heat.shape) == (2, 1)


def test_a_network_without_spatial_features_is_unsupported() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, len(LABELS)))
    with pytest.raises(UnsupportedError, match="Sequential"):
        last_spatial_layer(model, 16)


class Segmenting(nn.Module):
    """A network whose mask of a subtype is the brightness of one channel."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: torch.Tensor, masks: bool = False) -> torch.Tensor | Segmented:
        logits = x.new_zeros(len(x), len(LABELS))
        pixels = self.scale * torch.cat([x, x[:, :2] - 5], 1)
        return Segmented(logits, pixels) if masks else logits


def test_mask_maps_are_probabilities_with_the_maximum_for_any() -> None:
    model, images = Segmenting().train(), torch.randn(2, 3, 12, 12)
    found = mask_maps(model, images)
    assert found.maps.shape == (2, len(LABELS), 12, 12)
    np.testing.assert_allclose(found.maps[:, :3], torch.sigmoid(2 * images).numpy(), rtol=1e-5)
    np.testing.assert_allclose(found.maps[:, -1], found.maps[:, :-1].max(axis=1))
    assert model.training
    assert model.scale.requires_grad
