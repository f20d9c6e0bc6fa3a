"""Resizing a slice of any shape, or its mask, to the square of a cache. Augmentation is in `ichx.loading`."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ichx.ct.dicom import AIR

INTERPOLATIONS: Final = {"bilinear": "INTER_LINEAR", "area": "INTER_AREA"}
"""Interpolation of OpenCV for each `input.resize` of a recipe. On int16 both round to the nearest HU."""


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
