"""Batches of cached slices for training and for inference: HU, header windows, labels. Not for windowing them.

Windows are applied on the device (`ichx.ct.windows`). What crosses from a worker is a whole batch of int16 HU; the
small columns are added in the parent, so that workers hold nothing of the dataset. Batches do not depend on `workers`.
"""

import multiprocessing
import signal
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ichx.data.augment import Augmenter
from ichx.data.cache import Cache
from ichx.data.sampling import AUGMENTATION, generator, id_number
from ichx.errors import IchxError
from ichx.labels import LABELS
from ichx.recipe import Recipe

WINDOW_COLUMNS: Final = ("window_centre", "window_width")


@dataclass
class Batch:
    """`hu` (N, H, W) int16 HU; `windows` (N, 2) float32 HU, the header's centre and width; `labels` (N, 6) float32.

    Labels are NaN where the dataset has none. `rows` (N,) int64 are rows of the dataset, in the order asked for.
    """

    hu: Tensor
    windows: Tensor
    labels: Tensor
    rows: Tensor


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
) -> Iterator[Batch]:
    """Yield the epoch's batches of `recipe.batch` slices in the order of `rows`, augmented, then cropped to the centre.

    A sample's augmentation depends on (seed, fold, stage, epoch, slice id) only. A ragged last batch is dropped, unless
    it is the only one. `start` skips that many batches. Raises `ValueError` when a row is a defect.
    """
    _check(cache, slices, rows, recipe)
    whole = len(rows) - len(rows) % recipe.batch if len(rows) > recipe.batch else len(rows)
    address = (recipe.seed, fold, stage, epoch)
    augmenter = Augmenter(recipe.augmentation, recipe.input.size)
    source = _Source(cache, recipe.input.pixels, augmenter, address)
    parts = _split(rows[:whole], recipe.batch)[start:]
    return _iterate(source, slices, parts, workers)


def inference_batches(
    cache: Cache,
    slices: pd.DataFrame,
    rows: npt.NDArray[np.int64],
    recipe: Recipe,
    *,
    batch: int | None = None,
    workers: int,
) -> Iterator[Batch]:
    """Yield all of `rows` in their order, cropped to the centre but not augmented, `batch` (or the recipe's) at a time.

    Raises `ValueError` when a row is a defect.
    """
    _check(cache, slices, rows, recipe)
    source = _Source(cache, recipe.input.pixels)
    return _iterate(source, slices, _split(rows, batch or recipe.batch), workers)


def centre_crop(image: npt.NDArray[Any], edge: int) -> npt.NDArray[Any]:
    """Return the middle `edge` x `edge` pixels of `image` (..., H, W), as a view."""
    top, left = (image.shape[-2] - edge) // 2, (image.shape[-1] - edge) // 2
    return image[..., top : top + edge, left : left + edge]


class _Source(Dataset[Any]):
    """Reads a batch: the item (rows, slice numbers) becomes (N, edge, edge) int16 HU. All that a worker holds."""

    def __init__(
        self, cache: Cache, edge: int, augmenter: Augmenter | None = None, address: tuple[int, ...] = ()
    ) -> None:
        self.cache, self.edge, self.augmenter, self.address = cache, edge, augmenter, address

    def __getitem__(self, item: tuple[npt.NDArray[np.int64], list[int]]) -> Tensor | IchxError:
        try:
            return torch.from_numpy(self._read(*item))
        except IchxError as error:
            return error  # raised by the parent: torch would turn it into a RuntimeError on the way

    def _read(self, rows: npt.NDArray[np.int64], numbers: list[int]) -> npt.NDArray[np.int16]:
        size = self.cache.spec.size
        hu = np.empty((len(rows), self.edge, self.edge), np.int16)
        if self.augmenter is None and self.edge == size:
            for image, row in zip(hu, rows.tolist(), strict=True):
                self.cache.read(row, image)
            return hu
        whole = np.empty((size, size), np.int16)
        for index, row in enumerate(rows.tolist()):
            self.cache.read(row, whole)
            image = whole
            if self.augmenter is not None:
                image = self.augmenter(whole, generator(AUGMENTATION, *self.address, numbers[index]))
            hu[index] = centre_crop(image, self.edge)
        return hu


class _Plan(Iterable[Any]):
    """The items of an epoch in order; slice numbers are worked out as they are needed."""

    def __init__(self, parts: list[npt.NDArray[np.int64]], slice_ids: npt.NDArray[Any] | None) -> None:
        self.parts, self.slice_ids = parts, slice_ids

    def __iter__(self) -> Iterator[tuple[npt.NDArray[np.int64], list[int]]]:
        for part in self.parts:
            yield part, [] if self.slice_ids is None else [id_number(name) for name in self.slice_ids[part]]

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
    slice_ids = None if source.augmenter is None else slices["slice_id"].to_numpy(object)
    loader: DataLoader[Any] = DataLoader(
        source,
        batch_size=None,
        sampler=_Plan(parts, slice_ids),
        num_workers=workers,
        worker_init_fn=_prepare_worker,
        multiprocessing_context=_context() if workers else None,
        pin_memory=torch.cuda.is_available(),
    )
    for part, hu in zip(parts, loader if workers else _ahead(loader), strict=True):
        if isinstance(hu, IchxError):
            raise hu
        yield Batch(hu, torch.from_numpy(windows[part]), torch.from_numpy(labels[part]), torch.from_numpy(part))


def _ahead(batches: Iterable[Any]) -> Iterator[Any]:
    """Yield `batches`, read one ahead by a thread: decompression and warping run beside the training step."""
    with ThreadPoolExecutor(1, thread_name_prefix="ichx-loader") as pool:
        source = iter(batches)
        waiting = pool.submit(next, source, None)
        while (batch := waiting.result()) is not None:
            waiting = pool.submit(next, source, None)
            yield batch


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
    """Leave Ctrl-C to the parent, and use one thread: the workers are the parallelism."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
