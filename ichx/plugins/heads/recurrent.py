"""Bidirectional GRU and LSTM of H independent networks.

A series is reversed within its length, so padding is last in both directions and no slice depends on it.
"""

from typing import Any, Literal

import torch
from torch import nn

KINDS = {"gru": nn.GRU, "lstm": nn.LSTM}


class HeadRecurrence(nn.Module):
    """A bidirectional recurrent layer: `(H or 1, B, T, inputs)` to `(H, B, T, 2 * hidden)`, zero at padding."""

    def __init__(self, kind: Literal["gru", "lstm"], heads: int, inputs: int, hidden: int) -> None:
        """Create torch's layers, two of one direction for each head."""
        super().__init__()
        self.heads, self.hidden = heads, hidden
        self.forwards, self.backwards = (
            nn.ModuleList(KINDS[kind](inputs, hidden, batch_first=True) for _ in range(heads)) for _ in range(2)
        )

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the states of both directions; `mask` `(B, T, 1)` is False for padding."""
        order = reversal(mask[..., 0])
        backward = Permute.apply(x.flatten(1, 2), order).view(x.shape)
        own = [index % x.shape[0] for index in range(self.heads)]
        ahead = torch.stack([layer(x[at])[0] for at, layer in zip(own, self.forwards, strict=True)])
        behind = torch.stack([layer(backward[at])[0] for at, layer in zip(own, self.backwards, strict=True)])
        behind = Permute.apply(behind.flatten(1, 2), order).view(behind.shape)
        return torch.cat([ahead, behind], dim=-1) * mask


def reversal(mask: torch.Tensor) -> torch.Tensor:
    """Return the row of `B * T` whose content each row gets when each series is reversed within its length.

    `mask` is `(B, T)`; padding stays where it is. Reversing twice changes nothing.
    """
    batch, slices = mask.shape
    place = torch.arange(slices, device=mask.device)
    reverse = torch.where(mask, mask.sum(dim=1, keepdim=True) - 1 - place, place)
    return (reverse + slices * torch.arange(batch, device=mask.device)[:, None]).flatten()


class Permute(torch.autograd.Function):
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
