"""Bring a slice of any shape, or its mask, to the square size of a cache. Not for augmentation or for cropping."""

from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from ichx.ct.dicom import AIR

METHODS: Final = {"bilinear": cv2.INTER_LINEAR, "area": cv2.INTER_AREA}
"""`input.resize` of a recipe and what OpenCV calls it. On int16 both round to the nearest HU."""


def pad_to_square(hu: npt.NDArray[Any], fill: int = AIR) -> npt.NDArray[Any]:
    """Return `hu` (H, W), HU or a mask, in the middle of a square of `fill` whose edge is its longer one."""
    rows, columns = hu.shape
    if rows == columns:
        return hu
    edge = max(rows, columns)
    square = np.full((edge, edge), fill, hu.dtype)
    top, left = (edge - rows) // 2, (edge - columns) // 2
    square[top : top + rows, left : left + columns] = hu
    return square


def fit_square(hu: npt.NDArray[np.int16], size: int, method: str) -> npt.NDArray[np.int16]:
    """Return `hu` (H, W) int16 HU as contiguous (size, size) int16 HU, aspect kept; `method` is a key of `METHODS`."""
    square = pad_to_square(hu)
    if square.shape[0] == size:
        return np.ascontiguousarray(square)
    resized: npt.NDArray[Any] = cv2.resize(square, (size, size), interpolation=METHODS[method])
    return np.ascontiguousarray(resized, np.int16)


def fit_mask(mask: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """Return `mask` (H, W) uint8 as (size, size), placed as `fit_square` places its slice; no value is invented."""
    square = pad_to_square(mask, 0)
    # What OpenCV calls plain nearest is off by half a pixel.
    return np.asarray(cv2.resize(square, (size, size), interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
