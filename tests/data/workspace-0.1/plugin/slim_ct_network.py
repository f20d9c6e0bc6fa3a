"""The network of the plugin `slim_ct`."""

import torch
from torch import nn


class Slim(nn.Module):
    """Maps `(N, C, H, W)` images to `(N, 6)` logits."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in (4, 8, 16):
            layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout))
        self.head = nn.Linear(channels, 6)

    def get_classifier(self) -> nn.Module:
        """Return the layer that pooled features go into."""
        return self.head

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        logits: torch.Tensor = self.head(self.body(images))
        return logits
