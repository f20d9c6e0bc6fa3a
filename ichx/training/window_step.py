"""Windows on the device: HU of a batch to the network's input in one step. The formulas are in `ichx.ct.windows`."""

import torch
from torch import nn

from ichx.ct.windows import window_bounds, windows_torch
from ichx.recipe import InputRecipe

STATISTICS = {
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "inception": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
"""Mean and standard deviation that `input.normalize` names."""
PART = 2**16
"""HU that a CPU windows at once: with their channels in float32 they fit into a core's cache."""


class WindowStep(nn.Module):
    """Maps HU and header windows `(N, 2)` to the network's input, `(N, C, H, W)`, channels last in memory.

    HU is `(N, H, W)`, or `(N, S, H, W)` with neighbours. The channels are those of `InputRecipe.channels`: the first
    slice in all windows, then the next one. All slices of a sample use the header window of its middle slice.
    """

    def __init__(self, recipe: InputRecipe) -> None:
        super().__init__()
        self.channels = recipe.channels
        self.bounds: torch.Tensor
        self.register_buffer("bounds", window_bounds(recipe.windows), persistent=False)
        self.kind = recipe.window_kind
        self.normalize = recipe.normalize != "none"
        self.mean: torch.Tensor
        self.std: torch.Tensor
        for name, colours in zip(("mean", "std"), STATISTICS[recipe.normalize], strict=True):
            # Pretrained weights of three channels are repeated over more, and so are their statistics.
            channels = torch.tensor(colours).repeat(-(-recipe.channels // len(colours)))[: recipe.channels]
            self.register_buffer(name, channels.view(1, -1, 1, 1), persistent=False)

    def forward(
        self, hu: torch.Tensor, header_windows: torch.Tensor, jitter: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the windowed channels, in [0, 1] unless the recipe normalizes them; `jitter` as in `Batch`."""
        return self._windowed(hu, header_windows, jitter).contiguous(memory_format=torch.channels_last)

    def in_parts(
        self, hu: torch.Tensor, header_windows: torch.Tensor, jitter: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the same; a CPU computes it in parts that stay in its cache, in half the time or less."""
        count = max(PART // hu[0].numel(), 1)
        if hu.device.type != "cpu" or len(hu) <= count:
            return self.forward(hu, header_windows, jitter)
        images = torch.empty((len(hu), self.channels, *hu.shape[-2:]), memory_format=torch.channels_last)
        for start in range(0, len(hu), count):
            part = slice(start, start + count)
            images[part] = self._windowed(hu[part], header_windows[part], None if jitter is None else jitter[part])
        return images

    def _windowed(self, hu: torch.Tensor, header_windows: torch.Tensor, jitter: torch.Tensor | None) -> torch.Tensor:
        image = windows_torch(hu, header_windows, self.bounds, self.kind, jitter)
        image = image.flatten(1, 2) if image.ndim == 5 else image
        return (image - self.mean) / self.std if self.normalize else image
