"""The size and cost of a network, computed without weights and without arithmetic."""

from dataclasses import replace
from typing import TYPE_CHECKING

from ichx.plugins.contract import NetworkCost

if TYPE_CHECKING:
    from ichx.plugins.contract import Plugin
    from ichx.recipe import Recipe


def network_cost(plugin: "Plugin", recipe: "Recipe") -> NetworkCost:
    """Return the parameters and the multiply-accumulates per image of the network of a slice plugin.

    The network is built on torch's `meta` device. Matrix products, convolutions and attention are counted.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    recipe = replace(recipe, model=replace(recipe.model, pretrained=False))
    edge = recipe.input.pixels
    with torch.device("meta"), torch.no_grad():
        network = plugin.build(recipe, False).eval()
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(1, recipe.input.channels, edge, edge))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return NetworkCost(round(parameters / 1e6, 2), round(counter.get_total_flops() / 2e9, 2))
