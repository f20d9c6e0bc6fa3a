"""Maps over the square of a cache, back on the pixels of the slice: the inverse of centring, field and resizing."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ichx.cache.hu_cache import CacheSpec
from ichx.cache.resize import Spacing, shown_by_field
from ichx.ct.geometry import offset_to_centre, shift

Maps = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ImagePlace:
    """What determines where a slice is in a cache."""

    shape: tuple[int, int]
    """Rows and columns of its image."""
    spacing: Spacing
    """Of its pixels in mm, NaN if unknown."""
    centre: tuple[float, float]
    """Centre of the head, row and column in pixels, as the cache moved it; NaN if it did not."""


def on_original(maps: Maps, spec: CacheSpec, place: ImagePlace) -> tuple[Maps, npt.NDArray[np.bool_]]:
    """Return maps of a slice on the pixels of its image.

    Args:
        maps: `(E, E, K)`: maps over the middle E x E pixels of the cached square.
        spec: Of the cache.
        place: Of the slice.

    Returns:
        The maps `(rows, columns, K)`, and which pixels they cover `(rows, columns)`; others are 0.
    """
    import cv2

    before = (spec.size - maps.shape[0]) // 2
    margin = (before, spec.size - maps.shape[0] - before)
    square = np.pad(maps, (margin, margin, (0, 0)), mode="edge")  # the border is not blended with what is unknown
    covered = np.zeros((spec.size, spec.size), np.uint8)
    covered[before : before + maps.shape[0], before : before + maps.shape[0]] = 1
    rows, columns = place.shape
    shown = shown_by_field(place.shape, spec.field, place.spacing)
    if shown is None:
        edge = max(rows, columns)
        top, left = (edge - rows) // 2, (edge - columns) // 2
        size, source = (edge, edge), (slice(top, top + rows), slice(left, left + columns))
        target = (slice(0, rows), slice(0, columns))
    else:
        size, target, source = shown
    width_height = size[::-1]
    resized = cv2.resize(square, width_height, interpolation=cv2.INTER_LINEAR)
    square = np.asarray(resized, np.float32).reshape(*size, maps.shape[2])  # one map loses its axis
    covered = np.asarray(cv2.resize(covered, width_height, interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
    found, known = np.zeros((rows, columns, maps.shape[2]), np.float32), np.zeros((rows, columns), np.uint8)
    found[target], known[target] = square[source], covered[source]
    if np.isfinite(place.centre).all():
        down, right = offset_to_centre(place.shape, place.centre)
        found, known = shift(found, -down, -right, 0), shift(known, -down, -right, 0)
    found[known == 0] = 0
    return found, known.view(bool)
