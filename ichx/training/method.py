"""The pieces of the method that a recipe names: windows as the network's input, loss, optimizer, scheduler."""

import torch
from torch import nn

from ichx.ct.windows import windows_torch
from ichx.labels import LABEL_WEIGHTS
from ichx.recipe import InputRecipe, OptimizerRecipe, StageRecipe

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class WindowStep(nn.Module):
    """HU `(N, H, W)` and header windows `(N, 2)` to the network's input `(N, 3, H, W)`, on the device."""

    def __init__(self, recipe: InputRecipe) -> None:
        super().__init__()
        self.windows = recipe.windows
        self.kind = recipe.window_kind
        self.normalize = recipe.normalize == "imagenet"
        self.mean: torch.Tensor
        self.std: torch.Tensor
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def forward(
        self, hu: torch.Tensor, header_windows: torch.Tensor, jitter: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the windowed channels, in [0, 1] unless the recipe normalizes them; `jitter` as in `Batch`."""
        image = windows_torch(hu, header_windows, self.windows, self.kind, jitter)
        return (image - self.mean) / self.std if self.normalize else image


def weighted_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return binary cross-entropy with logits, weighted over the six labels as the score is."""
    weights = logits.new_tensor(LABEL_WEIGHTS, dtype=torch.float32)
    losses = nn.functional.binary_cross_entropy_with_logits(logits.float(), labels, reduction="none")
    return (losses.mean(dim=0) * weights).sum() / weights.sum()


def make_optimizer(recipe: OptimizerRecipe, stage: StageRecipe, model: nn.Module) -> torch.optim.Optimizer:
    """Return a new optimizer for a stage."""
    return torch.optim.RAdam(model.parameters(), lr=stage.lr, weight_decay=recipe.weight_decay)


def make_scheduler(stage: StageRecipe, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    """Return a new scheduler for a stage, to be stepped once per epoch."""
    return torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=list(stage.milestones), gamma=stage.gamma)
