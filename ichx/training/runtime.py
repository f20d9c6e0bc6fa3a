"""Device, precision and processes of a training: autocast, gradient scaling, data parallelism."""

import contextlib
from contextlib import AbstractContextManager
from typing import Any, Final

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from ichx.errors import UnsupportedError
from ichx.training.device import Hardware
from ichx.training.distributed import Group
from ichx.training.exact_head import exact_head
from ichx.training.mean_network import parts_of

HALF: Final = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Dtype of the operations that are safe in half precision."""


class Runtime:
    """Runs networks on one device in one precision, alone or as one of several processes."""

    def __init__(self, hardware: Hardware, group: Group | None = None, *, unused_parameters: bool = False) -> None:
        """Create the runtime; with fp16 gradients are scaled, as its range needs.

        Args:
            hardware: Device and precision.
            group: The processes that train together; None for this one alone.
            unused_parameters: Whether some steps leave parameters without gradients, which a group must know.
        """
        self.unused_parameters = unused_parameters
        self.hardware = hardware
        self.group = group or Group()
        self.device = hardware.device
        self.scaler = torch.amp.GradScaler("cuda") if hardware.precision == "fp16" else None
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)

    def prepare(self, model: nn.Module, *, sync_bn: bool = False) -> nn.Module:
        """Return `model` on the device, channels last in memory, wrapped for data parallelism in a group.

        In half precision its last layer computes in float32, so that no logit is rounded.

        Args:
            model: The network.
            sync_bn: Whether batch norms of a group use the statistics of all parts of a batch.

        Raises:
            UnsupportedError: `sync_bn` is wanted of a group that trains on CPUs.
        """
        if sync_bn and self.group.size > 1:
            model = synchronize_batch_norms(model, self.device)
        if self.hardware.precision in HALF:
            for network in parts_of(model):
                exact_head(network)
        model = model.to(self.device).to(memory_format=torch.channels_last)
        if self.group.size == 1:
            return model
        devices = [self.device.index] if self.device.type == "cuda" else None
        # Buffers are those of the first process after each epoch (`Group.broadcast_buffers`); no step reads them.
        return DistributedDataParallel(
            model, device_ids=devices, find_unused_parameters=self.unused_parameters, broadcast_buffers=False
        )

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which networks compute in the chosen precision."""
        dtype = HALF.get(self.hardware.precision)
        if dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=dtype)

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of `loss`, scaled in fp16."""
        scaled = loss if self.scaler is None else self.scaler.scale(loss)
        torch.autograd.backward(scaled)

    def accumulate(self, model: nn.Module, *, last: bool) -> AbstractContextManager[Any]:
        """Return the context of one part of a batch: processes exchange gradients in the `last` one only."""
        if last or not isinstance(model, DistributedDataParallel):
            return contextlib.nullcontext()
        return model.no_sync()


def synchronize_batch_norms(model: nn.Module, device: torch.device) -> nn.Module:
    """Return `model` with batch norms that compute their statistics over all processes; names of weights stay.

    Raises:
        UnsupportedError: Torch cannot do that on `device`.
    """
    norms = any(isinstance(layer, _BatchNorm) for layer in model.modules())
    if device.type != "cuda" and norms:
        raise UnsupportedError(
            f"Batch norms of several processes cannot be synchronized on {device.type}.",
            "Train on GPUs, in one process, or with `--set model.sync_bn=false`.",
        )
    from timm import layers

    convert: Any = layers.convert_sync_batchnorm  # type: ignore[attr-defined]
    converted: nn.Module = convert(model)  # torch's own would lose the activations within timm's layers
    return converted


def unwrap(model: nn.Module) -> nn.Module:
    """Return the network without the wrapper for data parallelism."""
    inner: nn.Module = model.module if isinstance(model, DistributedDataParallel) else model
    return inner
