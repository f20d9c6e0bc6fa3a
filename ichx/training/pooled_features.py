"""Pooled features: the input of a network's last layer, captured from the pass that predicts."""

import contextlib
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ichx.errors import UnsupportedError
from ichx.evaluation.feature_files import FeatureSink

LARGEST: Final = float(np.finfo(np.float16).max)


@contextlib.contextmanager
def capture_features(
    model: nn.Module, slice_ids: npt.NDArray[np.object_], writer: FeatureSink | None
) -> Iterator[None]:
    """Write the pooled features of everything that `model` predicts in this block.

    Args:
        model: The network.
        slice_ids: `(N,)` ids of the predicted slices, in their order.
        writer: Receives the features; None captures nothing.

    Raises:
        UnsupportedError: The network does not name its last layer.
    """
    if writer is None:
        yield
        return
    done = 0

    def capture(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        nonlocal done
        features = arguments[0].flatten(1).float().clamp(-LARGEST, LARGEST).to(torch.float16).cpu().numpy()
        writer.add(slice_ids[done : done + len(features)], features)
        done += len(features)

    hook = last_layer(model).register_forward_pre_hook(capture)
    try:
        yield
    finally:
        hook.remove()


def last_layer(model: nn.Module) -> nn.Module:
    """Return the layer that maps pooled features to logits. Raises `UnsupportedError` if `model` does not name it."""
    classifier = getattr(model, "get_classifier", None)
    layer = classifier() if callable(classifier) else None
    if not isinstance(layer, nn.Module) or isinstance(layer, nn.Identity):
        raise UnsupportedError(
            f"The network {type(model).__name__} has no pooled features: `get_classifier()` returns no layer.",
            "Leave out --save features, or add that method to the plugin's network.",
        )
    return layer
