"""Resizing a slice of any shape, or its mask, to the square of a cache. Augmentation is in `ichx.loading`."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from ichx.ct.dicom import AIR

if TYPE_CHECKING:
    import pandas as pd

INTERPOLATIONS: Final = {"bilinear": "INTER_LINEAR", "area": "INTER_AREA"}
"""Interpolation of OpenCV for each `input.resize` of a recipe. On int16 both round to the nearest HU."""


Spacing = tuple[float, float]
"""Row and column spacing of pixels in mm; NaN where unknown."""


def pixel_spacings(slices: "pd.DataFrame", rows: Sequence[int] | npt.NDArray[np.int64]) -> tuple[Spacing, ...]:
    """Return the pixel spacing of `rows` of a catalog."""
    columns = [name for name in ("spacing_row", "spacing_column") if name in slices]
    if len(columns) < 2:
        return ((math.nan, math.nan),) * len(rows)
    found = slices[columns].to_numpy(float)[np.asarray(rows, np.int64)]
    return tuple((row, column) for row, column in found.tolist())


def crop_field(image: npt.NDArray[Any], field: float, spacing: Spacing, fill: int = AIR) -> npt.NDArray[Any]:
    """Return the square of `field` mm in the middle of `image` (H, W), with square pixels; `fill` is what lies outside.

    An image with unknown spacing is returned as it is. If rows and columns have different spacings, the coarser axis
    is resampled to the finer one, so that the result is a square in pixels, too.
    """
    shown = shown_by_field((image.shape[0], image.shape[1]), field, spacing)
    if shown is None:
        return image
    (height, width), source, target = shown
    part = np.full((height, width), fill, image.dtype)
    part[target] = image[source]
    if height == width:
        return part
    import cv2

    edge = max(height, width)
    how = cv2.INTER_NEAREST_EXACT if image.dtype == np.uint8 else cv2.INTER_LINEAR  # masks are not blended
    return np.asarray(cv2.resize(part, (edge, edge), interpolation=how), image.dtype)


Window = tuple[slice, slice]


def shown_by_field(
    shape: tuple[int, int], field: float, spacing: Spacing
) -> tuple[tuple[int, int], Window, Window] | None:
    """Return the rows and columns of the pixels in `field` mm around the middle of an image of `shape`.

    Also return the part of the image that is shown, and where it is among these pixels. None without a field or if the
    spacing is unknown: the complete image is shown.
    """
    if not field or not all(0 < value < math.inf for value in spacing):
        return None
    height, width = (max(1, round(field / value)) for value in spacing)
    rows, target_rows = _overlap(shape[0], height)
    columns, target_columns = _overlap(shape[1], width)
    return (height, width), (rows, columns), (target_rows, target_columns)


def _overlap(own: int, wanted: int) -> tuple[slice, slice]:
    """Return the part of an axis of `own` pixels that its middle `wanted` pixels show, and where it is among them."""
    start = (own - wanted) // 2
    first, last = max(start, 0), min(start + wanted, own)
    return slice(first, last), slice(first - start, last - start)


def pad_to_square(image: npt.NDArray[Any], fill: int = AIR) -> npt.NDArray[Any]:
    """Return `image` (H, W) in the middle of a square of `fill` whose edge is max(H, W)."""
    rows, columns = image.shape
    if rows == columns:
        return image
    edge = max(rows, columns)
    square = np.full((edge, edge), fill, image.dtype)
    top, left = (edge - rows) // 2, (edge - columns) // 2
    square[top : top + rows, left : left + columns] = image
    return square


def fit_square(hu: npt.NDArray[np.int16], size: int, method: str) -> npt.NDArray[np.int16]:
    """Return `hu` (H, W) int16 as contiguous (size, size) int16, padded with air to keep the aspect ratio.

    `method` is a key of `INTERPOLATIONS`.
    """
    square = pad_to_square(hu)
    if square.shape[0] == size:
        return np.ascontiguousarray(square)
    import cv2  # not needed by readers of a cache

    resized: npt.NDArray[Any] = cv2.resize(square, (size, size), interpolation=getattr(cv2, INTERPOLATIONS[method]))
    return np.ascontiguousarray(resized, np.int16)


def fit_mask(mask: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """Return `mask` (H, W) uint8 as (size, size), aligned with the result of `fit_square`; values are not blended."""
    import cv2

    square = pad_to_square(mask, 0)
    # INTER_NEAREST is off by half a pixel.
    return np.asarray(cv2.resize(square, (size, size), interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
