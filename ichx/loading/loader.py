"""The loader: batches of cached slices with header windows and labels, for training and inference.

Windows are applied on the device (`ichx.ct.windows`). A worker sends complete batches of int16 HU. The small columns
are added in the parent, so that workers hold no part of the dataset. The number of workers does not change a batch.

If a recipe has neighbours, a sample is a stack: the slice and the adjacent slices of its run (`series.stack_rows`).
Beyond the ends of a run the last slice is repeated, or is air. All slices of a stack get the same transform, so that
the anatomy stays aligned.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from ichx.cache.hu_cache import Cache
from ichx.cache.mask_file import MaskCache
from ichx.datasets.series import run_codes, stack_rows
from ichx.labels import LABELS
from ichx.loading.batch_reader import Arrays, BatchMemory, BatchReader, Item, Rows
from ichx.loading.loader_processes import LoaderProcesses
from ichx.loading.plugin_augmentation import check_picklable
from ichx.loading.sampling import EpochAddress, id_number
from ichx.loading.worker_process import out_of_memory
from ichx.plugins.contract import AugmentationBuilder
from ichx.recipe import Recipe

WINDOW_COLUMNS: Final = ("window_centre", "window_width")


@dataclass
class Batch:
    """N samples."""

    hu: Tensor
    """(N, H, W) int16 HU. With neighbours (N, S, H, W); all else refers to the slice in the middle."""
    windows: Tensor
    """(N, 2) float32 HU: centre and width of the header's window."""
    labels: Tensor
    """(N, 6) float32, NaN if the dataset has no labels."""
    rows: Tensor
    """(N,) int64 rows of the dataset, in the requested order."""
    jitter: Tensor | None = None
    """(N, windows, 2) float32: HU to add to the centre of each window, factor of its width. With `gamma` a third
    column is the exponent of windowed values."""
    masks: Tensor | None = None
    """(N, H, W) uint8: 0 or 1 + index in `ichx.labels.SUBTYPES`; UNKNOWN_MASK everywhere if no mask was drawn."""
    negative_share: float = 1.0
    """Share of the slices without hemorrhage that its sampling keeps, if the loss accounts for that."""
    known_share: float | None = None
    """Share of the weights of the labels that are known, in the complete batch of all processes; None if all are."""
    posterior_share: float = 1.0
    """See `ichx.training.study_loss.expected_labels`."""


@dataclass(frozen=True)
class SliceLoader:
    """Reads batches of the slices of a cache."""

    cache: Cache
    slices: pd.DataFrame
    """One row per slice of the cache, in its order: `slice_id`, `series`, header window, labels."""
    recipe: Recipe
    workers: int = 0
    """Loader processes; without any, a thread of this process reads one batch ahead."""
    masks: MaskCache | None = None
    build_augmentation: AugmentationBuilder | None = None
    """The plugin's augmentation for training, applied after the recipe's."""

    @cached_property
    def _processes(self) -> LoaderProcesses:
        """The loader processes, which live as long as this."""
        return LoaderProcesses(self.workers)

    @cached_property
    def _memory(self) -> BatchMemory:
        """The memory of batches that this process reads, of all epochs."""
        return BatchMemory()

    def __post_init__(self) -> None:
        if len(self.slices) != self.cache.n:
            raise ValueError(f"the cache has {self.cache.n} slices, the dataset {len(self.slices)}")
        if self.cache.spec.size != self.recipe.input.size:
            raise ValueError(f"cache of {self.cache.spec.size} pixels for a recipe of {self.recipe.input.size}")

    def training_batches(
        self, rows: Rows, address: EpochAddress, *, start: int = 0, part: tuple[int, int] = (0, 1)
    ) -> Iterator[Batch]:
        """Yield augmented batches of `recipe.batch` slices, cropped to the centre, with masks if there are any.

        The augmentation of a sample depends only on the address and its slice id. An incomplete last batch is dropped
        unless it is the only one.

        Args:
            rows: Rows of the epoch, in order.
            address: Address of the random draws.
            start: Number of batches to skip.
            part: (k, n) reads only part k of n of each batch. The parts are as even as possible.

        Raises:
            ValueError: A row is a defect.
        """
        batch = self.recipe.batch
        used = len(rows) - len(rows) % batch if len(rows) > batch else len(rows)
        number, count = part
        batches = [np.array_split(rows, count)[number] for rows in _split(rows[:used], batch)[start:]]
        return self._iterate(batches, address, masks=self.masks is not None)

    def inference_batches(self, rows: Rows, *, batch: int | None = None, masks: bool = False) -> Iterator[Batch]:
        """Yield batches of all `rows` in order, cropped to the centre and not augmented.

        Args:
            rows: Rows of the dataset.
            batch: Slices per batch; `recipe.batch` by default.
            masks: Read masks too.

        Raises:
            ValueError: A row is a defect.
        """
        return self._iterate(_split(rows, batch or self.recipe.batch), None, masks=masks)

    def _iterate(self, batches: list[Rows], address: EpochAddress | None, *, masks: bool) -> Iterator[Batch]:
        rows = np.concatenate([np.empty(0, np.int64), *batches])
        if not (valid := self.cache.valid[rows]).all():
            raise ValueError(f"rows {rows[~valid][:5].tolist()} are defects; use only rows of Cache.valid")
        build = None if address is None else self.build_augmentation
        if build is not None and self.workers:
            check_picklable(build, self.recipe.plugin)
        reader = BatchReader(self.cache, self.recipe, self.masks if masks else None, address, build)
        reader.buffers = self._memory
        return self._read(reader, batches, rows)

    def _read(self, reader: BatchReader, batches: list[Rows], rows: Rows) -> Iterator[Batch]:
        windows = self.slices[list(WINDOW_COLUMNS)].to_numpy(np.float32)
        labels = self.slices[list(LABELS)].to_numpy(np.float32)
        stacks = self._stacks(rows)
        slice_ids = None if reader.address is None else self.slices["slice_id"].to_numpy(object)
        items = _EpochItems(batches, stacks, slice_ids)
        on_gpu: Callable[[], bool] = torch.cuda.is_initialized  # a run on the CPU does not touch GPUs
        pin = on_gpu()
        arrays = self._processes.read(reader, items) if self.workers else map(partial(_read_here, reader), items)
        tensors = map(partial(_tensors, pin=pin), arrays)
        # Processes read ahead anyway; what remains to do here is to pin the memory.
        for part, read in zip(batches, tensors if self.workers and not pin else _prefetch(tensors), strict=True):
            hu, masks, jitter = read
            del read  # the buffer can be reused as soon as the consumer releases the batch
            columns = [torch.from_numpy(column) for column in (windows[part], labels[part], part)]
            assert hu is not None
            yield Batch(hu, columns[0], columns[1], columns[2], jitter, masks)
            del hu, masks, jitter

    def _stacks(self, rows: Rows) -> Rows:
        """Return the slices of each sample, (N, S) rows in the order of its channels; -1 for a slice of air."""
        image = self.recipe.input
        if not image.neighbours:
            return rows[:, None]
        runs, repeat = run_codes(self.slices), image.ends == "repeat"
        return stack_rows(runs, self.cache.valid, rows, image.neighbours, repeat=repeat)


def _read_here(reader: BatchReader, item: Item) -> Arrays:
    """Return what `reader` reads for `item`, in this process."""
    try:
        return reader.read(item)
    except MemoryError as error:
        raise out_of_memory(error) from error


def _tensors(arrays: Arrays, *, pin: bool) -> tuple[Tensor | None, ...]:
    """Return tensors of `arrays`, in page-locked memory where `pin`: only from there a GPU copies while it computes."""
    tensors = [None if array is None else torch.from_numpy(array) for array in arrays]
    return tuple(tensor.pin_memory() if pin and tensor is not None else tensor for tensor in tensors)


class _EpochItems(Iterable[Item]):
    """The items of an epoch in order: the part of `stacks` (n, S) of each batch, and the numbers of its slices."""

    def __init__(self, batches: list[Rows], stacks: Rows, slice_ids: npt.NDArray[Any] | None) -> None:
        self.batches, self.stacks, self.slice_ids = batches, stacks, slice_ids

    def __iter__(self) -> Iterator[Item]:
        start = 0
        for rows in self.batches:
            # Numbers are computed when needed: those of a large dataset take long.
            numbers = [] if self.slice_ids is None else [id_number(name) for name in self.slice_ids[rows]]
            yield self.stacks[start : start + len(rows)], numbers
            start += len(rows)


def _split(rows: Rows, batch: int) -> list[Rows]:
    rows = np.ascontiguousarray(rows, np.int64)
    return [rows[start : start + batch] for start in range(0, len(rows), batch)]


def _prefetch(batches: Iterable[Any]) -> Iterator[Any]:
    """Yield `batches`, read one ahead by a thread: decompression and warping overlap with the training step."""
    with ThreadPoolExecutor(1, thread_name_prefix="ichx-loader") as pool:
        source = iter(batches)
        next_batch = pool.submit(next, source, None)
        while (batch := next_batch.result()) is not None:
            next_batch = pool.submit(next, source, None)
            yield batch
