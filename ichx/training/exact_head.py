"""Computes a network's last layer in float32 where the rest computes in half precision.

A bfloat16 logit of 3 is rounded by up to 0.008, in every score and in what is stored. The layer is so small that its
precision costs nothing.
"""

import torch
from torch import nn

from ichx.labels import LABELS


class ExactLinear(nn.Linear):
    """A linear layer that computes in float32 under any autocast."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return float32 `(N, out_features)` for `x` `(N, in_features)`."""
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())


def exact_head(model: nn.Module) -> None:
    """Replace the last linear layer of `model` that has six outputs by an `ExactLinear` with the same weights.

    A network without one, e.g. with a convolution as its head, stays as it is.
    """
    heads = [
        name for name, part in model.named_modules() if type(part) is nn.Linear and part.out_features == len(LABELS)
    ]
    if not heads:
        return
    parent, _, name = heads[-1].rpartition(".")
    holder = model.get_submodule(parent)
    head = holder.get_submodule(name)
    assert isinstance(head, nn.Linear)
    with torch.device("meta"):
        exact = ExactLinear(head.in_features, head.out_features, bias=head.bias is not None)
    exact.weight, exact.bias = head.weight, head.bias
    exact.train(head.training)
    setattr(holder, name, exact)
