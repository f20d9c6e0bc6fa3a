"""Geometry: positions of slices in a series, and of the head in a slice.

Gaps and overlaps are found in `spacing`; resizing is in `ichx.cache.resize`.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

HEAD_OVER: Final = -500
"""HU that separates a body from air."""

SPARSE: Final = 8
"""Row and column step of the grid on which the largest component is searched; only that one is then measured."""

FILL: Final = -1024
"""HU of what a shift brings in: air."""

OFF_NORMAL: Final = 1.0
"""Degrees that a slice may be turned against its series."""


def image_sides(orientation: Sequence[float] | None) -> tuple[str, str] | None:
    """Return the patient's sides at the left and the right edge of an image, e.g. `("R", "L")`.

    Args:
        orientation: Directions of rows and columns (DICOM PS3.3, C.7.6.2.1.1); x grows to the patient's left.

    Returns:
        The sides, or None if the orientation is unknown, or another axis of the patient is closer to the rows.
    """
    if orientation is None:
        return None
    x, y, z = orientation[:3]
    if not abs(x) > max(abs(y), abs(z)):  # also for NaN
        return None
    return ("R", "L") if x > 0 else ("L", "R")


def series_normals(series: npt.NDArray[np.integer[Any]], orientation: FloatArray) -> FloatArray:
    """Return the unit normal of each slice's series, (N, 3).

    `series` is (N,) int codes from 0, `orientation` (N, 6): the row's and the column's direction. A series' normal is
    the median of its slices' (row x column), so that one outlier does not change it; NaN if no slice has one.
    """
    normals = np.cross(orientation[:, :3], orientation[:, 3:])
    known = np.isfinite(normals).all(axis=1)
    code, count = series[known], int(series.max(initial=-1)) + 1
    size = np.bincount(code, minlength=count)
    middle = (np.cumsum(size) - size + (size - 1) // 2)[size > 0]
    medians = np.full((count, 3), np.nan)
    for axis in range(3):
        values = normals[known, axis]
        medians[size > 0, axis] = values[np.lexsort((values, code))][middle]
    lengths = np.linalg.norm(medians, axis=1, keepdims=True)
    unit = np.divide(medians, lengths, out=np.full_like(medians, np.nan), where=lengths > 1e-6)
    return np.asarray(unit[series], np.float64)


def position_along_normal(position: FloatArray, normal: FloatArray) -> FloatArray:
    """Return how far along `normal` (N, 3) each slice's first pixel at `position` (N, 3) lies, (N,) in mm or NaN.

    Right for a tilted gantry too, where one coordinate alone is not.
    """
    return np.asarray(np.einsum("ij,ij->i", position, normal), np.float64)


def order_series(
    series: npt.NDArray[np.integer[Any]],
    along: FloatArray,
    instance_number: npt.NDArray[np.integer[Any]],
    tie: npt.NDArray[np.integer[Any]],
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """Return each slice's rank in its series from 0, (N,), and whether its series was ranked by instance number, (N,).

    Ranks follow `along` (N,) in mm; a series with a NaN is ranked by `instance_number` (N,). What is
    left equal goes by `tie` (N,).
    """
    count = int(series.max(initial=-1)) + 1
    missing = np.zeros(count, bool)
    missing[series[~np.isfinite(along)]] = True
    by_number = missing[series]
    key = np.where(by_number, instance_number, np.where(np.isfinite(along), along, 0))
    sequence = np.lexsort((tie, instance_number, key, series))
    starts = np.concatenate([[0], np.cumsum(np.bincount(series, minlength=count))])[:-1]
    ranks = np.empty(len(series), np.int32)
    ranks[sequence] = np.arange(len(series)) - starts[series[sequence]]
    return ranks, by_number


def steps_between(
    series: npt.NDArray[np.integer[Any]], order: npt.NDArray[np.integer[Any]], along: FloatArray
) -> FloatArray:
    """Return the distance of each slice from the one before it in its series, (N,) in mm; NaN for a first one.

    `series` (N,) codes, `order` (N,) ranks, `along` (N,) in mm. NaN if a position is missing.
    """
    sequence = np.lexsort((order, series))
    steps = np.full(len(series), np.nan)
    inner = np.flatnonzero(series[sequence[1:]] == series[sequence[:-1]]) + 1
    steps[sequence[inner]] = along[sequence[inner]] - along[sequence[inner - 1]]
    return steps


def degrees_between(one: FloatArray, other: FloatArray) -> FloatArray:
    """Return the angle between the directions `one` and `other`, (N, 3) each, in degrees from 0 to 180; (N,)."""
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    cosine = np.divide(np.einsum("ij,ij->i", one, other), lengths, out=np.full(len(one), np.nan), where=lengths > 1e-6)
    return np.asarray(np.degrees(np.arccos(np.clip(cosine, -1, 1))), np.float64)


def head_centre(hu: npt.NDArray[np.int16]) -> tuple[float, float]:
    """Return (row, column) of the centroid of the largest connected component over -500 HU in `hu` (H, W).

    The image's centre, ((H - 1) / 2, (W - 1) / 2), where nothing is that dense.
    """
    import cv2  # takes 20 MB, which readers of a cache do not need

    mask = (hu > HEAD_OVER).view(np.uint8)
    left, top, width, height = cv2.boundingRect(mask)
    if not width:
        return (hu.shape[0] - 1) / 2, (hu.shape[1] - 1) / 2
    mask = mask[top : top + height, left : left + width]
    count, labels = cv2.connectedComponents(mask, connectivity=8)
    # The most frequent label of a coarse grid is the largest component, if it covers more than half of the dense
    # pixels.
    seen = np.bincount(labels[::SPARSE, ::SPARSE].ravel(), minlength=count)
    seen[0] = 0
    component = (labels == int(seen.argmax())).view(np.uint8)
    if not seen.any() or 2 * cv2.countNonZero(component) <= cv2.countNonZero(mask):
        sizes = np.bincount(labels.ravel(), minlength=count)
        component = (labels == 1 + int(sizes[1:].argmax())).view(np.uint8)
    return _centroid(component, top, left)


def _centroid(mask: npt.NDArray[np.uint8], top: int, left: int) -> tuple[float, float]:
    """Return (row, column) of the centroid of the ones in `mask` (H, W), whose first pixel is at `top`, `left`."""
    import cv2

    rows = cv2.reduce(mask, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel().astype(np.int64)
    columns = cv2.reduce(mask, 0, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel().astype(np.int64)
    total = int(rows.sum())
    return (
        int(rows @ np.arange(top, top + len(rows))) / total,
        int(columns @ np.arange(left, left + len(columns))) / total,
    )


def offset_to_centre(shape: tuple[int, int], centre: tuple[float, float]) -> tuple[int, int]:
    """Return how many pixels down and right an image of `shape` moves, so that `centre` (row, column) is its centre."""
    height, width = shape
    down = round((height - 1) / 2 - centre[0])
    right = round((width - 1) / 2 - centre[1])
    return max(-height, min(height, down)), max(-width, min(width, right))


def shift(image: npt.NDArray[Any], down: int, right: int, fill: int = FILL) -> npt.NDArray[Any]:
    """Return `image` (H, W, ...) moved by whole pixels; what comes in from outside is `fill`, air when left out."""
    height, width = image.shape[:2]
    moved = np.full_like(image, fill)
    moved[max(0, down) : height + min(0, down), max(0, right) : width + min(0, right)] = image[
        max(0, -down) : height - max(0, down), max(0, -right) : width - max(0, right)
    ]
    return moved


def shift_to_centre(hu: npt.NDArray[Any], centre: tuple[float, float], fill: int = FILL) -> npt.NDArray[Any]:
    """Return `hu` (H, W), HU or a mask, moved by whole pixels so that `centre` (row, column) is at its centre.

    What comes in from outside is `fill`, air when left out.
    """
    return shift(hu, *offset_to_centre((hu.shape[0], hu.shape[1]), centre), fill)
