"""The content of the phantom's cavity: cortex, white matter, nuclei, ventricles, cisterns, falx and tentorium.

Bleeds enter as what they do to the brain: room they take (`extra`), spaces they fill; see `phantom_bleeds`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ichx.ct.phantom_anatomy import CENTRE, Head, Skull
from ichx.ct.phantom_shapes import FAR, Points, cover, ellipsoid, layer, paint, ramp, reaches, tube

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Spaces:
    """Soft shares of one plane's pixels, 0 to 1, that fluid or blood can fill, and where the brain is."""

    cavity: FloatArray
    subarachnoid: FloatArray
    ventricles: FloatArray
    brain: FloatArray
    depth: FloatArray


def tentorium_height(p: Points) -> FloatArray:
    """Return the height of the tentorium in mm over each point, highest at the midline behind the midbrain."""
    height: FloatArray = -4 - np.float32(0.36) * np.abs(p.x) - np.float32(0.16) * np.maximum(p.y - 35, 0)
    return height


def ventricle_distance(head: Head, p: Points) -> FloatArray:
    """Return the distance to the ventricles in mm, negative inside."""
    if not reaches(p, -70, 60):
        return np.full(p.x.shape, FAR, np.float32)
    size = head.ventricles
    side = p.mirrored()
    lateral = tube(
        side,
        [(15, -38, 10), (5, -10, 14), (8, 8, 24), (15, 24, 19), (22, 38, 10), (21, 66, 6)],
        [4.2 * size, 4.2 * size, 4.6 * size, 5.6 * size, 7.0 * size, 2.2 * size],
    )
    horn = tube(side, [(22, 36, 8), (33, 20, -14), (31, -4, -24)], [4.0 * size, 2.2 * size, 1.6 * size])
    third = np.maximum(ellipsoid(p, (0, 4, -3), (1.4 + 2.4 * size - 1.0, 15, 12)), np.abs(p.x) - 1.2 - 2.2 * size)
    fourth = ellipsoid(p, (0, 27, -38), (6.5 + 3 * size, 5.0 + 1.5 * size, 13))
    aqueduct = tube(p, [(0, 18, -8), (0, 24, -28)], [1.0, 1.4])
    joined: FloatArray = np.minimum(np.minimum(lateral, horn), np.minimum(np.minimum(third, fourth), aqueduct))
    return joined


def render_brain(
    head: Head, p: Points, skull: Skull, softness: float, extra: FloatArray | float, distend: FloatArray | float
) -> tuple[FloatArray, Spaces]:
    """Return HU of the cavity's content and its spaces on one plane.

    `extra` is the room in mm that extra-axial blood takes inside the skull, `distend` how many mm blood widens sulci.
    """
    inside = -skull.cavity
    tent = p.z - tentorium_height(p)
    below = ramp(tent, 0.5, -0.5) * ramp(p.y, 2, 8)
    gap = 1.0 + head.atrophy * (1.6 + 2.6 * ramp(p.y, -10, -60) * ramp(p.z, -10, 10)) + np.float32(0.5) * skull.lumps
    depth = inside - np.maximum(gap, extra) - np.float32(0)
    side = np.abs(p.x)
    fissure = side - (0.9 + head.atrophy * 1.2 * ramp(p.y, 0, -50))
    parted = ramp(p.z, 8, 30) + ramp(np.abs(p.y - 6), 32, 46)
    hemisphere = np.where(below > 0.5, depth, np.minimum(depth, fissure + 40 * (1 - np.minimum(parted, 1))))
    centre = tuple(np.float32(c) for c in CENTRE)
    dx, dy, dz = p.x - centre[0], p.y - centre[1], p.z - centre[2]
    radius = np.sqrt(dx * dx + dy * dy + dz * dz) + 1
    stretch = 0.45 + 46 / radius
    fold = head.sulci.at(centre[0] + dx * stretch, centre[1] + dy * stretch, centre[2] + dz * stretch) * np.float32(2.4)
    grain = head.grain.at(p.x, p.y, p.z)
    reach = 13 + 6 * skull.lumps
    open_ = np.clip(1 - hemisphere / np.maximum(reach, 5), 0, 1) * (1 - below)
    half = open_ * (0.25 + 1.35 * head.atrophy) + open_ * distend
    sulcus = layer(fold, half, softness) * (open_ > 0)
    pial = cover(hemisphere, softness)
    folia = (
        layer(np.sin((p.z * 1.1 + p.y * 0.5 + grain) * 1.1), 0.15 + 0.3 * head.atrophy, 0.6)
        * below
        * ramp(depth, 12, 2)
    )
    cistern = _cisterns(head, p, softness)
    fluid = np.maximum(np.maximum(sulcus, pial), np.maximum(cistern, np.float32(0.5) * folia))
    ribbon = np.minimum(hemisphere, np.where(open_ > 0, np.abs(fold) - half, FAR))
    nuclei = _nuclei(p)
    grey = np.maximum(cover(ribbon - 3.4 - 0.7 * grain, 2.0), nuclei)
    grey = np.maximum(grey, np.float32(0.75) * below)
    hu = np.float32(head.white) + np.float32(head.grey - head.white) * grey + np.float32(0.6) * grain
    ventricles = cover(ventricle_distance(head, p), softness)
    paint(hu, head.csf, np.maximum(fluid, ventricles))
    _paint_membranes(head, hu, p, skull, tent, softness)
    spaces = Spaces(
        cavity=cover(skull.cavity, softness),
        subarachnoid=fluid * (1 - ventricles),
        ventricles=ventricles,
        brain=(1 - np.maximum(fluid, ventricles)) * cover(skull.cavity, softness),
        depth=inside,
    )
    return hu.astype(np.float32), spaces


def _nuclei(p: Points) -> FloatArray:
    if not reaches(p, -20, 35):
        return np.zeros(p.x.shape, np.float32)
    side = p.mirrored()
    caudate = ellipsoid(side, (13, -22, 11), (5, 10, 10))
    lentiform = ellipsoid(side, (24, -7, 4), (7, 15, 10))
    thalamus = ellipsoid(side, (10, 11, 6), (8, 13, 9))
    return cover(np.minimum(np.minimum(caudate, lentiform), thalamus), 2.5)


def _cisterns(head: Head, p: Points, softness: float) -> FloatArray:
    if not reaches(p, -90, 40):
        return np.zeros(p.x.shape, np.float32)
    wide = 0.7 + 1.0 * head.atrophy
    side = p.mirrored()
    star = ellipsoid(p, (0, -11, -21), (9 + 3 * wide, 8, 7))
    arm = tube(side, [(6, -14, -20), (26, -20, -17)], [2.6 * wide, 1.6 * wide])
    front = tube(p, [(0, -14, -20), (0, -34, -12)], [2.4 * wide, 1.0 * wide])
    interpeduncular = ellipsoid(p, (0, -1, -19), (4.5, 5, 6))
    ambient = np.maximum(np.abs(np.hypot(p.x / 0.95, p.y - 10) - 19) - 1.2 * wide, np.abs(p.z + 13) - 10)
    ambient = np.maximum(ambient, -(p.y + 2))
    quadrigeminal = ellipsoid(p, (0, 31, -6), (11, 3.5 * wide, 6))
    prepontine = np.maximum(ellipsoid(p, (0, 2, -38), (16, 5, 20)), -12 - p.y)
    angle = tube(side, [(10, 6, -38), (26, 15, -38)], [2.4 * wide, 1.6])
    magna = ellipsoid(p, (0, 62, -58), (14, 10, 9))
    canal = np.maximum(np.hypot(p.x, p.y - 36) - 15, p.z + 58)
    insula = np.maximum(np.abs(side.x - (37 + 0.004 * (p.y + 4) ** 2)) - 0.9 * wide, np.abs(p.y + 3) - 21)
    insula = np.maximum(insula, np.abs(p.z - 2) - 16)
    slope = p.y + 22 - 0.55 * (p.z - 0) - 0.10 * (side.x - 38)
    opening = np.maximum(np.abs(slope) - 1.1 * wide, np.maximum(37 - side.x, np.abs(p.z - 2) - 18))
    nearest = star
    for other in (
        arm,
        front,
        interpeduncular,
        ambient,
        quadrigeminal,
        prepontine,
        angle,
        magna,
        canal,
        insula,
        opening,
    ):
        nearest = np.minimum(nearest, other)
    share = cover(nearest, softness)
    cord = ellipsoid(p, (0, 34, -80), (6, 5, 40))
    medulla = ellipsoid(p, (0, 27, -58), (8, 7, 16))
    return share * (1 - cover(np.minimum(cord, medulla), softness))


def _paint_membranes(head: Head, hu: FloatArray, p: Points, skull: Skull, tent: FloatArray, softness: float) -> None:
    above = ramp(tent, -1, 3)
    reach = ramp(np.hypot(p.y - 8, p.z - 2), 38, 44)
    falx = layer(p.x, 0.55, softness) * above * reach
    paint(hu, 58.0, falx)
    incisura = ramp(np.hypot(p.x / 0.9, p.y - 12), 20, 25) * ramp(p.y, -4, 4)
    sheet = layer(tent * np.float32(0.92), 0.7, softness) * incisura
    paint(hu, 56.0, sheet * (p.y > -2))
    sagittal = np.maximum(ellipsoid(p, (0, 8, 8), (400, 84, 70)), np.float32(0))
    triangle = np.maximum(skull.cavity + 1, np.abs(p.x) * 1.3 - (6.5 + skull.cavity)) + 0 * sagittal
    paint(hu, head.blood, cover(triangle, softness) * ramp(p.z, -12, 4) * ((p.y > 0) | (p.z > 40)))
    transverse = np.maximum(np.abs(tent) - 4, -skull.cavity - 6)
    paint(hu, head.blood, cover(transverse, softness) * ramp(p.y, 38, 50))
