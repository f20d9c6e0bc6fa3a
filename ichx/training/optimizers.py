"""The optimizer of a stage, with a learning rate scale and weight decay per layer. Rates over time: `schedules`."""

from typing import Any

import torch
from torch import nn

from ichx.plugins.layer_depth import layer_numbers
from ichx.recipe import OptimizerRecipe, StageRecipe

MOMENTUM = 0.9
"""Of `sgd`, in Nesterov's form."""


def make_optimizer(
    recipe: OptimizerRecipe, stage: StageRecipe, model: nn.Module, *, fused: bool = False
) -> torch.optim.Optimizer:
    """Return a new optimizer for a stage, with torch's betas and eps.

    Each parameter group has a `scale` that multiplies the current learning rate.

    Args:
        recipe: The optimizer.
        stage: The stage.
        model: The network.
        fused: Whether AdamW updates all tensors in one operation. On a CPU that takes a fifth of the time, which
            matters where a step takes milliseconds; the results are not equal to the bit.
    """
    groups = _groups(recipe, model)
    # foreach: one call for all tensors; separate calls take a tenth of a small network's step
    if recipe.name == "adamw" and fused:
        return torch.optim.AdamW(groups, lr=stage.lr, fused=True)
    if recipe.name == "adamw":
        return torch.optim.AdamW(groups, lr=stage.lr, foreach=True)
    if recipe.name == "sgd":
        return torch.optim.SGD(groups, lr=stage.lr, momentum=MOMENTUM, nesterov=True, foreach=True)
    return torch.optim.RAdam(groups, lr=stage.lr, foreach=True, decoupled_weight_decay=recipe.decoupled)


def take_step(
    optimizer: torch.optim.Optimizer, model: nn.Module, clip: float, scaler: "torch.amp.GradScaler | None"
) -> None:
    """Update the weights and clear the gradients.

    Args:
        optimizer: The optimizer.
        model: The network, for clipping.
        clip: Bound for the norm of all gradients; 0 for none.
        scaler: Scaler of the loss in fp16; it skips steps with non-finite gradients.
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
    # RAdam decays all parameters, as the reference did; the others exempt norms and biases.
    exempt = set() if recipe.name == "radam" else _exempt(model)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        scale = recipe.layer_decay ** (last - layers.get(name, last))
        decay = 0.0 if name in exempt else recipe.weight_decay
        groups.setdefault((scale, decay), []).append(parameter)
    return [{"params": found, "scale": scale, "weight_decay": decay} for (scale, decay), found in groups.items()]


def _exempt(model: nn.Module) -> set[str]:
    """Return the names of norms, biases, and parameters that a timm model exempts, e.g. position embeddings."""
    own: Any = getattr(model, "no_weight_decay", tuple)
    return {name for name, parameter in model.named_parameters() if parameter.ndim <= 1} | set(own())
