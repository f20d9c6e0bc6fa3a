"""A feed of random HU images in memory: the second implementation of the interface, for tests of the training loop."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ichx.evaluation.scored_rows import Truth
from ichx.loading.loader import Batch
from ichx.recipe import Recipe
from ichx.training.feed import EpochPlan, Rows, SliceInputs
from ichx.training.view_images import view_of
from ichx.training.window_step import WindowStep


def make_batch(count: int, seed: int, edge: int = 32) -> Batch:
    """Return random slices with labels; equal seeds give equal ones."""
    random = np.random.default_rng(seed)
    hu = torch.from_numpy(random.integers(-1024, 2000, (count, edge, edge)).astype(np.int16))
    labels = torch.from_numpy((random.random((count, 6)) < 0.3).astype(np.float32))
    return Batch(hu, torch.tensor([[40.0, 80.0]]).repeat(count, 1), labels, torch.arange(count))


def inputs_of(recipe: Recipe, batch: Batch) -> SliceInputs:
    """Return a batch as the network reads it."""
    return SliceInputs(WindowStep(recipe.input)(batch.hu, batch.windows), batch.labels)


@dataclass
class MemoryFeed:
    """Slices of `data`; the last `held_out` are validated."""

    recipe: Recipe
    data: Batch
    held_out: int = 0
    masks: None = None
    unit: str = "slices"
    shape: tuple[int, ...] = (6,)

    @property
    def validation_rows(self) -> Rows:
        return np.arange(len(self.data.rows))[len(self.data.rows) - self.held_out :]

    def epoch_rows(self, stage: int, epoch: int) -> Rows:
        rows = np.arange(len(self.data.rows) - self.held_out)
        return np.random.default_rng((self.recipe.seed, stage, epoch)).permutation(rows)

    def training_batches(self, plan: EpochPlan, *, part: tuple[int, int] = (0, 1)) -> Iterator[Batch]:
        for number in range(plan.done, plan.total):
            rows = plan.rows[number * plan.size : (number + 1) * plan.size]
            yield self._take(np.array_split(rows, part[1])[part[0]])

    def inference_batches(self, rows: Rows, *, batch: int, masks: bool = False) -> Iterator[Batch]:
        return (self._take(rows[start : start + batch]) for start in range(0, len(rows), batch))

    def inputs(self, batch: Batch, device: torch.device, *, view: str = "identity") -> SliceInputs:
        hu = view_of(batch.hu, view)
        return SliceInputs(WindowStep(self.recipe.input)(hu, batch.windows).to(device), batch.labels.to(device))

    def ids(self, rows: Rows) -> npt.NDArray[np.object_]:
        return np.array([f"slice-{row}" for row in rows], dtype=object)

    def slice_ids(self, rows: Rows) -> npt.NDArray[np.object_]:
        return self.ids(rows)

    def labels(self, rows: Rows) -> npt.NDArray[np.float64]:
        return self.data.labels.numpy()[rows].astype(np.float64)

    def truth(self, rows: Rows) -> Truth:
        return Truth(self.labels(rows), self.labels(rows), rows.astype(object))

    def slice_logits(self, rows: Rows, predictions: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return predictions

    def study_logits_of_slices(
        self, rows: Rows, predictions: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float32] | None:
        return None

    def _take(self, rows: Rows) -> Batch:
        return Batch(self.data.hu[rows], self.data.windows[rows], self.data.labels[rows], torch.from_numpy(rows))
