"""Bidirectional GRU and LSTM of H independent networks.

A series is reversed within its length, so padding is last in both directions and no slice depends on it.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn

KINDS = {"gru": nn.GRU, "lstm": nn.LSTM}


class HeadRecurrence(nn.Module):
    """A bidirectional recurrent layer: `(H or 1, B, T, inputs)` to `(H, B, T, 2 * hidden)`."""

    def __init__(self, kind: Literal["gru", "lstm"], heads: int, inputs: int, hidden: int) -> None:
        """Create torch's layers, two of one direction for each head."""
        super().__init__()
        self.heads, self.hidden, self.kind = heads, hidden, kind
        self.forwards, self.backwards = (
            nn.ModuleList(KINDS[kind](inputs, hidden, batch_first=True) for _ in range(heads)) for _ in range(2)
        )

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the states of both directions; `mask` `(B, T, 1)` is False for padding, whose states mean nothing."""
        order = reversal(mask[..., 0])
        reverse = permuted(x, order)
        grouped = self.kind == "gru" and self.heads > 1 and x.device.type == "cpu"
        if grouped and not torch.compiler.is_compiling():  # an export would get a dozen operations per slice
            ahead, behind = gru_of_groups((x, reverse), (self.forwards, self.backwards))
        else:
            own = [index % x.shape[0] for index in range(self.heads)]
            ahead = torch.stack([layer(x[at])[0] for at, layer in zip(own, self.forwards, strict=True)])
            behind = torch.stack([layer(reverse[at])[0] for at, layer in zip(own, self.backwards, strict=True)])
        return torch.cat([ahead, permuted(behind, order)], dim=-1)


def reversal(mask: torch.Tensor) -> torch.Tensor:
    """Return the row of `B * T` whose content each row gets when each series is reversed within its length.

    `mask` is `(B, T)`; padding stays where it is. Reversing twice changes nothing.
    """
    batch, slices = mask.shape
    place = torch.arange(slices, device=mask.device)
    reverse = torch.where(mask, mask.sum(dim=1, keepdim=True) - 1 - place, place)
    return (reverse + slices * torch.arange(batch, device=mask.device)[:, None]).flatten()


def permuted(x: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Return `x` `(H, B, T, C)` with the `B * T` rows of each head in `order`, which is its own inverse."""
    rows: torch.Tensor = Permutation.apply(x.flatten(1, 2), order)
    return rows.view(x.shape)


class Permutation(torch.autograd.Function):
    """Rows `(H, N, C)` in an order that is its own inverse: the gradient is a permutation too, not a sum."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
        """Return `x` with its rows in `order` `(N,)`."""
        ctx.save_for_backward(order)
        return x.index_select(1, order)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Return the gradient in the original order."""
        (order,) = ctx.saved_tensors
        return gradient.index_select(1, order), None


def gru_of_groups(inputs: Sequence[torch.Tensor], layers: Sequence[nn.ModuleList]) -> Sequence[torch.Tensor]:
    """Return the states `(H, B, T, hidden)` of the GRU layers of D directions, all of them computed together.

    torch computes one layer at a time, with a dozen operations per slice. For heads as small as these they take longer
    than the products.

    Args:
        inputs: `(H or 1, B, T, C)` of each direction.
        layers: H layers of each direction.
    """
    heads, directions = len(layers[0]), len(layers)
    _, batch, slices, channels = inputs[0].shape
    every: Any = [layer for of_direction in layers for layer in of_direction]
    hidden = every[0].hidden_size
    weight = torch.stack([layer.weight_ih_l0 for layer in every])  # (G, 3 hidden, C), G = D * H
    # The biases of reset and update only occur in their sum.
    biases = torch.stack([layer.bias_hh_l0 for layer in every])
    bias = torch.stack([layer.bias_ih_l0 for layer in every]) + torch.cat(
        [biases[:, : 2 * hidden], torch.zeros_like(biases[:, 2 * hidden :])], dim=1
    )
    rows = torch.stack([x.transpose(1, 2).flatten(1, 2) for x in inputs])  # (D, H or 1, T * B, C)
    if rows.shape[1] == heads:
        gates = torch.baddbmm(bias[:, None], rows.flatten(0, 1), weight.transpose(1, 2))
        steps = gates.view(directions * heads, slices, batch, -1).transpose(0, 1)
    else:
        wide = weight.view(directions, -1, channels).transpose(1, 2)
        gates = torch.baddbmm(bias.view(directions, 1, -1), rows[:, 0], wide)
        steps = gates.view(directions, slices, batch, heads, -1).permute(1, 0, 3, 2, 4).flatten(1, 2)
    recurrent = torch.stack([layer.weight_hh_l0 for layer in every]).transpose(1, 2)
    states = GroupedGRU.apply(steps, recurrent, biases[:, None, 2 * hidden :])
    found: Sequence[torch.Tensor] = states.permute(1, 2, 0, 3).view(directions, heads, batch, slices, hidden).unbind()
    return found


class GroupedGRU(torch.autograd.Function):
    """The recurrence of G GRU layers in torch's form; gates are in the order reset, update, new.

    The gradient is written by hand: the derivatives of all slices at once, and four operations per slice.
    """

    @staticmethod
    def forward(ctx: Any, steps: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Return the states `(T, G, B, hidden)`.

        Args:
            ctx: Receives what `backward` needs.
            steps: `(T, G, B, 3 * hidden)`, what the inputs add to the gates.
            weight: `(G, hidden, 3 * hidden)`.
            bias: `(G, 1, hidden)` of the part of the new state that the reset gate multiplies.
        """
        count, groups, batch, width = steps.shape
        hidden = width // 3
        states = steps.new_zeros(count + 1, groups, batch, hidden)
        gates = steps.new_empty(count, groups, batch, 2 * hidden)
        new, recurrent = steps.new_empty(2, count, groups, batch, hidden)
        product = steps.new_empty(groups, batch, width)
        for t in range(count):
            torch.bmm(states[t], weight, out=product)
            torch.add(steps[t, ..., : 2 * hidden], product[..., : 2 * hidden], out=gates[t]).sigmoid_()
            torch.add(product[..., 2 * hidden :], bias, out=recurrent[t])
            reset, update = gates[t].chunk(2, dim=-1)
            torch.addcmul(steps[t, ..., 2 * hidden :], reset, recurrent[t], out=new[t]).tanh_()
            torch.lerp(new[t], states[t], update, out=states[t + 1])
        ctx.save_for_backward(weight, states, gates, new, recurrent)
        return states[1:]

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the gradients of `steps`, `weight` and `bias`."""
        weight, states, gates, new, recurrent = ctx.saved_tensors
        count, groups, batch, hidden = new.shape
        reset, update = gates.chunk(2, dim=-1)
        # Derivatives of the state by the gates before their nonlinearity.
        by_new = (1 - update) * (1 - new * new)
        by_update = (states[:-1] - new) * update * (1 - update)
        by_reset = by_new * recurrent * reset * (1 - reset)
        by_product = torch.stack([by_reset, by_update, by_new * reset], dim=3)  # (T, G, B, 3, hidden)
        products, totals = torch.empty_like(by_product), torch.empty_like(new)
        transposed = weight.transpose(1, 2).contiguous()
        carried = torch.zeros_like(new[0])
        for t in range(count - 1, -1, -1):
            torch.add(carried, gradient[t], out=totals[t])
            torch.mul(totals[t].unsqueeze(2), by_product[t], out=products[t])
            torch.mul(totals[t], update[t], out=carried)
            carried.baddbmm_(products[t].view(groups, batch, 3 * hidden), transposed)
        flat = products.view(count, groups, batch, 3 * hidden)
        steps = torch.cat([flat[..., : 2 * hidden], totals * by_new], dim=-1)
        before = states[:-1].permute(1, 3, 0, 2).reshape(groups, hidden, count * batch)
        rows = flat.permute(1, 0, 2, 3).reshape(groups, count * batch, 3 * hidden)
        return steps, torch.bmm(before, rows), flat[..., 2 * hidden :].sum(dim=(0, 2)).unsqueeze(1)
