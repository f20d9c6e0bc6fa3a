"""Layers of a network from input to head: the depth of each parameter."""

from typing import Any

from torch import nn

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
