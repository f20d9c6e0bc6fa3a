"""Signed distances of simple solids and their soft coverage of pixels; the vocabulary of the phantom's anatomy.

Distances are in mm, negative inside, first-order exact near the surface (I. Quilez, "Ellipsoid SDF", 2008).
Nothing here knows what a head is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
Vector = tuple[float, float, float]

FAR = np.float32(1e3)


@dataclass(frozen=True)
class Points:
    """Head coordinates in mm of the pixels of one plane: x to the patient's left, y backward, z upward."""

    x: FloatArray
    y: FloatArray
    z: FloatArray

    def mirrored(self) -> "Points":
        """Return the points with both sides folded onto the left one."""
        return Points(np.abs(self.x), self.y, self.z)


def ellipsoid(p: Points, centre: Vector, axes: Vector) -> FloatArray:
    """Return the distance to an ellipsoid with half axes `axes`."""
    ux, uy, uz = p.x - np.float32(centre[0]), p.y - np.float32(centre[1]), p.z - np.float32(centre[2])
    ax, ay, az = (np.float32(1 / a) for a in axes)
    ux, uy, uz = ux * ax, uy * ay, uz * az
    radius = np.sqrt(ux * ux + uy * uy + uz * uz) + np.float32(1e-6)
    ux, uy, uz = ux * ax, uy * ay, uz * az
    slope = np.sqrt(ux * ux + uy * uy + uz * uz) + np.float32(1e-6)
    distance: FloatArray = radius * (radius - 1) / slope
    return distance


def tube(p: Points, path: Sequence[Vector], radii: Sequence[float], flatten: float = 1.0) -> FloatArray:
    """Return the distance to a tube along `path` whose radius runs through `radii`; `flatten` > 1 narrows it in x."""
    best = np.full(p.x.shape, FAR, np.float32)
    for start, end, r0, r1 in zip(path, path[1:], radii, radii[1:], strict=False):
        ax, ay, az = ((e - s) for s, e in zip(start, end, strict=True))
        length2 = ax * ax + ay * ay + az * az
        ux, uy, uz = p.x - np.float32(start[0]), p.y - np.float32(start[1]), p.z - np.float32(start[2])
        t = np.clip((ux * np.float32(ax) + uy * np.float32(ay) + uz * np.float32(az)) / np.float32(length2), 0, 1)
        ux, uy, uz = (ux - t * np.float32(ax)) * np.float32(flatten), uy - t * np.float32(ay), uz - t * np.float32(az)
        distance = np.sqrt(ux * ux + uy * uy + uz * uz) - (np.float32(r0) + t * np.float32(r1 - r0))
        np.minimum(best, distance, out=best)
    return best


def reaches(p: Points, low: float, high: float) -> bool:
    """Return whether any point lies between two heights; what does not need not be evaluated."""
    return bool(p.z.min() <= high and p.z.max() >= low)


def cover(distance: FloatArray, softness: float) -> FloatArray:
    """Return the share of each pixel inside a surface, 0 to 1, for an edge `softness` mm wide."""
    share: FloatArray = np.clip(np.float32(0.5) - distance * np.float32(1 / softness), 0, 1)
    return share


def layer(distance: FloatArray, half: FloatArray | float, softness: float) -> FloatArray:
    """Return the share of each pixel in a sheet of half thickness `half` mm about distance 0, also below a pixel."""
    inv = np.float32(1 / softness)
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
