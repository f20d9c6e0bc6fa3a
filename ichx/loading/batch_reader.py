"""Reads one batch of cached slices: decompression, augmentation, crop. It runs in loader processes, without torch.

A loader process imports this module and what it needs, nothing else: NumPy, OpenCV and blosc2.
"""

import sys
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ichx.cache.hu_cache import Cache
from ichx.cache.mask_file import MaskCache
from ichx.ct.dicom import AIR
from ichx.labels import UNKNOWN_MASK
from ichx.loading.augmentation import MASK, Transform, identity, jitters_windows, window_jitter
from ichx.loading.plugin_augmentation import PluginAugmentation
from ichx.loading.policy import make_augmenter
from ichx.loading.sampling import AUGMENTATION, PLUGIN, WINDOWS, EpochAddress, generator
from ichx.plugins.contract import AugmentationBuilder
from ichx.recipe import Recipe

Rows = npt.NDArray[np.int64]
Item = tuple[Rows, list[int]]
"""A batch to read: the rows `(N, S)` of its stacks, and the numbers of their slices, empty without augmentation."""
Arrays = tuple[npt.NDArray[Any] | None, ...]
"""HU, masks and jitter of a batch."""


def centre_crop(image: npt.NDArray[Any], edge: int) -> npt.NDArray[Any]:
    """Return the middle `edge` x `edge` pixels of `image` (..., H, W), as a view."""
    top, left = (image.shape[-2] - edge) // 2, (image.shape[-1] - edge) // 2
    return image[..., top : top + edge, left : left + edge]


class BatchReader:
    """Reads batches: maps rows and slice numbers to (N, edge, edge) int16 HU, masks and jitter.

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
        self.build = build
        """What builds the plugin's augmentation."""
        self._crop_first = recipe.augmentation.crop_first
        augmented = recipe.input.pixels if self._crop_first else recipe.input.size
        self._augmenter = None if address is None else make_augmenter(recipe.augmentation, augmented)
        self._plugin_augmentation = None if build is None else PluginAugmentation(build, recipe)
        self.buffers = BatchMemory()
        """Memory of its batches. Readers may share it, so that a new epoch uses that of the last one."""
        self._slice = np.empty((recipe.input.size, recipe.input.size), np.int16)

    def __reduce__(self) -> tuple[type["BatchReader"], tuple[Any, ...]]:
        return type(self), self._arguments

    def read(self, item: Item) -> Arrays:
        """Return the HU, the masks and the window jitter of a batch, None where it has none.

        The memory of the HU is used again for a later batch when nobody refers to it any more.

        Raises:
            CorruptFileError: A file of the cache is damaged or missing.
            MemoryError: There is not enough memory.
        """
        rows, numbers = item
        return *self._read(rows, numbers), self._jitter(numbers)

    def _read(self, rows: Rows, numbers: list[int]) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.uint8] | None]:
        edge = self.recipe.input.pixels
        hu = self.buffers.take((*rows.shape, edge, edge))
        masks = None if self.masks is None else np.zeros((len(rows), edge, edge), np.uint8)
        sample = _Sample()
        read: dict[int, npt.NDArray[np.int16]] = {}
        for index, stack in enumerate(rows.tolist()):
            if self._augmenter is not None and self.address is not None:
                address = (*self.address, numbers[index])
                sample = _Sample(self._augmenter.draw(generator(AUGMENTATION, *address)), address)
                read.clear()  # another sample gets another transform
                stack = stack[::-1] if self._augmenter.reversed else stack
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
                    masks[index] = UNKNOWN_MASK
        return hu if self.recipe.input.neighbours else hu[:, 0], masks

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

    def _jitter(self, numbers: list[int]) -> npt.NDArray[np.float32] | None:
        if self.address is None or not jitters_windows(self.recipe.augmentation):
            return None
        recipe, windows = self.recipe.augmentation, len(self.recipe.input.windows)
        draws = [window_jitter(recipe, windows, generator(WINDOWS, *self.address, number)) for number in numbers]
        return np.stack(draws)


@dataclass(frozen=True)
class _Sample:
    """How the slices of a sample are augmented."""

    transform: Transform = identity
    """The transform of the recipe."""
    address: tuple[int, ...] = ()
    """Address of the draws of the plugin's augmentation."""


class BatchMemory:
    """Reuses the memory of released batches: allocating it takes a third of the time of a decompression.

    Threads may share an instance.
    """

    def __init__(self) -> None:
        self._arrays: list[npt.NDArray[np.int16]] = []
        self._unused = _reference_counts([np.empty(0, np.int16)])[0]
        self._lock = threading.Lock()

    def take(self, shape: tuple[int, ...]) -> npt.NDArray[np.int16]:
        """Return an int16 array of `shape` with undefined content that no one else uses."""
        samples = shape[0]
        with self._lock:
            # An incomplete batch uses a part of the memory of a complete one.
            self._arrays = [one for one in self._arrays if one.shape[1:] == shape[1:] and len(one) >= samples]
            for index, count in enumerate(_reference_counts(self._arrays)):
                if count == self._unused:
                    return self._arrays[index][:samples]
            self._arrays.append(np.empty(shape, np.int16))
            return self._arrays[-1][:samples]


def _reference_counts(arrays: list[npt.NDArray[np.int16]]) -> list[int]:
    """Return the number of references to each array; tensors and views count."""
    return [sys.getrefcount(array) for array in arrays]
