"""The pieces of the method that a recipe names: windows as the network's input, loss, learning rate."""

import functools
import math

import torch
from torch import nn

from ichx.ct.windows import window_bounds, windows_torch
from ichx.labels import LABEL_WEIGHTS
from ichx.recipe import InputRecipe, StageRecipe

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
PART = 2**16
"""HU that are windowed at once on a CPU: with their channels in float32 they fit into a core's own cache."""

WARMUP_START = 0.01
"""The share of the rate that a warm-up begins with: a step at rate 0 would be wasted."""

RISE, RISE_START, FALL_END = 0.3, 1 / 25, 1e-4
"""`onecycle`: the share of the stage in which the rate rises, its first share of `lr`, and its last share of that."""


class WindowStep(nn.Module):
    """HU and header windows `(N, 2)` to the network's input, `(N, C, H, W)`, channels last in memory.

    HU is `(N, H, W)`, or `(N, S, H, W)` with neighbours. The channels are those of `InputRecipe.channels`: the first
    slice in all windows, then the next one. The file's own window is for all of a sample that of its middle slice.
    """

    def __init__(self, recipe: InputRecipe) -> None:
        super().__init__()
        self.channels = recipe.channels
        self.bounds: torch.Tensor
        self.register_buffer("bounds", window_bounds(recipe.windows), persistent=False)
        self.kind = recipe.window_kind
        self.normalize = recipe.normalize == "imagenet"
        self.mean: torch.Tensor
        self.std: torch.Tensor
        for name, of_colours in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            # Weights for three colours are repeated over more channels, and what they expect with them.
            of_channels = torch.tensor(of_colours).repeat(recipe.slices)[: recipe.channels]
            self.register_buffer(name, of_channels.view(1, -1, 1, 1), persistent=False)

    def forward(
        self, hu: torch.Tensor, header_windows: torch.Tensor, jitter: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the windowed channels, in [0, 1] unless the recipe normalizes them; `jitter` as in `Batch`."""
        return self._windowed(hu, header_windows, jitter).contiguous(memory_format=torch.channels_last)

    def in_parts(
        self, hu: torch.Tensor, header_windows: torch.Tensor, jitter: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the same, computed on a CPU in parts that stay in its cache, which takes half the time or less."""
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


def weighted_loss(logits: torch.Tensor, labels: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
    """Return binary cross-entropy with logits, weighted over the six labels as the score is.

    `smoothing` moves the labels towards 1/2, to 1 - smoothing / 2 and smoothing / 2 (Szegedy et al. 2016, arXiv
    1512.00567, for two classes).
    """
    if smoothing > 0:
        labels = labels * (1 - smoothing) + smoothing / 2
    weights = _label_weights(logits.device)
    losses = nn.functional.binary_cross_entropy_with_logits(logits.float(), labels, reduction="none")
    return (losses.mean(dim=0) * weights).sum() / weights.sum()


@functools.cache
def _label_weights(device: torch.device) -> torch.Tensor:
    """Return the weights on `device`, kept there: sending them anew would make the device wait in each step."""
    with torch.inference_mode(False):
        return torch.tensor(LABEL_WEIGHTS, dtype=torch.float32, device=device)


def learning_rate(stage: StageRecipe, epoch: int, part: float) -> float:
    """Return the rate in epoch `epoch` (from 0) of `stage`, of which the share `part` in [0, 1) is done.

    `multistep` multiplies by gamma from each milestone on, as torch's MultiStepLR stepped per epoch; `cosine` falls
    from lr to 0 over the stage (Loshchilov and Hutter 2017, arXiv 1608.03983); `onecycle` rises to lr and falls, as
    torch's OneCycleLR with its defaults (Smith and Topin 2017, arXiv 1708.07120), without a cycle of the momentum.
    Before the first two a warm-up rises linearly; the cosine takes what is left of the stage. No state is kept that
    could leak from one stage into the next or be lost in an interruption.
    """
    done = epoch + part
    if stage.scheduler == "onecycle":
        return _one_cycle(stage.lr, done / stage.epochs)
    warm = WARMUP_START + (1 - WARMUP_START) * done / stage.warmup if done < stage.warmup else 1.0
    if stage.scheduler == "cosine":
        done = max(done - stage.warmup, 0.0)
        return warm * stage.lr * (1 + math.cos(math.pi * done / (stage.epochs - stage.warmup))) / 2
    return warm * stage.lr * stage.gamma ** sum(milestone <= epoch for milestone in stage.milestones)


def _one_cycle(lr: float, done: float) -> float:
    """Return the rate when the share `done` of the stage is over: one cosine up, another one down."""
    first, last = lr * RISE_START, lr * RISE_START * FALL_END
    if done < RISE:
        return _between(first, lr, done / RISE)
    return _between(lr, last, (done - RISE) / (1 - RISE))


def _between(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
