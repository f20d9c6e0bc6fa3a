"""Layers of a network from input to head: the depth of each parameter, and training of the head only."""

from collections.abc import Set
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

DEPTH = 2
"""Parts of a parameter's dotted name that identify its layer, in networks without `group_matcher`."""


def layer_numbers(model: nn.Module) -> dict[str, int]:
    """Return the layer of each parameter by name, from 0 at the input; the head is in the last one.

    timm models define their layers. In others a layer has the first two parts of the name in common, e.g.
    `encoder.layer1`, in the order of the model.
    """
    matcher: Any = getattr(model, "group_matcher", None)
    if matcher is not None:
        from timm.models import group_parameters

        numbers: dict[str, int] = group_parameters(model, matcher(coarse=False), reverse=True)
        return numbers
    found: dict[str, int] = {}
    layers: dict[str, int] = {}
    for name, _ in model.named_parameters():
        owner = name.rpartition(".")[0] or name
        found[name] = layers.setdefault(".".join(owner.split(".")[:DEPTH]), len(layers))
    return found


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
