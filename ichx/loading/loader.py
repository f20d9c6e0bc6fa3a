"""The loader: batches of cached slices with header windows and labels, for training and inference.

Windows are applied on the device (`ichx.ct.windows`). A worker sends complete batches of int16 HU. The small columns
are added in the parent, so that workers hold no part of the dataset. The number of workers does not change a batch.

If a recipe has neighbours, a sample is a stack: the slice and the adjacent slices of its run (`series.stack_rows`).
Beyond the ends of a run the last slice is repeated, or is air. All slices of a stack get the same transform, so that
the anatomy stays aligned.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from ichx.cache.hu_cache import Cache
from ichx.cache.mask_file import MaskCache
from ichx.ct.dicom import AIR
from ichx.datasets.masks import UNKNOWN
from ichx.datasets.series import run_codes, stack_rows
from ichx.errors import IchxError
from ichx.labels import LABELS
from ichx.loading.augmentation import MASK, Augmenter, Transform, identity, jitters_windows, window_jitter
from ichx.loading.loader_processes import out_of_memory, prepare_worker, read_batches, share, worker_context
from ichx.loading.plugin_augmentation import PluginAugmentation, check_picklable
from ichx.loading.sampling import AUGMENTATION, PLUGIN, WINDOWS, EpochAddress, generator, id_number
from ichx.plugins.contract import AugmentationBuilder
from ichx.recipe import Recipe

WINDOW_COLUMNS: Final = ("window_centre", "window_width")

Rows = npt.NDArray[np.int64]


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
    """(N, windows, 2) float32: HU to add to the centre of each window, factor of its width."""
    masks: Tensor | None = None
    """(N, H, W) uint8: 0 or 1 + index in `ichx.labels.SUBTYPES`; UNKNOWN everywhere if no mask was drawn."""


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
        reader = _BatchReader(self.cache, self.recipe, self.masks if masks else None, address, build)
        return self._read(reader, batches, rows)

    def _read(self, reader: "_BatchReader", batches: list[Rows], rows: Rows) -> Iterator[Batch]:
        windows = self.slices[list(WINDOW_COLUMNS)].to_numpy(np.float32)
        labels = self.slices[list(LABELS)].to_numpy(np.float32)
        stacks = self._stacks(rows)
        slice_ids = None if reader.address is None else self.slices["slice_id"].to_numpy(object)
        on_gpu: Callable[[], bool] = torch.cuda.is_initialized  # a run on the CPU does not touch GPUs
        loader: DataLoader[Any] = DataLoader(
            reader,
            batch_size=None,
            sampler=_EpochItems(batches, stacks, slice_ids),
            num_workers=self.workers,
            worker_init_fn=prepare_worker,
            multiprocessing_context=worker_context() if self.workers else None,
            pin_memory=on_gpu(),
        )
        for part, read in zip(batches, (read_batches if self.workers else _prefetch)(loader), strict=True):
            if isinstance(read, IchxError):
                raise read
            hu, masks, jitter = read
            del read  # the buffer can be reused as soon as the consumer releases the batch
            columns = [torch.from_numpy(column) for column in (windows[part], labels[part], part)]
            yield Batch(hu, columns[0], columns[1], columns[2], jitter, masks)
            del hu, masks, jitter

    def _stacks(self, rows: Rows) -> Rows:
        """Return the slices of each sample, (N, S) rows in the order of its channels; -1 for a slice of air."""
        image = self.recipe.input
        if not image.neighbours:
            return rows[:, None]
        runs, repeat = run_codes(self.slices), image.ends == "repeat"
        return stack_rows(runs, self.cache.valid, rows, image.neighbours, repeat=repeat)


def centre_crop(image: npt.NDArray[Any], edge: int) -> npt.NDArray[Any]:
    """Return the middle `edge` x `edge` pixels of `image` (..., H, W), as a view."""
    top, left = (image.shape[-2] - edge) // 2, (image.shape[-1] - edge) // 2
    return image[..., top : top + edge, left : left + edge]


class _BatchReader(Dataset[Any]):
    """Reads a batch: maps rows and slice numbers to (N, edge, edge) int16 HU, masks and jitter.

    It is everything that a worker holds. Without an `address` nothing is augmented.
    """

    def __init__(
        self,
        cache: Cache,
        recipe: Recipe,
        masks: MaskCache | None,
        address: EpochAddress | None,
        build: AugmentationBuilder | None,
    ) -> None:
        self._arguments = cache, recipe, masks, address, build
        self.cache, self.recipe, self.masks, self.address = cache, recipe, masks, address
        self._crop_first = recipe.augmentation.crop_first
        augmented = recipe.input.pixels if self._crop_first else recipe.input.size
        self._augmenter = None if address is None else Augmenter(recipe.augmentation, augmented)
        self._plugin_augmentation = None if build is None else PluginAugmentation(build, recipe)
        self._buffers = _BufferPool()
        self._slice = np.empty((recipe.input.size, recipe.input.size), np.int16)

    def __reduce__(self) -> tuple[type["_BatchReader"], tuple[Any, ...]]:
        return type(self), self._arguments

    def __getitem__(self, item: tuple[Rows, list[int]]) -> tuple[Any, ...] | IchxError:
        rows, numbers = item  # (N, S) rows of the slices to read
        try:
            read = *self._read(rows, numbers), self._jitter(numbers)
            if get_worker_info() is None:
                return read
            return tuple(None if tensor is None else share(tensor) for tensor in read)
        except IchxError as error:
            return error  # raised by the parent; torch would turn it into a RuntimeError
        except MemoryError as error:
            return out_of_memory(error)

    def _read(self, rows: Rows, numbers: list[int]) -> tuple[Tensor, Tensor | None]:
        edge = self.recipe.input.pixels
        hu = self._buffers.take((*rows.shape, edge, edge))
        masks = None if self.masks is None else np.zeros((len(rows), edge, edge), np.uint8)
        sample = _Sample()
        read: dict[int, npt.NDArray[np.int16]] = {}
        for index, stack in enumerate(rows.tolist()):
            if self._augmenter is not None and self.address is not None:
                address = (*self.address, numbers[index])
                sample = _Sample(self._augmenter.draw(generator(AUGMENTATION, *address)), address)
                read.clear()  # another sample gets another transform
            middle = len(stack) // 2
            mask = None if self.masks is None else self.masks.read(stack[middle])
            for place in (middle, *range(middle), *range(middle + 1, len(stack))):
                target, row = hu[index, place], stack[place]
                if row < 0:
                    target.fill(AIR)
                    continue
                if row in read:
                    target[...] = read[row]
                elif place == middle:
                    mask = self._read_slice(row, target, mask, sample)
                else:
                    self._read_slice(row, target, None, sample)
                read[row] = target
            if masks is not None and self.masks is not None:
                if mask is not None:
                    masks[index] = centre_crop(mask, edge)
                elif not self.masks.known[stack[middle]]:
                    masks[index] = UNKNOWN
        slices = torch.from_numpy(hu if self.recipe.input.neighbours else hu[:, 0])
        return slices, None if masks is None else torch.from_numpy(masks)

    def _read_slice(
        self, row: int, target: npt.NDArray[np.int16], mask: npt.NDArray[np.uint8] | None, sample: "_Sample"
    ) -> npt.NDArray[np.uint8] | None:
        """Write the augmented and cropped slice to `target`; return its augmented mask."""
        edge = len(target)
        hu = self.cache.read(row, target if edge == len(self._slice) else self._slice)
        if self._crop_first:
            hu = centre_crop(hu, edge)
            mask = None if mask is None else centre_crop(mask, edge)
        image = sample.transform(hu)
        if mask is not None:
            mask = sample.transform(mask, MASK)
        if self._plugin_augmentation is not None:
            image, mask = self._plugin_augmentation(image, mask, generator(PLUGIN, *sample.address))
        if image is not target:
            part = centre_crop(image, edge)
            target[...] = part if part.dtype == np.int16 else np.rint(part, out=part)
        return mask

    def _jitter(self, numbers: list[int]) -> Tensor | None:
        if self.address is None or not jitters_windows(self.recipe.augmentation):
            return None
        recipe, windows = self.recipe.augmentation, len(self.recipe.input.windows)
        draws = [window_jitter(recipe, windows, generator(WINDOWS, *self.address, number)) for number in numbers]
        return torch.from_numpy(np.stack(draws))


@dataclass(frozen=True)
class _Sample:
    """How the slices of a sample are augmented."""

    transform: Transform = identity
    """The transform of the recipe."""
    address: tuple[int, ...] = ()
    """Address of the draws of the plugin's augmentation."""


class _BufferPool:
    """Reuses the memory of released batches: allocating it takes a third of the time of a decompression."""

    def __init__(self) -> None:
        self._arrays: list[npt.NDArray[np.int16]] = []
        self._unused = _reference_counts([np.empty(0, np.int16)])[0]

    def take(self, shape: tuple[int, ...]) -> npt.NDArray[np.int16]:
        """Return an int16 array of `shape` with undefined content that no one else uses."""
        self._arrays = [array for array in self._arrays if array.shape == shape]
        for index, count in enumerate(_reference_counts(self._arrays)):
            if count == self._unused:
                return self._arrays[index]
        self._arrays.append(np.empty(shape, np.int16))
        return self._arrays[-1]


def _reference_counts(arrays: list[npt.NDArray[np.int16]]) -> list[int]:
    """Return the number of references to each array; tensors and views count."""
    return [sys.getrefcount(array) for array in arrays]


class _EpochItems(Iterable[Any]):
    """The items of an epoch in order: the part of `stacks` (n, S) of each batch, and the numbers of its slices."""

    def __init__(self, batches: list[Rows], stacks: Rows, slice_ids: npt.NDArray[Any] | None) -> None:
        self.batches, self.stacks, self.slice_ids = batches, stacks, slice_ids

    def __iter__(self) -> Iterator[tuple[Rows, list[int]]]:
        start = 0
        for rows in self.batches:
            # Numbers are computed when needed: those of a large dataset take long.
            numbers = [] if self.slice_ids is None else [id_number(name) for name in self.slice_ids[rows]]
            yield self.stacks[start : start + len(rows)], numbers
            start += len(rows)

    def __len__(self) -> int:
        return len(self.batches)


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
