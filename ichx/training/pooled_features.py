"""Pooled features: what a network's last layer makes its logits of, taken from the very pass that predicts."""

import contextlib
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from accelerate.utils import extract_model_from_parallel
from torch import nn

from ichx.errors import IchxError
from ichx.evaluation.feature_files import FeatureWriter

LARGEST: Final = float(np.finfo(np.float16).max)


@contextlib.contextmanager
def captured(model: nn.Module, slice_ids: npt.NDArray[np.object_], into: FeatureWriter | None) -> Iterator[None]:
    """Write to `into` the pooled features of all that `model` predicts meanwhile: `slice_ids` (N,), in their order.

    Nothing is done where `into` is None. Raises `IchxError` for a network whose last layer cannot be told.
    """
    if into is None:
        yield
        return
    done = 0

    def take(_: nn.Module, given: tuple[Any, ...]) -> None:
        nonlocal done
        features = given[0].flatten(1).float().clamp(-LARGEST, LARGEST).to(torch.float16).cpu().numpy()
        into.add(slice_ids[done : done + len(features)], features)
        done += len(features)

    hook = last_layer(extract_model_from_parallel(model)).register_forward_pre_hook(take)
    try:
        yield
    finally:
        hook.remove()


def last_layer(model: nn.Module) -> nn.Module:
    """Return the layer of `model` that makes logits of pooled features; raises `IchxError` where it does not say."""
    classifier = getattr(model, "get_classifier", None)
    layer = classifier() if callable(classifier) else None
    if not isinstance(layer, nn.Module) or isinstance(layer, nn.Identity):
        raise IchxError(
            f"the network {type(model).__name__} has no pooled features: its `get_classifier()` names no last layer",
            "leave out --save features, or give the plugin's network that method",
        )
    return layer
