"""One epoch of training, and prediction: the innermost loops, free of stages, stores and files."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ichx.errors import IchxError
from ichx.labels import LABELS
from ichx.training.learner import Learner
from ichx.training.mask_loss import Overlap
from ichx.training.method import WindowStep

if TYPE_CHECKING:
    from ichx.data.loader import Batch

REPORT_EVERY = 16
"""Batches between looks at the loss, which make the device wait."""


def train_epoch(
    learner: Learner,
    batches: "Iterable[Batch]",
    epoch: int,
    total: int,
    report: Callable[[int, float, int], None],
) -> tuple[float, int]:
    """Train once over the `total` `batches` of the stage's `epoch`; return the mean loss and the number of images.

    `report(batches, mean_loss, images)` is called now and then. Raises `IchxError` when the loss is not finite.
    """
    learner.model.train()
    sum_of_losses = torch.zeros((), device=learner.accelerator.device)
    count = images = 0
    for batch in batches:
        sum_of_losses += learner.step(batch, epoch, count, total)
        count += 1
        images += len(batch.rows)
        if count % REPORT_EVERY == 0:
            report(count, _finite(sum_of_losses.item() / count), images)
    return _finite(sum_of_losses.item() / max(count, 1)), images


@torch.inference_mode()
def predict(
    model: nn.Module,
    window_step: WindowStep,
    batches: "Iterable[Batch]",
    device: torch.device,
    view: str,
    report: Callable[[int], None],
    overlap: Overlap | None = None,
) -> npt.NDArray[np.float32]:
    """Return the logits `(N, 6)` of all slices in `batches`, in their order, under `view` (`identity` or `hflip`).

    Where the batches have masks, `overlap` counts how the network's agree with them, under `identity`.
    """
    model.eval()
    ahead = device.type == "cuda"
    parts: list[npt.NDArray[np.float32]] = []
    done = 0
    for batch in batches:
        hu = batch.hu.to(device, non_blocking=ahead)
        hu = hu.flip(-1) if view == "hflip" else hu
        images = window_step(hu, batch.windows.to(device, non_blocking=ahead))
        if overlap is None or batch.masks is None:
            logits = model(images)
        else:
            logits, pixels = model(images, masks=True)
            overlap.add(pixels, batch.masks.to(device, non_blocking=ahead))
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
