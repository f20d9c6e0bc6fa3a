"""The interface between a training and its data. Slices from the HU cache are its implementation in `slice_feed`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from ichx.evaluation.scored_rows import Truth
from ichx.recipe import Recipe
from ichx.training.losses import weighted_loss
from ichx.training.mask_loss import mask_loss
from ichx.training.prior_shift import sampled_logits
from ichx.training.study_loss import StudyGroups, expected_labels, study_loss

Rows = npt.NDArray[np.int64]


class Inputs(Protocol):
    """A batch on the device: what the network reads, and what its outputs are compared with."""

    def __len__(self) -> int:
        """Return the number of rows."""
        ...

    def part(self, part: slice) -> "Inputs":
        """Return a part of the batch."""
        ...

    def forward(self, network: Callable[..., Any]) -> Any:
        """Return the outputs of `network` for this batch."""
        ...

    def loss(self, outputs: Any, recipe: Recipe) -> torch.Tensor:
        """Return the mean loss of the rows, which the outputs of `forward` have by `recipe`."""
        ...

    def predictions(self, outputs: Any) -> torch.Tensor:
        """Return the predictions `(N, *shape)` in the outputs of `forward`, where `shape` is that of the feed."""
        ...


@dataclass(frozen=True)
class SliceInputs:
    """A batch of slices."""

    images: torch.Tensor
    """`(N, C, H, W)` float32."""
    labels: torch.Tensor
    """`(N, 6)` float32, NaN where unknown."""
    masks: tuple[tuple[float, torch.Tensor], ...] = ()
    """Masks `(N, H, W)` uint8, each with the weight of its loss."""
    negative_share: float = 1.0
    """See `Batch.negative_share`."""
    known_share: float | torch.Tensor | None = None
    """Share of the weights of the complete batch whose labels are known; None if all are."""
    groups: StudyGroups | None = None
    """Labelled studies or series of the slices."""
    posterior_share: float = 1.0
    """See `Batch.posterior_share`."""

    def __len__(self) -> int:
        """See `Inputs`."""
        return len(self.images)

    def part(self, part: slice) -> "SliceInputs":
        """See `Inputs.part`."""
        masks = tuple((share, masks[part]) for share, masks in self.masks)
        groups = None if self.groups is None else self.groups.part(part)
        return replace(self, images=self.images[part], labels=self.labels[part], masks=masks, groups=groups)

    def forward(self, network: Callable[..., Any]) -> Any:
        """Return logits `(N, 6)`; if the batch has masks, return logits and mask logits."""
        return network(self.images, masks=True) if self.masks else network(self.images)

    def loss(self, outputs: Any, recipe: Recipe) -> torch.Tensor:
        """Return the loss of the labels, plus those of labelled studies and of masks if there are any."""
        logits = self.predictions(outputs)
        if self.negative_share < 1:
            logits = sampled_logits(logits, self.negative_share)
        loss = weighted_loss(logits, self.labels, recipe.loss.label_smoothing, self.known_share)
        if self.groups is not None:
            loss = loss + recipe.loss.study_weight * self._loss_of_studies(logits, self.groups, recipe)
        if not self.masks:
            return loss
        masks_loss = torch.stack([weight * mask_loss(outputs[1], masks) for weight, masks in self.masks]).sum()
        return loss + recipe.model.mask_weight * masks_loss

    def _loss_of_studies(self, logits: torch.Tensor, groups: StudyGroups, recipe: Recipe) -> torch.Tensor:
        pooling, smoothing = recipe.loss.study_pooling, recipe.loss.label_smoothing
        if pooling != "posterior":
            return study_loss(logits, groups, pooling, smoothing)
        expected = expected_labels(logits, self.labels, groups, self.posterior_share)
        return weighted_loss(logits, expected, smoothing, 1.0 if self.known_share is None else self.known_share)

    def predictions(self, outputs: Any) -> torch.Tensor:
        """Return the logits `(N, 6)`."""
        logits: torch.Tensor = outputs[0] if self.masks else outputs
        return logits


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
    shape: tuple[int, ...]
    """Shape of the prediction of a row: `(6,)` for slices."""

    def inference_batches(self, rows: Rows, *, batch: int, masks: bool = False) -> Iterator[Any]:
        """Yield all of `rows` in order, `batch` at a time; each batch has a length of `batch.rows`."""
        ...

    def inputs(self, batch: Any, device: torch.device, *, view: str = "identity") -> Inputs:
        """Return `batch` on `device` as network input, under `view`, a name of `ichx.views`."""
        ...

    def ids(self, rows: Rows) -> npt.NDArray[np.object_]:
        """Return the ids of `rows`."""
        ...

    def slice_ids(self, rows: Rows) -> npt.NDArray[np.object_]:
        """Return the ids `(S,)` of the slices of `rows`."""
        ...

    def slice_logits(self, rows: Rows, predictions: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the logits `(N, 6)` of the slices of `rows`, in the order of `slice_ids`.

        Args:
            rows: The predicted rows.
            predictions: `(len(rows), *shape)`, as the network predicts them.
        """
        ...

    def study_logits_of_slices(
        self, rows: Rows, predictions: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float32] | None:
        """Return the logits `(N, 6)` of the study of each slice, as in `slice_logits`; None if none are predicted."""
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
        """Return the labels `(S, 6)` of the slices of `rows`, in the order of `slice_ids`, NaN where unknown."""
        ...

    def truth(self, rows: Rows) -> Truth:
        """Return what scores of the slices of `rows` are computed from, in the order of `slice_ids`."""
        ...
