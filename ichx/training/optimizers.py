"""The optimizer that a stage begins with: which one, and how fast each layer learns. Not the rate over time."""

from typing import Any

import torch
from torch import nn

from ichx.recipe import OptimizerRecipe, StageRecipe
from ichx.training.layer_numbers import layer_numbers

MOMENTUM = 0.9
"""Of `sgd`, in Nesterov's form."""


def make_optimizer(recipe: OptimizerRecipe, stage: StageRecipe, model: nn.Module) -> torch.optim.Optimizer:
    """Return a new optimizer for a stage, with torch's betas and eps.

    Each of its groups has a `scale`, by which the learning rate of the moment is to be multiplied.
    """
    groups = _groups(recipe, model)
    # foreach: one call for all tensors, which a small network spends a tenth of its step on otherwise
    if recipe.name == "adamw":
        return torch.optim.AdamW(groups, lr=stage.lr, foreach=True)
    if recipe.name == "sgd":
        return torch.optim.SGD(groups, lr=stage.lr, momentum=MOMENTUM, nesterov=True, foreach=True)
    return torch.optim.RAdam(groups, lr=stage.lr, foreach=True)


def take_step(
    optimizer: torch.optim.Optimizer, model: nn.Module, clip: float, scaler: "torch.amp.GradScaler | None"
) -> None:
    """Change the weights by the gradients, whose norm is first cut to `clip` (0: it is not), and forget those.

    `scaler` is what fp16 has scaled the loss with; it skips a step whose gradients are not finite.
    """
    if clip > 0:
        if scaler is not None:
            scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), clip)
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()
    optimizer.zero_grad(set_to_none=True)


def _groups(recipe: OptimizerRecipe, model: nn.Module) -> list[dict[str, object]]:
    """Return the parameters in groups of one weight decay and one scale, in the model's order."""
    layers = layer_numbers(model) if recipe.layer_decay != 1 else {}
    last = max(layers.values(), default=0)
    # RAdam decays all of them, as the reference did; the newer habit spares what has no direction to shrink in.
    spared = set() if recipe.name == "radam" else _spared(model)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        scale = recipe.layer_decay ** (last - layers.get(name, last))
        decay = 0.0 if name in spared else recipe.weight_decay
        groups.setdefault((scale, decay), []).append(parameter)
    return [{"params": found, "scale": scale, "weight_decay": decay} for (scale, decay), found in groups.items()]


def _spared(model: nn.Module) -> set[str]:
    """Return the names of norms, biases, and what a timm model says is not to decay, such as position embeddings."""
    own: Any = getattr(model, "no_weight_decay", tuple)
    return {name for name, parameter in model.named_parameters() if parameter.ndim <= 1} | set(own())
