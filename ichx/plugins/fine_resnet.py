"""Builds a small residual network for small lesions in small images. The only tiny network that timm does not have.

Most backbones end in a coarse grid and its mean, in which a bleed of a few pixels is lost. This one keeps every eighth
pixel and hands on both the mean and the maximum over them: one conspicuous place is enough.
"""

from typing import TYPE_CHECKING

import torch
from torch import nn

from ichx.errors import NotFoundError, UnsupportedError
from ichx.labels import LABELS

if TYPE_CHECKING:
    from ichx.recipe import Recipe

SIZES = {
    "fine_resnet8": ((16, 0), (32, 1), (64, 1)),
    "fine_resnet8_thin": ((12, 0), (24, 1), (48, 1)),
}
"""By `model.backbone`: the channels and the residual blocks at a half, a quarter and an eighth of the image."""


class Block(nn.Module):
    """Two 3 x 3 convolutions with a skip connection (He et al. 2016, arXiv 1512.03385)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _convolution(channels, channels, stride=1)
        self.second = _convolution(channels, channels, stride=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return a tensor of the shape of `x`, (N, C, H, W)."""
        return torch.relu(x + self.second(torch.relu(self.first(x))))


class FineResNet(nn.Module):
    """`(N, channels, H, W)` to `(N, 6)` logits, from the mean and the maximum of features at an eighth of H and W."""

    def __init__(self, sizes: tuple[tuple[int, int], ...], dropout: float, channels: int) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        for width, blocks in sizes:
            parts += [_convolution(channels, width, stride=2), nn.ReLU(), *(Block(width) for _ in range(blocks))]
            channels = width
        self.features = nn.Sequential(*parts)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(2 * channels, len(LABELS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits of the images `x`."""
        features = self.features(x)
        pooled = torch.cat([features.mean((2, 3)), features.amax((2, 3))], dim=1)
        logits: torch.Tensor = self.head(self.dropout(pooled))
        return logits

    def get_classifier(self) -> nn.Module:
        """Return the layer that makes logits of pooled features."""
        return self.head


def build(recipe: "Recipe", pretrained: bool) -> nn.Module:
    """Return the network that `recipe.model.backbone` names in `SIZES`.


    Raises:
        NotFoundError: The name is unknown.
        UnsupportedError: Stochastic depth or pretrained weights are requested.
    """
    if recipe.model.backbone not in SIZES:
        known = f"{recipe.plugin} has {', '.join(SIZES)}."
        raise NotFoundError.named("backbone", recipe.model.backbone, SIZES, known)
    if recipe.model.drop_path > 0:
        raise UnsupportedError(f"{recipe.model.backbone} has no stochastic depth.", "Leave model.drop_path at 0.")
    if pretrained:
        raise UnsupportedError(f"{recipe.model.backbone} has no pretrained weights.", "Train it with --no-pretrained.")
    return FineResNet(SIZES[recipe.model.backbone], recipe.model.dropout, recipe.input.channels)


def _convolution(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(outputs))
