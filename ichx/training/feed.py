"""The interface between a training and its data. Slices from the HU cache are its implementation in `slice_feed`."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Inputs:
    """A batch on the device, as the network and the loss read it."""

    images: torch.Tensor
    """`(N, C, H, W)` float32."""
    labels: torch.Tensor
    """`(N, 6)` float32, NaN where unknown."""
    masks: tuple[tuple[float, torch.Tensor], ...] = ()
    """Masks `(N, H, W)` uint8, each with the weight of its loss."""

    def part(self, part: slice) -> "Inputs":
        """Return a part of the batch."""
        return Inputs(self.images[part], self.labels[part], tuple((share, masks[part]) for share, masks in self.masks))


@dataclass(frozen=True)
class EpochPlan:
    """One epoch of a stage: its rows in order, and how they are divided into batches."""

    stage: int
    epoch: int
    """From 0, within the stage."""
    rows: Rows
    size: int
    """Rows per batch, over all processes."""
    done: int = 0
    """Batches that are trained on already."""

    @property
    def total(self) -> int:
        """Batches of the epoch; an incomplete last one is dropped, unless it is the only one."""
        return max(len(self.rows) // max(self.size, 1), 1)


class InferenceFeed(Protocol):
    """Batches for prediction. A row is an index into the feed's items (slices, series)."""

    unit: str
    """What a row is, e.g. "slices"."""

    def inference_batches(self, rows: Rows, *, batch: int, masks: bool = False) -> Iterator[Any]:
        """Yield all of `rows` in order, `batch` at a time; each batch has a length of `batch.rows`."""
        ...

    def inputs(self, batch: Any, device: torch.device, *, view: str = "identity") -> Inputs:
        """Return `batch` on `device` as network input, under `view` (`identity` or `hflip`)."""
        ...

    def ids(self, rows: Rows) -> npt.NDArray[np.object_]:
        """Return the ids of `rows`."""
        ...


class TrainingFeed(InferenceFeed, Protocol):
    """Batches for training, and the rows of one fold."""

    validation_rows: Rows
    """Rows that are validated after each epoch, never trained on."""
    masks: Any
    """Anything but None if batches have masks."""

    def epoch_rows(self, stage: int, epoch: int) -> Rows:
        """Return the rows of an epoch in training order; the same for the same arguments."""
        ...

    def training_batches(self, plan: EpochPlan, *, part: tuple[int, int]) -> Iterator[Any]:
        """Yield the remaining batches of `plan`, of each only part k of n, `part`."""
        ...

    def labels(self, rows: Rows) -> npt.NDArray[np.float64]:
        """Return the labels `(N, 6)` of `rows`."""
        ...
