"""Pixels of single slices for a viewer: from any cache of a version, or decoded from the file of the slice.

Reading needs neither the catalog nor pandas: rows are dicts of a `StudyIndex`.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from ichx.cache.hu_cache import CACHE_FILE, Cache
from ichx.cache.mask_file import MaskCache, masks_path
from ichx.cache.resize import crop_field, fit_mask, fit_square, pad_to_square
from ichx.cache.verify import FoundCache, find_caches
from ichx.ct.dicom import DicomDefectError
from ichx.ct.geometry import head_centre, shift_to_centre
from ichx.datasets.image_sides import sides_of
from ichx.datasets.mask_png import read_stored_mask
from ichx.datasets.sources import locate_slice, read_source_slice
from ichx.errors import ChangedDataError, CorruptFileError, IchxError, InvalidInputError, NotReadyError

Read = TypeVar("Read")
RECHECK_SECONDS: Final = 10.0
"""Time after which caches are searched again: one may have been built or removed."""
SMALLEST, LARGEST = 16, 4096
"""Sizes in pixels that a cache can have."""
UNREADABLE: Final = "The file of this slice was changed, moved or removed, or cannot be read."
RESTORE: Final = "Restore the file, or build a cache while it is readable."


@dataclass(frozen=True)
class DisplayedSlice:
    """A slice as a viewer shows it: a square, padded with air."""

    hu: npt.NDArray[np.int16]
    """`(S, S)` HU."""
    spacing: tuple[float, float] | None
    """Row and column spacing of these pixels in mm."""
    centre: str
    """How the head was moved; see `CacheSpec`."""


@dataclass(frozen=True)
class StoredSlice:
    """A slice as its cache stores it, to be decoded elsewhere."""

    chunk: bytes
    """See `ichx.cache.shards.pack`."""
    spacing: tuple[float, float] | None
    centre: str


class DisplayCaches:
    """The caches of one version that exist, opened on first use. Threads may share it."""

    def __init__(self, cache_dir: Path, name: str, of_slices: str) -> None:
        """Look for caches of dataset `name` with the slices whose `slices_digest` is `of_slices`."""
        self._cache_dir, self._name, self._of_slices = cache_dir, name, of_slices
        self._lock = Lock()
        self._checked = -RECHECK_SECONDS
        self._found: dict[int, Cache] = {}

    def by_size(self) -> Mapping[int, Cache]:
        """Return a cache for each size, smallest first.

        Of several with one size, one of complete images comes first, then one that centres slices.
        """
        with self._lock:
            if time.monotonic() - self._checked >= RECHECK_SECONDS:
                self._found = self._find()
                self._checked = time.monotonic()
            return self._found

    def of(self, size: int | None) -> Cache | None:
        """Return the cache of this size (None: the largest), or None if there is none."""
        found = self.by_size()
        return found.get(max(found, default=0) if size is None else size)

    def _find(self) -> dict[int, Cache]:
        opened = {cache.folder: cache for cache in self._found.values()}
        found: dict[int, Cache] = {}
        caches = [c for c in find_caches(self._cache_dir, self._name, self._of_slices) if c.current]
        for one in sorted(caches, key=_preference):
            if one.spec.size in found or not (one.folder / CACHE_FILE).is_file():
                continue
            try:
                found[one.spec.size] = opened.get(one.folder) or Cache(one.folder)
            except (OSError, ValueError, KeyError):
                continue  # being removed, or its index is damaged: `ichx data cache --verify` reports it
        return found


def _preference(cache: FoundCache) -> tuple[int, bool, bool, str]:
    return cache.spec.size, cache.spec.field > 0, cache.spec.centre != "slice", cache.folder.name


def check_size(text: str | None) -> int | None:
    """Return the requested size in pixels. Raises `InvalidInputError`."""
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 4 and SMALLEST <= int(text) <= LARGEST):
        raise InvalidInputError(f"Invalid value for `size`: {text[:20]!r}.", f"Use {SMALLEST} to {LARGEST}.")
    return int(text)


def read_displayed(cache: Cache | None, source: Path, row: Mapping[str, Any], size: int | None) -> DisplayedSlice:
    """Return a slice from `cache`, or decoded from its file if that is None.

    Args:
        cache: A cache of the version.
        source: The source of the version.
        row: The slice, see `StudyIndex.slice`.
        size: The size for a slice without a cache; None: that of the file.

    Raises:
        CorruptFileError: The slice cannot be decoded, or its chunk in the cache is damaged.
        ChangedDataError: The file was changed, moved or removed.
    """
    if cache is not None:
        hu = _read_cache(cache.read, cache, row)
        return DisplayedSlice(hu, _cached_spacing(cache, row), cache.spec.centre)
    hu = decode(source, row)
    square = pad_to_square(hu) if size is None else fit_square(hu, size, "bilinear")
    return DisplayedSlice(np.ascontiguousarray(square), resized_spacing(row, square.shape[0]), "none")


def read_stored(cache: Cache, row: Mapping[str, Any]) -> StoredSlice:
    """Return a slice of `cache` without decoding it; raises like `read_displayed`."""
    return StoredSlice(_read_cache(cache.read_chunk, cache, row), _cached_spacing(cache, row), cache.spec.centre)


def _read_cache(read: Callable[[int], Read], cache: Cache, row: Mapping[str, Any]) -> Read:
    """Return what `read` returns for the slice `row`."""
    reason = cache.defects.get(row["row"])
    if reason is not None:
        raise _undecodable(reason)
    try:
        return read(row["row"])
    except CorruptFileError as error:
        problem = f"The cache of {cache.spec.size} px is damaged at this slice."
        raise CorruptFileError(problem, error.remedy) from error


def _cached_spacing(cache: Cache, row: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the spacing in mm of the pixels of `cache`."""
    spacing = resized_spacing(row, cache.spec.size)
    if spacing is None or not cache.spec.field:
        return spacing
    shares = field_shares(row, cache.spec.field)
    return spacing[0] * shares[0], spacing[1] * shares[1]


def decode(source: Path, row: Mapping[str, Any]) -> npt.NDArray[np.int16]:
    """Return the slice `row` as (rows, columns) int16 HU, decoded from its file; raises like `read_displayed`."""
    try:
        return read_source_slice(locate_slice(source, row)).hu
    except DicomDefectError as defect:
        raise _undecodable(defect.reason) from defect
    except ChangedDataError as error:  # its message has the path
        raise ChangedDataError(UNREADABLE, RESTORE) from error


def resized_spacing(row: Mapping[str, Any], size: int) -> tuple[float, float] | None:
    """Return the spacing in mm of a slice that was padded to a square and resized to `size` pixels."""
    spacing = row["spacing_row"], row["spacing_column"]
    if not all(value is not None and value > 0 for value in spacing):
        return None
    scale = max(row["rows"], row["columns"]) / size
    return spacing[0] * scale, spacing[1] * scale


def field_shares(row: Mapping[str, Any], field: float) -> tuple[float, float]:
    """Return the rows and columns that a cache with `field` in mm shows, as shares of the padded square.

    1 without a field or with unknown spacing; more than 1 if the field is larger than the image.
    """
    spacing = resized_spacing(row, 1)  # of one pixel that covers the square
    return (1.0, 1.0) if not field or spacing is None else (field / spacing[0], field / spacing[1])


def place_map(
    found: npt.NDArray[np.float32],
    shares: tuple[float, float],
    shown: tuple[float, float],
    move: tuple[float, float],
) -> npt.NDArray[np.float32]:
    """Return a map of one cached square on another one of the same slice, both (E, E).

    Args:
        found: The map.
        shares: `field_shares` of its cache.
        shown: `field_shares` of the other one.
        move: How far the head moves down and to the right between them, in edges of the complete square.
    """
    import cv2

    edge = found.shape[0]
    matrix = np.zeros((2, 3), np.float32)
    for axis, (share, shown_share, by) in enumerate(zip(shares, shown, move, strict=True)):
        scale, at = share / shown_share, 1 - axis  # x comes first in OpenCV
        matrix[at, at] = scale
        matrix[at, 2] = (scale - 1) / 2 + edge * ((1 - scale) / 2 + by / shown_share)
    return np.asarray(cv2.warpAffine(found, matrix, (edge, edge)), np.float32)


def moved_by(centre: str, hu: npt.NDArray[np.int16]) -> tuple[float, float]:
    """Return how far a cache that centres `none` or `slice` moves `hu` down and to the right, in edges of the square.

    Raises:
        ValueError: For other centring, which follows from the complete series.
    """
    if centre == "none":
        return 0.0, 0.0
    if centre != "slice":
        raise ValueError(f"a slice alone does not show how centring by {centre} moves it")
    row, column = head_centre(hu)
    edge = max(hu.shape)
    return round((hu.shape[0] - 1) / 2 - row) / edge, round((hu.shape[1] - 1) / 2 - column) / edge


def patient_sides(source: Path, row: Mapping[str, Any]) -> dict[str, str] | None:
    """Return which side of the patient is at the left and right edge of a slice, e.g. `{"left": "R", "right": "L"}`.

    None if that is unknown: the file is missing or was changed, it has no orientation, or the slice shows another pair
    of sides.
    """
    try:
        sides = sides_of(locate_slice(source, row))
    except (OSError, IchxError):
        return None
    return dict(zip(("left", "right"), sides, strict=True)) if sides else None


def _undecodable(reason: str) -> CorruptFileError:
    return CorruptFileError(f"This slice cannot be decoded: {reason}.", "Export or copy the file again.")


@dataclass(frozen=True)
class StoredMasks:
    """The masks of a version."""

    folder: Path
    """The folder of the version."""
    digest: str
    rows: npt.NDArray[np.int64]
    """Cache rows of the slices that have one, ascending."""


def displayed_mask(
    masks: StoredMasks, cache: Cache | None, source: Path, row: Mapping[str, Any]
) -> npt.NDArray[np.uint8] | None:
    """Return the mask of a slice as `read_displayed` shows the slice, (S, S), or None if it has none.

    Raises:
        NotReadyError: The masks have to be moved like the heads of complete series, and are not in the cache.
        ChangedDataError: The masks, or the file of the slice, are missing.
        CorruptFileError: They are damaged.
    """
    path = None if cache is None else masks_path(cache.folder, masks.digest)
    if cache is not None and path is not None and path.is_file():
        try:
            return MaskCache(path, cache.spec.size, masks.rows, np.empty(0, bool)).read(row["row"])
        except (OSError, ValueError, CorruptFileError):
            pass  # damaged: the mask itself is read
    mask = read_stored_mask(masks.folder, row["slice_id"])
    return None if mask is None or not mask.any() else place_mask(mask, cache, source, row)


def place_mask(
    mask: npt.NDArray[np.uint8], cache: Cache | None, source: Path, row: Mapping[str, Any]
) -> npt.NDArray[np.uint8]:
    """Return a mask with the size of its slice as `read_displayed` shows the slice, (S, S).

    Raises:
        NotReadyError: The cache moves the heads of complete series, so the place of the mask is unknown.
        ChangedDataError: The file of the slice is missing.
        CorruptFileError: It is damaged.
    """
    if cache is None:
        return pad_to_square(mask, 0)
    if cache.spec.centre == "series":
        raise NotReadyError(
            "The masks are not in the cache, which moves the head by series.", "Run an experiment with masks first."
        )
    if cache.spec.centre == "slice":
        mask = shift_to_centre(mask, head_centre(decode(source, row)), 0)
    if cache.spec.field:
        spacing = resized_spacing(row, max(row["rows"], row["columns"]))
        mask = crop_field(mask, cache.spec.field, spacing or (0.0, 0.0), 0)
    return fit_mask(mask, cache.spec.size)
