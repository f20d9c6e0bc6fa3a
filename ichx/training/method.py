"""The pieces of the method that a recipe names: windows as the network's input, loss, optimizer, learning rate."""

import math

import torch
from torch import nn

from ichx.ct.windows import windows_torch
from ichx.labels import LABEL_WEIGHTS
from ichx.recipe import InputRecipe, OptimizerRecipe, StageRecipe

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class WindowStep(nn.Module):
    """HU and header windows `(N, 2)` to the network's input, `(N, C, H, W)`, channels last in memory.

    HU is `(N, H, W)`, or `(N, S, H, W)` with neighbours. The channels are those of `InputRecipe.channels`: the first
    slice in all windows, then the next one. The file's own window is for all of a sample that of its middle slice.
    """

    def __init__(self, recipe: InputRecipe) -> None:
        super().__init__()
        self.windows = recipe.windows
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
        image = windows_torch(hu, header_windows, self.windows, self.kind, jitter)
        image = image.flatten(1, 2) if image.ndim == 5 else image
        image = (image - self.mean) / self.std if self.normalize else image
        return image.contiguous(memory_format=torch.channels_last)


def weighted_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return binary cross-entropy with logits, weighted over the six labels as the score is."""
    weights = logits.new_tensor(LABEL_WEIGHTS, dtype=torch.float32)
    losses = nn.functional.binary_cross_entropy_with_logits(logits.float(), labels, reduction="none")
    return (losses.mean(dim=0) * weights).sum() / weights.sum()


def make_optimizer(recipe: OptimizerRecipe, stage: StageRecipe, model: nn.Module) -> torch.optim.Optimizer:
    """Return a new optimizer for a stage."""
    # foreach: one call for all tensors, which a small network spends a tenth of its step on otherwise
    return torch.optim.RAdam(model.parameters(), lr=stage.lr, weight_decay=recipe.weight_decay, foreach=True)


def learning_rate(stage: StageRecipe, epoch: int, part: float) -> float:
    """Return the rate in epoch `epoch` (from 0) of `stage`, of which the share `part` in [0, 1) is done.

    `multistep` multiplies by gamma from each milestone on, as torch's MultiStepLR stepped per epoch; `cosine` falls
    from lr to 0 over the stage (Loshchilov and Hutter 2017, arXiv 1608.03983). No state is kept that could leak from
    one stage into the next or be lost in an interruption.
    """
    if stage.scheduler == "cosine":
        return stage.lr * (1 + math.cos(math.pi * (epoch + part) / stage.epochs)) / 2
    return stage.lr * stage.gamma ** sum(milestone <= epoch for milestone in stage.milestones)
