"""U-Nets: logits like any other plugin, masks when asked, at any size; a classifier's weights fit the encoder."""

from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

from ichx.errors import NotFoundError, ProcessError
from ichx.labels import LABELS, SUBTYPES
from ichx.plugins import Plugin, load_registry
from ichx.plugins.contract import Segmented
from ichx.recipe_text import apply_settings
from ichx.training.weights import load_file


def plugin(name: str) -> Plugin:
    return load_registry().get(name)


@pytest.mark.parametrize("name", ["tiny_unet", "unet_resnext50"])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (88, 70)])
def test_logits_alone_or_with_masks(name: str, height: int, width: int) -> None:
    unet = plugin(name)
    assert unet.masks
    assert unet.recipe.model.mask_weight > 0
    torch.manual_seed(0)
    model, images = unet.build(unet.recipe, False).eval(), torch.rand(2, 3, height, width)
    with torch.inference_mode():
        logits, found = model(images), model(images, masks=True)
    assert isinstance(found, Segmented)
    assert logits.shape == (2, len(LABELS))
    torch.testing.assert_close(found.logits, logits)
    assert found.masks.shape == (2, len(SUBTYPES), height, width)
    assert torch.sigmoid(found.masks).mean() < 0.1  # blood is rare, and a new network knows it


def test_neighbours_are_more_channels() -> None:
    unet = plugin("tiny_unet")
    recipe = apply_settings(unet.recipe, ["input.neighbours=1", "input.centre=series"])
    model = unet.build(recipe, False).eval()
    with torch.inference_mode():
        assert model(torch.rand(2, 9, 64, 64), masks=True).masks.shape == (2, 5, 64, 64)


def test_other_plugins_have_no_masks() -> None:
    with_masks = {name for name, one in load_registry().plugins.items() if one.masks}
    assert with_masks == {"tiny_unet", "unet_resnext50"}
    for name, one in load_registry().plugins.items():
        assert (one.recipe.model.mask_weight > 0) == (name in with_masks)


def test_padding_keeps_places() -> None:
    """A network that hands on its input shows that the masks are cut out where the image was put."""
    unet = plugin("tiny_unet")
    model = unet.build(unet.recipe, False).eval()
    model.decoder = torch.nn.Identity()
    model.segmentation_head = torch.nn.Identity()
    seen: list[torch.Tensor] = []
    encoder = model.encoder

    def forward(x: torch.Tensor) -> list[torch.Tensor]:
        seen.append(x)
        return encoder(x)

    class Handing(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            return forward(x)

    class First(torch.nn.Module):
        def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
            return features[0]

    model.encoder, model.decoder = Handing(), First()
    images = torch.rand(1, 3, 50, 70)
    with torch.inference_mode():
        found = model(images, masks=True).masks
    assert seen[0].shape[-2:] == (64, 96)
    torch.testing.assert_close(found, images, rtol=0, atol=0)


def test_a_classifiers_weights_fit_the_encoder(tmp_path: Path) -> None:
    unet = plugin("tiny_unet")
    classifier = timm.create_model("test_resnet.r160_in1k", pretrained=False, num_classes=len(LABELS))
    file = tmp_path / "classifier.safetensors"
    safetensors.torch.save_file(classifier.state_dict(), file)
    model, notes = unet.build(unet.recipe, False), []
    load_file(model, file, notes.append)
    own, given = model.state_dict(), classifier.state_dict()
    loaded = [name for name in given if not name.startswith("fc.")]
    for name in loaded:
        torch.testing.assert_close(own[f"encoder.model.{name}"], given[name], rtol=0, atol=0)
    assert f"{len(loaded)} of {len(own)} tensors loaded" in notes[0]
    assert "100 % of the backbone's weights" in notes[0]
    assert "not used: fc.bias, fc.weight" in notes[0]


def test_an_unknown_backbone_is_a_clear_error() -> None:
    unet = plugin("tiny_unet")
    for backbone in ("resnot50.a1_in1k", "resnet18.no_such_tag"):
        with pytest.raises(NotFoundError):
            unet.build(apply_settings(unet.recipe, [f"model.backbone={backbone}"]), True)


def test_weights_that_cannot_be_downloaded_are_a_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    unet = plugin("unet_resnext50")
    with pytest.raises(ProcessError, match="resnext50_32x4d.tv_in1k") as caught:
        unet.build(unet.recipe, True)
    assert "--weights" in caught.value.remedy
