"""The network of the plugin `shallow_ct`."""

import torch
from torch import nn

from ichx.labels import LABELS


class Shallow(nn.Module):
    """Maps `(N, C, H, W)` images to `(N, 6)` logits, in the order of `ichx.labels.LABELS`."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in (8, 16, 32):
            layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout))
        self.head = nn.Linear(channels, len(LABELS))

    def get_classifier(self) -> nn.Module:
        """Return the last layer: what goes into it are the pooled features of `--save features`."""
        return self.head

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        logits: torch.Tensor = self.head(self.body(images))
        return logits
