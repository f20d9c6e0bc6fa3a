"""Signed distances of simple solids and their soft coverage of pixels; the vocabulary of the phantom's anatomy.

Distances are in mm, negative inside, first-order exact near the surface (I. Quilez, "Ellipsoid SDF", 2008).
Nothing here knows what a head is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
Vector = tuple[float, float, float]

FAR = np.float32(1e3)
"""Distance of points that are too far away to matter."""

_MARGIN = 12.0
_SMALL = 20_000  # pixels below which searching the box costs more than it saves
_STRIDE = 8


@dataclass(frozen=True)
class Optics:
    """Resolution of a plane: mm per pixel, mm of an edge, and mm of height that the plane represents."""

    spacing: float
    softness: float
    slab: float


@dataclass(frozen=True)
class Points:
    """Head coordinates in mm of the pixels of one plane: x to the patient's left, y backward, z upward."""

    x: FloatArray
    y: FloatArray
    z: FloatArray

    @cached_property
    def heights(self) -> tuple[float, float]:
        """The lowest and the highest z."""
        return float(self.z.min()), float(self.z.max())

    def crop(self, box: tuple[slice, slice]) -> "Points":
        """Return the points of some rows and columns."""
        return Points(self.x[box], self.y[box], self.z[box])

    def mirrored(self) -> "Points":
        """Return the points with both sides folded onto the left one."""
        return Points(np.abs(self.x), self.y, self.z)


def ellipsoid(p: Points, centre: Vector, axes: Vector) -> FloatArray:
    """Return the distance to an ellipsoid with half axes `axes`; `FAR` if it is far away."""
    low, high = (_corner(centre, axes, sign * _MARGIN, sign) for sign in (-1, 1))
    box = _near(p, low, high)
    if box is None:
        return np.full(p.x.shape, FAR, np.float32)
    ux, uy, uz = (axis[box] - np.float32(c) for axis, c in zip((p.x, p.y, p.z), centre, strict=True))
    ax, ay, az = (np.float32(1 / a) for a in axes)
    ux, uy, uz = ux * ax, uy * ay, uz * az
    radius = np.sqrt(ux * ux + uy * uy + uz * uz) + np.float32(1e-6)
    ux, uy, uz = ux * ax, uy * ay, uz * az
    slope = np.sqrt(ux * ux + uy * uy + uz * uz) + np.float32(1e-6)
    distance: FloatArray = radius * (radius - 1) / slope
    if distance.shape == p.x.shape:
        return distance
    whole = np.full(p.x.shape, FAR, np.float32)
    whole[box] = distance
    return whole


def tube(p: Points, path: Sequence[Vector], radii: Sequence[float], flatten: float = 1.0) -> FloatArray:
    """Return the distance to a tube along `path` whose radius runs through `radii`; `flatten` > 1 narrows it in x."""
    best = np.full(p.x.shape, FAR, np.float32)
    for start, end, r0, r1 in zip(path, path[1:], radii, radii[1:], strict=False):
        reach = max(r0, r1) + _MARGIN
        low = (min(start[0], end[0]) - reach, min(start[1], end[1]) - reach, min(start[2], end[2]) - reach)
        high = (max(start[0], end[0]) + reach, max(start[1], end[1]) + reach, max(start[2], end[2]) + reach)
        box = _near(p, low, high)
        if box is None:
            continue
        ax, ay, az = ((e - s) for s, e in zip(start, end, strict=True))
        length2 = ax * ax + ay * ay + az * az
        ux, uy, uz = (axis[box] - np.float32(c) for axis, c in zip((p.x, p.y, p.z), start, strict=True))
        t = np.clip((ux * np.float32(ax) + uy * np.float32(ay) + uz * np.float32(az)) / np.float32(length2), 0, 1)
        ux, uy, uz = (ux - t * np.float32(ax)) * np.float32(flatten), uy - t * np.float32(ay), uz - t * np.float32(az)
        distance = np.sqrt(ux * ux + uy * uy + uz * uz) - (np.float32(r0) + t * np.float32(r1 - r0))
        view = best[box]
        np.minimum(view, distance, out=view)
    return best


def _corner(centre: Vector, axes: Vector, margin: float, sign: int) -> Vector:
    x, y, z = (c + sign * a + margin for c, a in zip(centre, axes, strict=True))
    return x, y, z


def _near(p: Points, low: Vector, high: Vector) -> tuple[slice, slice] | None:
    """Return the rows and columns of a plane that meet a box in space, generously, or None."""
    if not reaches(p, low[2], high[2]):
        return None
    if p.x.size < _SMALL:
        return slice(None), slice(None)
    x, y = p.x[::_STRIDE, ::_STRIDE], p.y[::_STRIDE, ::_STRIDE]
    inside = (x >= low[0]) & (x <= high[0]) & (y >= low[1]) & (y <= high[1])
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if not len(rows):
        return None
    first, last = max(int(rows[0]) - 1, 0) * _STRIDE, (int(rows[-1]) + 2) * _STRIDE
    left, right = max(int(columns[0]) - 1, 0) * _STRIDE, (int(columns[-1]) + 2) * _STRIDE
    return slice(first, last), slice(left, right)


def reaches(p: Points, low: float, high: float) -> bool:
    """Return whether any point is between two heights; otherwise there is nothing to evaluate."""
    lowest, highest = p.heights
    return lowest <= high and highest >= low


def cover(distance: FloatArray, softness: FloatArray | float) -> FloatArray:
    """Return the share of each pixel inside a surface, 0 to 1, for an edge `softness` mm wide."""
    share: FloatArray = np.clip(np.float32(0.5) - distance * (np.float32(1) / np.asarray(softness, np.float32)), 0, 1)
    return share


def layer(distance: FloatArray, half: FloatArray | float, softness: FloatArray | float) -> FloatArray:
    """Return the share of each pixel in a sheet of half thickness `half` mm about distance 0, also below a pixel."""
    inv = np.float32(1) / np.asarray(softness, np.float32)
    outer = np.clip((distance + half) * inv + np.float32(0.5), 0, 1)
    inner = np.clip((distance - half) * inv + np.float32(0.5), 0, 1)
    share: FloatArray = outer - inner
    return share


def join(a: FloatArray, b: FloatArray, radius: float) -> FloatArray:
    """Return the union of two solids with a fillet of `radius` mm."""
    h = np.maximum(np.float32(radius) - np.abs(a - b), 0)
    joined: FloatArray = np.minimum(a, b) - h * h * np.float32(0.25 / radius)
    return joined


def meet(a: FloatArray, b: FloatArray, radius: float) -> FloatArray:
    """Return the intersection of two solids with an edge rounded by `radius` mm."""
    return -join(-a, -b, radius)


def ramp(value: FloatArray, low: float, high: float) -> FloatArray:
    """Return 0 below `low`, 1 above `high` (or the reverse where low > high), smooth between."""
    t = np.clip((value - np.float32(low)) * np.float32(1 / (high - low)), 0, 1)
    smooth: FloatArray = t * t * (3 - 2 * t)
    return smooth


def paint(hu: FloatArray, value: FloatArray | float, share: FloatArray) -> None:
    """Mix `value` HU into `hu`, in place, by the share of each pixel."""
    hu += (np.float32(value) - hu) * share if isinstance(value, float | int) else (value - hu) * share
