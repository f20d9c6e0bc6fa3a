"""The head of a network: its parameters, and training of it alone."""

from collections.abc import Set
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def head_names(model: nn.Module) -> frozenset[str]:
    """Return the names of the head's parameters: those of `get_classifier()`, as in timm.

    The head of a network without that method is the module that owns its last parameter.
    """
    names = [name for name, _ in model.named_parameters()]
    classifier: Any = getattr(model, "get_classifier", tuple)
    heads = classifier()
    own = {id(p) for head in (heads if isinstance(heads, tuple) else (heads,)) for p in head.parameters()}
    found = [name for name, parameter in model.named_parameters() if id(parameter) in own]
    last = names[-1].rpartition(".")[0] if names else ""
    return frozenset(found or [name for name in names if name.rpartition(".")[0] == last])


def train_all(model: nn.Module, trainable: Set[str]) -> None:
    """Train all parameters in `trainable`, and set `model` to training mode."""
    model.train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trainable)


def train_head(model: nn.Module, trainable: Set[str]) -> None:
    """Train those parameters in `trainable` that the head owns; freeze the rest, including batch statistics."""
    head = head_names(model)
    train_all(model, trainable & head)
    for name, module in model.named_modules():
        inside = any(parameter.startswith(f"{name}.") for parameter in head)
        if isinstance(module, _BatchNorm) and not inside:
            module.eval()
