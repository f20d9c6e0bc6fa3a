"""Gradient checkpointing: activations that the backward pass computes again instead of keeping them.

Chen et al. 2016, arXiv 1604.06174. It is switched on for training only; weights keep their names. Checkpoints of
trainings are in `checkpoint`.
"""

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ichx.errors import UnsupportedError
from ichx.recipe import Recipe


def check_recomputation(model: nn.Module, recipe: Recipe) -> None:
    """Raise `UnsupportedError` if `recipe` wants gradient checkpointing and `model` has none."""
    if recipe.model.checkpointing:
        _switch(model, recipe, True)
        _switch(model, recipe, False)


def recompute_activations(model: nn.Module, recipe: Recipe) -> None:
    """Switch gradient checkpointing on if `recipe` wants it.

    Batch norms update their statistics once per step, as without it, although they see each batch twice.

    Raises:
        UnsupportedError: `model` has no gradient checkpointing.
    """
    if not recipe.model.checkpointing:
        return
    _switch(model, recipe, True)
    for layer in model.modules():
        if isinstance(layer, _BatchNorm):
            momentum = layer.momentum
            layer.register_forward_pre_hook(_freeze_statistics)
            layer.register_forward_hook(_release_statistics(momentum))


def _switch(model: nn.Module, recipe: Recipe, enable: bool) -> None:
    switch: Any = getattr(model, "set_grad_checkpointing", None)
    try:
        if switch is None:
            raise AssertionError
        switch(enable)
    except (AssertionError, AttributeError, NotImplementedError) as error:  # timm's models assert that it stays off
        raise UnsupportedError(
            f"{recipe.model.backbone} of {recipe.plugin} has no gradient checkpointing.",
            "Leave model.checkpointing at false, or use another backbone.",
        ) from error


def _recomputing() -> bool:
    """Return whether a backward pass runs, in which a forward pass can only repeat an earlier one."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def _freeze_statistics(layer: _BatchNorm, _: Any) -> None:
    if _recomputing():
        layer.momentum = 0.0


def _release_statistics(momentum: float | None) -> Any:
    def release(layer: _BatchNorm, _: Any, __: Any) -> None:
        layer.momentum = momentum

    return release
