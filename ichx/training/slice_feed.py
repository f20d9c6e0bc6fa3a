"""Slices from the HU cache as the data of a training or a prediction."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from ichx.cache.hu_cache import Cache
from ichx.cache.mask_file import MaskCache
from ichx.datasets.study_labels import group_codes, study_labels_of
from ichx.errors import InvalidInputError
from ichx.evaluation.scored_rows import Truth
from ichx.labels import LABEL_WEIGHTS, LABELS
from ichx.loading.loader import Batch, SliceLoader
from ichx.loading.loader_processes import start_worker_server
from ichx.loading.sampling import EpochAddress, Population, negative_share, sampled_rows
from ichx.plugins.contract import AugmentationBuilder
from ichx.recipe import Recipe
from ichx.training.feed import EpochPlan, Rows, SliceInputs
from ichx.training.study_loss import posterior_share, study_groups
from ichx.training.view_images import view_of
from ichx.training.window_step import WindowStep

NO_ROWS: Rows = np.empty(0, np.int64)


@dataclass
class SliceFeed:
    """Slices of one dataset, read as `recipe` wants them.

    Without `training_rows` and `validation_rows` it serves inference only.
    """

    cache: Cache
    slices: pd.DataFrame
    """One row per slice of the cache, in its order: `slice_id`, `series`, header window, labels."""
    recipe: Recipe
    workers: int = 0
    """Loader processes."""
    masks: MaskCache | None = None
    build_augmentation: AugmentationBuilder | None = None
    """The plugin's augmentation for training."""
    fold: int = 0
    """Part of the address of random draws."""
    training_rows: Rows = field(default_factory=lambda: NO_ROWS)
    validation_rows: Rows = field(default_factory=lambda: NO_ROWS)
    unit: str = "slices"
    shape: tuple[int, ...] = (len(LABELS),)

    def __post_init__(self) -> None:
        """Create the window step, which moves to the device of the first batch; let loader processes get ready."""
        if self.workers:
            start_worker_server()
        self._window_step = WindowStep(self.recipe.input)
        self._device = torch.device("cpu")
        self._population = Population.of(self.slices, self.recipe.stage)
        known = ~np.isnan(self.slices[list(LABELS)].to_numpy(np.float32))
        complete = known[self.training_rows].all()
        self._group_labels = study_labels_of(self.slices)
        if self._group_labels is not None and self.recipe.loss.study_pooling == "posterior":
            known |= self._group_labels > 0  # these train on expected labels
        self._known_weight = None if complete else known @ np.asarray(LABEL_WEIGHTS)
        self._group = None if self._group_labels is None else group_codes(self.slices)
        self._loader = SliceLoader(
            self.cache, self.slices, self.recipe, self.workers, self.masks, self.build_augmentation
        )

    def epoch_rows(self, stage: int, epoch: int) -> Rows:
        """See `TrainingFeed.epoch_rows`."""
        address = self._address(stage, epoch)
        return sampled_rows(self._population, self.training_rows, self.recipe.stage[stage], address)

    def training_batches(self, plan: EpochPlan, *, part: tuple[int, int] = (0, 1)) -> Iterator[Batch]:
        """See `TrainingFeed.training_batches`."""
        address, stage = self._address(plan.stage, plan.epoch), self.recipe.stage[plan.stage]
        share = 1.0
        if stage.prior_correction:
            share = negative_share(self._population.any_positive, self.training_rows, stage.sampling)
        if part[1] > 1 and stage.sampling == "grouped" and plan.size % (part[1] * stage.per_study):
            raise InvalidInputError(
                f"Batches of {plan.size} slices cannot be split among {part[1]} processes: "
                f"the {stage.per_study} slices of a study must stay together.",
                "Use fewer processes, or a batch that is a multiple of per_study for each of them.",
            )
        before = sum(earlier.epochs for earlier in self.recipe.stage[: plan.stage]) + plan.epoch
        posterior = posterior_share(before / self.recipe.epochs, self.recipe.loss.study_start)
        batches = self._loader.training_batches(plan.rows, address, start=plan.done, part=part)
        for number, batch in enumerate(batches, plan.done):
            batch.negative_share, batch.posterior_share = share, posterior
            if self._known_weight is not None:
                rows = plan.rows[number * plan.size : (number + 1) * plan.size]
                known = float(self._known_weight[rows].mean()) / sum(LABEL_WEIGHTS)
                batch.known_share = known or 1.0  # there is no loss without a known label
            yield batch
            del batch  # its memory can be reused

    def inference_batches(self, rows: Rows, *, batch: int, masks: bool = False) -> Iterator[Batch]:
        """See `InferenceFeed.inference_batches`."""
        return self._loader.inference_batches(rows, batch=batch, masks=masks)

    def inputs(self, batch: Batch, device: torch.device, *, view: str = "identity") -> SliceInputs:
        """See `InferenceFeed.inputs`."""
        if device != self._device:
            self._window_step, self._device = self._window_step.to(device), device
        overlaps = device.type == "cuda"  # from pinned memory; elsewhere a copy could see what the loader writes next

        def send(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(device, non_blocking=overlaps)

        hu = send(batch.hu)
        hu = view_of(hu, view)
        jitter = None if batch.jitter is None else send(batch.jitter)
        masks = () if batch.masks is None else ((1.0, send(batch.masks)),)
        images = self._window_step.in_parts(hu, send(batch.windows), jitter)
        groups = None
        if self._group is not None and self._group_labels is not None:
            rows = batch.rows.numpy()
            groups = study_groups(self._group[rows], self._group_labels[rows].astype(np.float32)).to(device)
        return SliceInputs(
            images,
            send(batch.labels),
            masks,
            batch.negative_share,
            batch.known_share,
            groups,
            batch.posterior_share,
        )

    def ids(self, rows: Rows) -> npt.NDArray[np.object_]:
        """Return the slice ids of `rows`."""
        ids: npt.NDArray[np.object_] = self.slices["slice_id"].to_numpy(object)[rows]
        return ids

    def slice_ids(self, rows: Rows) -> npt.NDArray[np.object_]:
        """See `InferenceFeed.slice_ids`: a row is a slice."""
        return self.ids(rows)

    def labels(self, rows: Rows) -> npt.NDArray[np.float64]:
        """Return the labels `(N, 6)` of `rows`."""
        return self.slices[list(LABELS)].to_numpy(np.float64)[rows]

    def truth(self, rows: Rows) -> Truth:
        """See `TrainingFeed.truth`."""
        return Truth.of(self.slices.iloc[rows])

    def slice_logits(self, rows: Rows, predictions: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return `predictions`: a row is a slice."""
        return predictions

    def study_logits_of_slices(
        self, rows: Rows, predictions: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float32] | None:
        """See `InferenceFeed.study_logits_of_slices`."""
        return None

    def _address(self, stage: int, epoch: int) -> EpochAddress:
        return EpochAddress(self.recipe.seed, self.fold, stage, epoch)
