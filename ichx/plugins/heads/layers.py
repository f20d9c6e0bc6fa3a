"""Layers of H independent networks that are computed together.

Tensors are `(H, B, T, C)`: heads, series, slices, channels. An input that all heads share is `(1, B, T, C)`. One
product of large matrices takes a fraction of the time of H products of small ones.
"""

import math

import torch
from torch import nn


class HeadLinear(nn.Module):
    """A linear layer of each head, with the initial weights of `torch.nn.Linear`."""

    def __init__(self, heads: int, inputs: int, outputs: int, *, zero: bool = False) -> None:
        """Create the layer; it starts with weights of 0 if `zero`."""
        super().__init__()
        bound = 0.0 if zero or inputs == 0 else 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(heads, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(heads, 1, outputs).uniform_(-bound, bound))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `(H, ..., outputs)` for `x` `(H or 1, ..., inputs)`."""
        heads, inputs, outputs = self.weight.shape
        rows = x.reshape(x.shape[0], -1, inputs)
        if x.shape[0] == heads:
            result = torch.baddbmm(self.bias, rows, self.weight)
        else:
            wide = rows[0] @ self.weight.transpose(0, 1).reshape(inputs, heads * outputs)
            result = wide.view(-1, heads, outputs).transpose(0, 1) + self.bias
        return result.reshape(heads, *x.shape[1:-1], outputs)


class HeadNorm(nn.Module):
    """Layer normalization with a scale and an offset of each head (Ba et al. 2016, arXiv 1607.06450)."""

    def __init__(self, heads: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(heads, 1, channels))
        self.bias = nn.Parameter(torch.zeros(heads, 1, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return a tensor of the shape of `x`, `(H, B, T, C)`."""
        normal = nn.functional.layer_norm(x, x.shape[-1:])
        return torch.addcmul(self.bias.unsqueeze(1), normal, self.weight.unsqueeze(1))


class HeadConvolution(nn.Module):
    """A convolution over three slices, `dilation` apart. Beyond the ends of a series there are zeros."""

    def __init__(self, heads: int, inputs: int, outputs: int, dilation: int = 1) -> None:
        super().__init__()
        self.dilation = dilation
        self.linear = HeadLinear(heads, 3 * inputs, outputs)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return `(H, B, T, outputs)` for `x` `(H, B, T, inputs)` with a `mask` `(B, T, 1)`, False for padding."""
        x = x * mask
        before, after = shifted(x, self.dilation), shifted(x, -self.dilation)
        result: torch.Tensor = self.linear(torch.cat([before, x, after], dim=-1))
        return result


class AttentionPool(nn.Module):
    """The logits of a series: a mean of its slices, weighted by what each head finds important for each label."""

    def __init__(self, heads: int, channels: int, labels: int, *, zero: bool = False) -> None:
        super().__init__()
        self.importance = HeadLinear(heads, channels, labels)
        self.value = HeadLinear(heads, channels, labels, zero=zero)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return `(H, B, labels)` for `x` `(H, B, T, C)` with a `mask` `(B, T, 1)`."""
        importance = self.importance(x).masked_fill(~mask, -torch.inf).softmax(dim=2)
        pooled: torch.Tensor = (importance * self.value(x)).sum(dim=2)
        return pooled


def shifted(x: torch.Tensor, slices: int) -> torch.Tensor:
    """Return `x` `(H, B, T, C)` moved along T by `slices` (positive: towards the end); zeros follow."""
    if abs(slices) >= x.shape[2]:
        return torch.zeros_like(x)
    return nn.functional.pad(x, (0, 0, max(slices, 0), max(-slices, 0)))[:, :, max(-slices, 0) :][:, :, : x.shape[2]]


def with_differences(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return `(H, B, T, 3 C)`: `x` and its differences to the previous and the next slice, 0 at the ends of a series.

    Args:
        x: `(H, B, T, C)`.
        mask: `(B, T, 1)`, False for padding.
    """
    backward = (x - shifted(x, 1)) * (mask & shifted(mask[None], 1)[0])
    forward = (x - shifted(x, -1)) * (mask & shifted(mask[None], -1)[0])
    return torch.cat([x, backward, forward], dim=-1)


def mean_logits(logits: torch.Tensor) -> torch.Tensor:
    """Return the members' mean logit `(1, B, T, 6)` of `logits` `(B, T, M, 6)`."""
    return logits.mean(dim=2)[None]


def largest(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the largest logit `(H, B, 6)` of each series of `logits` `(H, B, T, 6)` with a `mask` `(B, T, 1)`."""
    return logits.masked_fill(~mask, -torch.inf).amax(dim=2)
