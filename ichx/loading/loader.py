"""Batches of cached slices for training and for inference: HU, header windows, labels. Not for windowing them.

Windows are applied on the device (`ichx.ct.windows`). What crosses from a worker is a whole batch of int16 HU; the
small columns are added in the parent, so that workers hold nothing of the dataset. Batches do not depend on `workers`.

Where a recipe has neighbours, a sample is a stack: the slice and those beside it in its series (`series.stack_rows`),
all moved alike, so that the anatomy stays aligned.
"""

import multiprocessing
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import forkserver
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ichx.cache.hu_cache import Cache
from ichx.cache.mask_cache import MaskCache
from ichx.datasets.masks import UNKNOWN
from ichx.datasets.series import stack_rows
from ichx.errors import IchxError
from ichx.labels import LABELS
from ichx.loading.augmentation import MASK, Augmenter, Move, jitters_windows, unmoved, window_jitter
from ichx.loading.sampling import AUGMENTATION, WINDOWS, generator, id_number
from ichx.recipe import AugmentationRecipe, InputRecipe, Recipe
from ichx.signals import ignore_stop_signals

WINDOW_COLUMNS: Final = ("window_centre", "window_width")


@dataclass
class Batch:
    """`hu` (N, H, W) int16 HU; `windows` (N, 2) float32 HU, the header's centre and width; `labels` (N, 6) float32.

    With neighbours `hu` is (N, S, H, W), of which the middle is the slice itself; all else is of that one. Labels are
    NaN where the dataset has none. `rows` (N,) int64 are rows of the dataset, in the order asked for. `jitter`
    (N, windows, 2) float32: HU to add to each window's centre, factor of its width; None where there is none.
    `masks` (N, H, W) uint8: 0, or 1 + the index in `ichx.labels.SUBTYPES`; UNKNOWN all over where nobody has drawn one;
    None where they are not asked for.
    """

    hu: Tensor
    windows: Tensor
    labels: Tensor
    rows: Tensor
    jitter: Tensor | None = None
    masks: Tensor | None = None


def training_batches(
    cache: Cache,
    slices: pd.DataFrame,
    rows: npt.NDArray[np.int64],
    recipe: Recipe,
    *,
    fold: int,
    stage: int,
    epoch: int,
    workers: int,
    start: int = 0,
    part: tuple[int, int] = (0, 1),
    masks: MaskCache | None = None,
) -> Iterator[Batch]:
    """Yield the epoch's batches of `recipe.batch` slices in the order of `rows`, augmented, then cropped to the centre.

    A sample's augmentation depends on (seed, fold, stage, epoch, slice id) only. A ragged last batch is dropped, unless
    it is the only one. `start` skips that many batches; of each batch only `part`, number k of n, is read: the parts of
    a batch are as even as can be, and together the whole of it. With `masks` the batches have them, moved as the slices
    are. Raises `ValueError` when a row is a defect.
    """
    _check(cache, slices, rows, recipe)
    whole = len(rows) - len(rows) % recipe.batch if len(rows) > recipe.batch else len(rows)
    address = (recipe.seed, fold, stage, epoch)
    source = _Source(cache, recipe.input, _Augmentation(recipe.augmentation, address), masks)
    number, of = part
    parts = [np.array_split(batch, of)[number] for batch in _split(rows[:whole], recipe.batch)[start:]]
    return _iterate(source, slices, parts, workers)


def inference_batches(
    cache: Cache,
    slices: pd.DataFrame,
    rows: npt.NDArray[np.int64],
    recipe: Recipe,
    *,
    batch: int | None = None,
    workers: int,
    masks: MaskCache | None = None,
) -> Iterator[Batch]:
    """Yield all of `rows` in their order, cropped to the centre but not augmented, `batch` (or the recipe's) at a time.

    Raises `ValueError` when a row is a defect.
    """
    _check(cache, slices, rows, recipe)
    source = _Source(cache, recipe.input, masks=masks)
    return _iterate(source, slices, _split(rows, batch or recipe.batch), workers)


def centre_crop(image: npt.NDArray[Any], edge: int) -> npt.NDArray[Any]:
    """Return the middle `edge` x `edge` pixels of `image` (..., H, W), as a view."""
    top, left = (image.shape[-2] - edge) // 2, (image.shape[-1] - edge) // 2
    return image[..., top : top + edge, left : left + edge]


@dataclass(frozen=True)
class _Augmentation:
    """What is done to a sample: `recipe`, with draws at `address` and the slice's number."""

    recipe: AugmentationRecipe
    address: tuple[int, ...]


class _Source(Dataset[Any]):
    """Reads a batch: (rows, slice numbers) becomes (N, edge, edge) int16 HU, its masks and its jitter.

    All that a worker holds.
    """

    def __init__(
        self,
        cache: Cache,
        recipe: InputRecipe,
        augmentation: _Augmentation | None = None,
        masks: MaskCache | None = None,
    ) -> None:
        self.cache, self.recipe, self.augmentation, self.masks = cache, recipe, augmentation, masks
        self._augmenter = Augmenter(augmentation.recipe, recipe.size) if augmentation else None
        self._memory = _Memory()

    def __reduce__(self) -> tuple[type["_Source"], tuple[Cache, InputRecipe, _Augmentation | None, MaskCache | None]]:
        return type(self), (self.cache, self.recipe, self.augmentation, self.masks)

    def __getitem__(
        self, item: tuple[npt.NDArray[np.int64], list[int]]
    ) -> tuple[Tensor, Tensor | None, Tensor | None] | IchxError:
        rows, numbers = item  # (N, S) rows of the slices to read
        try:
            return *self._read(rows, numbers), self._jitter(numbers)
        except IchxError as error:
            return error  # raised by the parent: torch would turn it into a RuntimeError on the way

    def _read(self, rows: npt.NDArray[np.int64], numbers: list[int]) -> tuple[Tensor, Tensor | None]:
        size, edge = self.recipe.size, self.recipe.pixels
        hu = self._memory.take((*rows.shape, edge, edge))
        whole = None if edge == size else np.empty((size, size), np.int16)
        masks = None if self.masks is None else np.zeros((len(rows), edge, edge), np.uint8)
        moved: Move = unmoved
        read: dict[int, npt.NDArray[np.int16]] = {}
        for index, stack in enumerate(rows.tolist()):
            if self._augmenter is not None and self.augmentation is not None:
                moved = self._augmenter.draw(generator(AUGMENTATION, *self.augmentation.address, numbers[index]))
                read.clear()  # another sample moves otherwise
            for target, row in zip(hu[index], stack, strict=True):
                if row in read:
                    target[...] = read[row]
                    continue
                image = moved(self.cache.read(row, target if whole is None else whole))
                if image is not target:
                    part = centre_crop(image, edge)
                    target[...] = part if part.dtype == np.int16 else np.rint(part, out=part)
                read[row] = target
            if masks is not None:
                self._read_mask(stack[len(stack) // 2], moved, masks[index])
        slices = torch.from_numpy(hu if self.recipe.neighbours else hu[:, 0])
        return slices, None if masks is None else torch.from_numpy(masks)

    def _read_mask(self, row: int, moved: Move, target: npt.NDArray[np.uint8]) -> None:
        """Put the mask of `row` into `target`, which is empty."""
        assert self.masks is not None
        mask = self.masks.read(row)
        if mask is not None:
            target[...] = centre_crop(moved(mask, MASK), len(target))
        elif not self.masks.known[row]:
            target[...] = UNKNOWN

    def _jitter(self, numbers: list[int]) -> Tensor | None:
        if self.augmentation is None or not jitters_windows(self.augmentation.recipe):
            return None
        recipe, address, windows = self.augmentation.recipe, self.augmentation.address, len(self.recipe.windows)
        draws = [window_jitter(recipe, windows, generator(WINDOWS, *address, number)) for number in numbers]
        return torch.from_numpy(np.stack(draws))


class _Memory:
    """Memory of batches, used again once nobody holds them: fresh memory costs a third of a decompression."""

    def __init__(self) -> None:
        self._arrays: list[npt.NDArray[np.int16]] = []
        self._unheld = _references([np.empty(0, np.int16)])[0]

    def take(self, shape: tuple[int, ...]) -> npt.NDArray[np.int16]:
        """Return an int16 array of `shape` that nobody holds, with any content."""
        self._arrays = [array for array in self._arrays if array.shape == shape]
        for index, references in enumerate(_references(self._arrays)):
            if references == self._unheld:
                return self._arrays[index]
        self._arrays.append(np.empty(shape, np.int16))
        return self._arrays[-1]


def _references(arrays: list[npt.NDArray[np.int16]]) -> list[int]:
    """Return how many references each of `arrays` has; a tensor or a view of it is one."""
    return [sys.getrefcount(array) for array in arrays]


class _Plan(Iterable[Any]):
    """The items of an epoch in order: `stacks` (n, S) of its rows; slice numbers are worked out as they are needed."""

    def __init__(
        self,
        parts: list[npt.NDArray[np.int64]],
        stacks: npt.NDArray[np.int64],
        slice_ids: npt.NDArray[Any] | None,
    ) -> None:
        self.parts, self.stacks, self.slice_ids = parts, stacks, slice_ids

    def __iter__(self) -> Iterator[tuple[npt.NDArray[np.int64], list[int]]]:
        begun = 0
        for part in self.parts:
            numbers = [] if self.slice_ids is None else [id_number(name) for name in self.slice_ids[part]]
            yield self.stacks[begun : begun + len(part)], numbers
            begun += len(part)

    def __len__(self) -> int:
        return len(self.parts)


def _split(rows: npt.NDArray[np.int64], batch: int) -> list[npt.NDArray[np.int64]]:
    rows = np.ascontiguousarray(rows, np.int64)
    return [rows[start : start + batch] for start in range(0, len(rows), batch)]


def _check(cache: Cache, slices: pd.DataFrame, rows: npt.NDArray[np.int64], recipe: Recipe) -> None:
    if len(slices) != cache.n:
        raise ValueError(f"the cache has {cache.n} slices, the dataset {len(slices)}")
    if cache.spec.size != recipe.input.size:
        raise ValueError(f"a cache of {cache.spec.size} pixels does not fit a recipe of {recipe.input.size}")
    bad = np.asarray(rows)[~cache.valid[rows]]
    if len(bad):
        raise ValueError(f"rows {bad[:5].tolist()} are defects: leave out what is not Cache.valid")


def _iterate(
    source: _Source, slices: pd.DataFrame, parts: list[npt.NDArray[np.int64]], workers: int
) -> Iterator[Batch]:
    windows = slices[list(WINDOW_COLUMNS)].to_numpy(np.float32)
    labels = slices[list(LABELS)].to_numpy(np.float32)
    rows = np.concatenate([*parts, np.empty(0, np.int64)])
    reach = source.recipe.neighbours
    stacked = stack_rows(slices["series"], source.cache.valid, rows, reach) if reach else rows[:, None]
    slice_ids = None if source.augmentation is None else slices["slice_id"].to_numpy(object)
    on_gpu: Callable[[], bool] = torch.cuda.is_initialized  # a run on the CPU leaves GPUs alone
    loader: DataLoader[Any] = DataLoader(
        source,
        batch_size=None,
        sampler=_Plan(parts, stacked, slice_ids),
        num_workers=workers,
        worker_init_fn=_prepare_worker,
        multiprocessing_context=_context() if workers else None,
        pin_memory=on_gpu(),
    )
    for part, read in zip(parts, loader if workers else _ahead(loader), strict=True):
        if isinstance(read, IchxError):
            raise read
        hu, masks, jitter = read
        del read  # what the consumer lets go of can be filled again
        of_part = [torch.from_numpy(column) for column in (windows[part], labels[part], part)]
        yield Batch(hu, of_part[0], of_part[1], of_part[2], jitter, masks)
        del hu, masks, jitter


def _ahead(batches: Iterable[Any]) -> Iterator[Any]:
    """Yield `batches`, read one ahead by a thread: decompression and warping run beside the training step."""
    with ThreadPoolExecutor(1, thread_name_prefix="ichx-loader") as pool:
        source = iter(batches)
        waiting = pool.submit(next, source, None)
        while (batch := waiting.result()) is not None:
            waiting = pool.submit(next, source, None)
            yield batch


def start_worker_server() -> None:
    """Start the process that forks loader processes; it imports torch while the caller prepares a network.

    Otherwise the first batch waits for that import. Nothing happens if it runs already.
    """
    if _context().get_start_method() == "forkserver":
        forkserver.ensure_running()


def _context() -> Any:
    """Return how workers start: from a clean server process that has imported this file once.

    A fork of this process would copy the locks of torch's and CUDA's threads; a spawn would import torch per worker.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _prepare_worker(worker: int) -> None:
    """Leave Ctrl-C and SIGTERM to the parent, and use one thread: the workers are the parallelism."""
    ignore_stop_signals()
    cv2.setNumThreads(1)
