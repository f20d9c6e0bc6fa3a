"""One epoch of training, and prediction: the innermost loops, free of stages, stores and files."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ichx.errors import IchxError
from ichx.labels import LABELS
from ichx.training.method import WindowStep, weighted_loss

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ichx.data.loader import Batch

REPORT_EVERY = 16
"""Batches between looks at the loss, which make the device wait."""


def train_epoch(
    model: nn.Module,
    window_step: WindowStep,
    batches: "Iterable[Batch]",
    optimizer: torch.optim.Optimizer,
    accelerator: "Accelerator",
    rate: Callable[[int], float],
    report: Callable[[int, float, int], None],
) -> tuple[float, int]:
    """Train `model` once over `batches`; return the mean loss and the number of images.

    `rate(step)` is the learning rate of a step, counted from 0. `report(batches, mean_loss, images)` is called now and
    then. Raises `IchxError` when the loss is not finite.
    """
    model.train()
    device = accelerator.device
    ahead = device.type == "cuda"  # from pinned memory; elsewhere a copy could see what the loader writes next
    total = torch.zeros((), device=device)
    count = images = 0
    for batch in batches:
        hu, windows = batch.hu.to(device, non_blocking=ahead), batch.windows.to(device, non_blocking=ahead)
        labels = batch.labels.to(device, non_blocking=ahead)
        for group in optimizer.param_groups:
            group["lr"] = rate(count)
        jitter = None if batch.jitter is None else batch.jitter.to(device, non_blocking=ahead)
        loss = weighted_loss(model(window_step(hu, windows, jitter)), labels)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        total += loss.detach()
        count += 1
        images += len(labels)
        if count % REPORT_EVERY == 0:
            report(count, _finite(total.item() / count), images)
    return _finite(total.item() / max(count, 1)), images


@torch.inference_mode()
def predict(
    model: nn.Module,
    window_step: WindowStep,
    batches: "Iterable[Batch]",
    device: torch.device,
    view: str,
    report: Callable[[int], None],
) -> npt.NDArray[np.float32]:
    """Return the logits `(N, 6)` of all slices in `batches`, in their order, under `view` (`identity` or `hflip`)."""
    model.eval()
    ahead = device.type == "cuda"
    parts: list[npt.NDArray[np.float32]] = []
    done = 0
    for batch in batches:
        hu = batch.hu.to(device, non_blocking=ahead)
        hu = hu.flip(-1) if view == "hflip" else hu
        logits = model(window_step(hu, batch.windows.to(device, non_blocking=ahead)))
        parts.append(logits.float().cpu().numpy())
        done += len(hu)
        report(done)
    return np.concatenate(parts) if parts else np.empty((0, len(LABELS)), dtype=np.float32)


def _finite(loss: float) -> float:
    if not np.isfinite(loss):
        raise IchxError(
            "the training loss is no longer a finite number",
            "lower the learning rate (--set stage.NAME.lr=...) or train in fp32 (--set precision=fp32)",
        )
    return loss
