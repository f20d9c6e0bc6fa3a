"""The masks of a mixture at the size of its cache: those of its parts, which other trainings share.

Pseudo-masks differ between folds; each fold reads those of its own networks.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ichx.cache.hu_cache import Cache
from ichx.cache.mask_cache import ensure_masks
from ichx.cache.mask_file import MaskCache, fold_masks_key
from ichx.datasets.dataset import LoadedDataset
from ichx.datasets.fold_masks import masks_of_parts
from ichx.datasets.ingest import ProgressCallback
from ichx.datasets.masks import known_masks
from ichx.datasets.mixture import split_parts

if TYPE_CHECKING:
    from ichx.workspace import Workspace


class MixtureMasks(MaskCache):
    """The masks of a mixture. It can be pickled to worker processes."""

    def __init__(
        self,
        parts: tuple[MaskCache | None, ...],
        places: npt.NDArray[np.int64],
        size: int,
        known: npt.NDArray[np.bool_],
    ) -> None:
        """Read the masks of `parts`; None for one without masks.

        Args:
            parts: The masks of each part.
            places: `(n, 2)`: part of each slice, and its row in the part.
            size: Pixels of the cache.
            known: `(n,)`, see `MaskCache.known`.
        """
        self.parts, self.places, self.size, self.known = parts, places, size, known

    def __reduce__(self) -> tuple[type["MixtureMasks"], tuple[object, ...]]:  # type: ignore[override]
        return type(self), (self.parts, self.places, self.size, self.known)

    def read(self, row: int) -> npt.NDArray[np.uint8] | None:
        """See `MaskCache.read`."""
        part, place = self.places[row].tolist()
        masks = self.parts[part]
        return None if masks is None else masks.read(place)

    def with_parts(self, parts: Mapping[int, MaskCache]) -> "MixtureMasks":
        """Return masks with those of some parts replaced, by their numbers; the replaced ones are known."""
        known = self.known.copy()
        for number, masks in parts.items():
            rows = np.flatnonzero(self.places[:, 0] == number)
            known[rows] |= masks.known[self.places[rows, 1]]
        return MixtureMasks(
            tuple(parts.get(number, masks) for number, masks in enumerate(self.parts)), self.places, self.size, known
        )


def ensure_fold_masks(
    workspace: "Workspace",
    cache: Cache,
    data: LoadedDataset,
    folds: Iterable[int],
    *,
    progress: ProgressCallback | None = None,
) -> dict[int, dict[int, MaskCache]]:
    """Return the pseudo-masks that fit `cache`, the cache of the mixture `data`, by fold and number of the part.

    They are built on first use. Raises like `ensure_dataset_masks`, and like `MasksByFold.read`.
    """
    of_parts = masks_of_parts(data.version)
    found: dict[int, dict[int, MaskCache]] = {fold: {} for fold in folds}
    for number, (part, of_part) in enumerate(zip(split_parts(data.version, data.slices), cache.parts, strict=True)):
        if part.part.dataset not in of_parts:
            continue
        stored = of_parts[part.part.dataset]
        for fold in found:
            masks = stored.read(workspace, fold).by_row(part.slices)
            key = fold_masks_key(stored.digests[fold])
            found[fold][number] = ensure_masks(of_part, masks, key, part.source, part.slices, progress=progress)
    return found


def ensure_dataset_masks(
    cache: Cache, masks: Mapping[int, bytes], data: LoadedDataset, *, progress: ProgressCallback | None = None
) -> MaskCache:
    """Return the masks that fit `cache`, the cache of `data`, built on first use.

    Args:
        cache: The cache.
        masks: PNG files by row.
        data: The dataset; all masks of a mixture without any are unknown.
        progress: Receives (done, total) slices, of one part after another.

    Raises:
        StorageError: A file cannot be written or read.
        ChangedDataError: A file has changed since the dataset was added.
    """
    parts = split_parts(data.version, data.slices)
    if not parts:
        digest = data.version.summary["masks"]["digest"]
        return ensure_masks(cache, masks, digest, data.source, data.slices, progress=progress)
    found, places = list[MaskCache | None](), np.zeros((cache.n, 2), np.int64)
    for number, (part, of_part) in enumerate(zip(parts, cache.parts, strict=True)):
        places[part.rows] = np.column_stack([np.full(len(part.rows), number), np.arange(len(part.rows))])
        own = {place: masks[row] for place, row in enumerate(part.rows.tolist()) if row in masks}
        digest = part.part.masks
        if digest is None:
            found.append(None)
        else:
            found.append(ensure_masks(of_part, own, digest, part.source, part.slices, progress=progress))
    return MixtureMasks(tuple(found), places, cache.spec.size, known_masks(data.slices, np.array(sorted(masks), int)))
