"""The layers of a network from its input to its head: which parameter is how deep, and what only the head learns."""

from collections.abc import Set
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

DEPTH = 2
"""Parts of a parameter's dotted name that tell its layer, in networks that do not tell their layers themselves."""


def layer_numbers(model: nn.Module) -> dict[str, int]:
    """Return each parameter's layer by its name, from 0 at the input; the head is in the last one.

    A timm model tells its layers. In any other a layer is what shares the first two parts of the name, such as
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
    """Return the names of the head's parameters: those of `get_classifier()`, timm's convention, or the last layer's.

    A network without that method has its head in the module that owns its last parameter.
    """
    names = [name for name, _ in model.named_parameters()]
    classifier: Any = getattr(model, "get_classifier", tuple)
    heads = classifier()
    own = {id(p) for head in (heads if isinstance(heads, tuple) else (heads,)) for p in head.parameters()}
    found = [name for name, parameter in model.named_parameters() if id(parameter) in own]
    last = names[-1].rpartition(".")[0] if names else ""
    return frozenset(found or [name for name in names if name.rpartition(".")[0] == last])


def train_whole(model: nn.Module, learning: Set[str]) -> None:
    """Let all parameters in `learning` learn, and put `model` into training mode."""
    model.train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in learning)


def train_head(model: nn.Module, learning: Set[str]) -> None:
    """Let those parameters in `learning` learn that the head has; the rest is frozen, batch statistics included."""
    head = head_names(model)
    train_whole(model, learning & head)
    for name, module in model.named_modules():
        inside = any(parameter.startswith(f"{name}.") for parameter in head)
        if isinstance(module, _BatchNorm) and not inside:
            module.eval()
