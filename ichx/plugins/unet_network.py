"""Builds a U-Net of segmentation-models-pytorch whose encoder, a timm backbone, also feeds a six-label head.

Ronneberger et al. 2015, arXiv 1505.04597. The only file of the zoo that imports segmentation-models-pytorch.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, overload

import segmentation_models_pytorch as smp
import timm
import torch
from torch import nn

from ichx.errors import UnsupportedError
from ichx.labels import LABELS, SUBTYPES
from ichx.plugins.contract import Segmented
from ichx.plugins.layer_depth import layer_numbers
from ichx.plugins.timm_classifier import timm_errors

if TYPE_CHECKING:
    from ichx.recipe import Recipe

STRIDE = 32
"""The encoder's coarsest map has a place for so many pixels along a side."""


RARE = 0.01
"""The probability of blood in a pixel that a new network begins with (Lin et al. 2017, arXiv 1708.02002)."""


class UNet(nn.Module):
    """Maps `(N, C, H, W)` to `(N, 6)` logits, or on request to `Segmented`. H and W are padded to multiples of 32."""

    def __init__(self, backbone: str, pretrained: bool, channels: tuple[int, ...], dropout: float, inputs: int) -> None:
        """Take the backbone of a timm name; `channels` are the decoder's, from the coarsest map to the finest."""
        super().__init__()
        self.backbone, self.inputs = backbone, inputs
        unet = smp.Unet(
            f"tu-{backbone}",
            encoder_weights=True if pretrained else None,
            decoder_channels=channels,
            in_channels=inputs,
            classes=len(SUBTYPES),
        )
        # `model` is the timm backbone within smp's encoder: its weights have the names that timm gives them.
        self.encoder: nn.Module = unet.encoder
        self.decoder: nn.Module = unet.decoder
        self.segmentation_head: nn.Module = unet.segmentation_head
        # From 1/2 everywhere, the first steps would teach that nothing bleeds, and the next ones nothing else.
        nn.init.constant_(unet.segmentation_head[0].bias, math.log(RARE / (1 - RARE)))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(2 * unet.encoder.out_channels[-1], len(LABELS))

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """Return what maps the name of a parameter to its layer, as timm's classifiers do.

        The encoder has the layers of its backbone. Everything else is new and in the last layer, like a head.
        """
        layers = _backbone_layers(self.backbone, self.inputs)
        last = 1 + max(layers.values())
        return lambda name: layers.get(_flat(name.removeprefix("encoder.model.")), last)

    def get_classifier(self) -> nn.Module:
        """Return the layer that makes logits of the pooled features, as timm's classifiers do."""
        return self.head

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Switch gradient checkpointing of the encoder on or off, as timm's classifiers do."""
        self.encoder.model.set_grad_checkpointing(enable)  # type: ignore[operator, union-attr]

    @overload
    def forward(self, x: torch.Tensor, masks: Literal[False] = False) -> torch.Tensor: ...
    @overload
    def forward(self, x: torch.Tensor, masks: Literal[True]) -> Segmented: ...
    def forward(self, x: torch.Tensor, masks: bool = False) -> torch.Tensor | Segmented:
        """Return the logits of the images `x`, and with `masks` those of every pixel, too."""
        height, width = x.shape[-2:]
        down, right = -height % STRIDE, -width % STRIDE
        top, left = down // 2, right // 2
        # The border is air, whatever the windows make of it.
        padded = nn.functional.pad(x, (left, right - left, top, down - top), mode="replicate") if down or right else x
        features = self.encoder(padded)
        pooled = torch.cat([features[-1].mean((2, 3)), features[-1].amax((2, 3))], dim=1)
        logits: torch.Tensor = self.head(self.dropout(pooled))
        if not masks:
            return logits
        pixels = self.segmentation_head(self.decoder(features))
        return Segmented(logits, pixels[..., top : top + height, left : left + width])


def _backbone_layers(backbone: str, inputs: int) -> dict[str, int]:
    """Return the layer of each parameter of timm's classifier, by its flat name."""
    with torch.random.fork_rng(devices=[]):
        classifier = timm.create_model(backbone, pretrained=False, num_classes=0, in_chans=inputs)
    return {_flat(name): number for name, number in layer_numbers(classifier).items()}


def _flat(name: str) -> str:
    """Return the name of a parameter in one form: a network of features has `stages_0` for `stages.0`."""
    return name.replace(".", "_")


def build(recipe: "Recipe", pretrained: bool, channels: tuple[int, ...]) -> UNet:
    """Return the network of `recipe`, its decoder of `channels`, with a random or a pretrained encoder.

    Raises:
        NotFoundError: timm does not know the backbone.
        ProcessError: The weights cannot be downloaded.
        UnsupportedError: Stochastic depth is requested.
    """
    if recipe.model.drop_path > 0:
        raise UnsupportedError(f"{recipe.plugin} has no stochastic depth.", "Leave model.drop_path at 0.")
    with timm_errors(recipe.model.backbone, pretrained):
        return UNet(recipe.model.backbone, pretrained, channels, recipe.model.dropout, recipe.input.channels)
