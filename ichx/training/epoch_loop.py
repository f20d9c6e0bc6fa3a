"""One epoch of training, and prediction: the innermost loops, free of stages, stores and files."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ichx.labels import LABELS
from ichx.training.distributed import Group
from ichx.training.fold_progress import EpochSums
from ichx.training.learner import Learner
from ichx.training.mask_loss import Overlap
from ichx.training.method import WindowStep
from ichx.training.micro_batches import Portions
from ichx.training.step_sync import Agreed, Looks

if TYPE_CHECKING:
    from ichx.loading.loader import Batch


@dataclass(frozen=True)
class EpochPart:
    """What is left of an epoch: of its `total` batches of `size` slices (over all processes), `done` are done."""

    epoch: int
    done: int
    total: int
    size: int


class LossError(Exception):
    """The loss of step `step` (from 0) is `loss`, which is not finite."""

    def __init__(self, step: int, loss: float) -> None:
        super().__init__(f"the loss of step {step} is {loss}")
        self.step, self.loss = step, loss


def train_epoch(
    learner: Learner,
    batches: "Iterable[Batch]",
    part: EpochPart,
    sums: EpochSums,
    group: Group,
    looks: Looks,
    looked: Callable[[int, Agreed], None],
) -> None:
    """Train on what is left of an epoch, of whose batches this process gets its share, and add to `sums`.

    `looked(batches_done, agreed)` is called after each look. Raises `LossError` at the first look after the loss has
    stopped being finite.
    """
    learner.begin_epoch(part.epoch)
    looks.begin()
    done, since = part.done, time.perf_counter()
    losses: list[torch.Tensor] = []
    for batch in batches:
        share = len(batch.rows) / part.size
        loss = learner.step(batch, part.epoch, done, part.total, share * group.size)
        losses.append(loss if share == 1.0 else loss * share)
        done += 1
        if not looks.after_step(done == part.total):
            continue
        agreed = looks.exchange(torch.stack(losses).tolist())  # here the device is waited for
        for step, values in enumerate(zip(*agreed.brought, strict=True), done - len(losses)):
            # one by one and by rank: the sum does not depend on when it was looked at
            value = sum(values)
            if not math.isfinite(value):
                raise LossError(step, value)
            sums.loss += value
        sums.images += len(losses) * part.size
        losses.clear()
        now = time.perf_counter()
        sums.training += now - since
        looked(done, agreed)
        since = time.perf_counter()  # what a checkpoint takes is no training


def predict(
    model: nn.Module,
    window_step: WindowStep,
    batches: "Iterable[Batch]",
    device: torch.device,
    view: str,
    report: Callable[[int], None],
    portions: Portions,
) -> npt.NDArray[np.float32]:
    """Return the logits `(N, 6)` of all slices in `batches`, in their order, under `view` (`identity` or `hflip`).

    `portions` knows how many of them fit into memory at once.
    """
    model.eval()
    parts: list[npt.NDArray[np.float32]] = []
    done = 0
    for batch in batches:
        parts.append(predict_batch(model, window_step, batch, device, view, portions))
        done += len(parts[-1])
        report(done)
    return np.concatenate(parts) if parts else np.empty((0, len(LABELS)), dtype=np.float32)


@torch.inference_mode()
def predict_batch(
    model: nn.Module,
    window_step: WindowStep,
    batch: "Batch",
    device: torch.device,
    view: str,
    portions: Portions,
    overlap: Overlap | None = None,
) -> npt.NDArray[np.float32]:
    """Return the logits `(n, 6)` of one batch by `model`, which is in evaluation mode.

    Where the batch has masks, `overlap` counts how the network's agree with them, under `identity`.
    """
    ahead = device.type == "cuda"
    hu = batch.hu.to(device, non_blocking=ahead)
    hu = hu.flip(-1) if view == "hflip" else hu
    images = window_step.in_parts(hu, batch.windows.to(device, non_blocking=ahead))
    masks = None if overlap is None or batch.masks is None else batch.masks.to(device, non_blocking=ahead)
    logits = images.new_empty((0, len(LABELS)))
    while left := len(images) - (done := len(logits)):
        # part by part: what has been predicted is not predicted again, nor are its features captured twice
        part, pixels = portions.run(left, partial(_first, model, images[done:], masks is not None))
        logits = torch.cat([logits, part.float()])
        if overlap is not None and masks is not None:
            overlap.add(pixels, masks[done : len(logits)])
    found: npt.NDArray[np.float32] = logits.cpu().numpy()
    return found


def _first(
    model: nn.Module, images: torch.Tensor, with_masks: bool, parts: list[slice]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits of the first of `parts` of `images`, and those of its masks or none."""
    if with_masks:
        logits, pixels = model(images[parts[0]], masks=True)
        return logits, pixels
    logits = model(images[parts[0]])
    return logits, logits[:0]
