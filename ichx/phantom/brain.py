"""The content of the phantom's cavity: cortex, white matter, nuclei, ventricles, cisterns, falx and tentorium.

Bleeds enter as what they do to the brain: room they take (`extra`), spaces they fill; see `phantom_bleeds`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ichx.phantom.anatomy import CENTRE, Head, Skull
from ichx.phantom.shapes import FAR, Optics, Points, cover, ellipsoid, layer, paint, ramp, reaches, tube

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Spaces:
    """Soft shares of one plane's pixels, 0 to 1, that fluid or blood can fill, and the brain's share."""

    cavity: FloatArray
    subarachnoid: FloatArray
    ventricles: FloatArray
    brain: FloatArray
    depth: FloatArray


def tentorium_height(p: Points) -> FloatArray:
    """Return the height of the tentorium in mm over each point, highest at the midline behind the midbrain."""
    fall = np.float32(0.36) * np.abs(p.x) + np.float32(0.16) * np.maximum(p.y - 35, 0)
    return np.asarray(-4 - fall, np.float32)


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
    head: Head,
    p: Points,
    moved: Points,
    skull: Skull,
    optics: Optics,
    extra: FloatArray,
    distend: FloatArray | float,
) -> tuple[FloatArray, Spaces]:
    """Return HU of the cavity's content and its spaces on one plane.

    `moved` is where the tissue at `p` was before bleeds pushed it, `extra` the room in mm that extra-axial blood takes
    inside the skull, `distend` how many mm blood widens sulci.
    """
    spacing, softness = optics.spacing, optics.softness
    grain = head.grain.on_plane(p.x, p.y, p.z, spacing)
    bend = [2.2 * field.on_plane(p.x, p.y, p.z, spacing) for field in head.warp]
    q = Points(moved.x + bend[0] * ramp(np.abs(p.x), -8, 25) + 0.8 * grain, moved.y + bend[1] - 0.8 * grain, moved.z)
    inside = -skull.cavity
    tent = p.z - tentorium_height(p)
    below = ramp(tent, 0.5, -0.5) * ramp(p.y, 2, 8)
    gap = 0.8 + head.atrophy * (1.2 + 2.6 * ramp(p.y, -10, -60) * ramp(p.z, -10, 10)) + np.float32(0.4) * skull.lumps
    depth = inside - np.maximum(gap, extra + np.float32(0.3))
    parted = np.minimum(ramp(q.z, 14, 32) + ramp(np.abs(q.y - 6), 34, 48), 1)
    fissure = np.abs(q.x) - (0.7 + head.atrophy * 1.3 * ramp(p.y, 0, -50)) + 60 * (1 - parted)
    hemisphere = np.where(below > 0.5, depth, np.minimum(depth, fissure))
    fold = _folds(head, q, spacing)
    squeezed = 1 / (1 + np.float32(0.12) * extra)
    reach = np.maximum(14 + 7 * skull.lumps, 5) * squeezed
    opened = np.clip(1 - np.minimum(depth, fissure + 5) / reach, 0, 1) * (1 - below)
    width = np.maximum(0.28 + 1.1 * head.atrophy + np.float32(0.1) * bend[0], 0.05)
    half = opened * (width * squeezed + distend)
    sulcus = layer(fold, half, softness) * (opened > 0)
    pial = cover(hemisphere, softness)
    folia = layer(np.sin(p.z * 0.9 + p.y * 0.55 + grain), 0.1 + 0.3 * head.atrophy, 0.7) * below * ramp(depth, 14, 2)
    fluid = np.maximum(np.maximum(sulcus, pial), np.maximum(_cisterns(head, q, softness), np.float32(0.45) * folia))
    ribbon = np.minimum(hemisphere, np.where(opened > 0, np.abs(fold) - half, FAR))
    grey = np.maximum(cover(ribbon - 3.2 - 0.8 * grain, 2.2), _nuclei(q))
    grey = np.maximum(grey, np.float32(0.6) * ramp(tent, 2.5, -2.5) * ramp(p.y, 0, 12))
    away = ventricle_distance(head, q)
    ventricles = cover(away, softness)
    rarefied = np.float32(6 * head.leukoaraiosis) * cover(away - 7 - 3 * grain, 8.0) * (1 - grey)
    hu = np.float32(head.white) + np.float32(head.grey - head.white) * grey + np.float32(0.5) * grain - rarefied
    paint(hu, head.csf, np.maximum(fluid, ventricles))
    _paint_membranes(head, hu, p, moved, skull, tent, optics)
    spaces = Spaces(
        cavity=cover(skull.cavity, skull.steep),
        subarachnoid=fluid * (1 - ventricles),
        ventricles=ventricles,
        brain=(1 - np.maximum(fluid, ventricles)) * cover(skull.cavity, skull.steep),
        depth=inside,
    )
    return hu.astype(np.float32), spaces


def _folds(head: Head, p: Points, spacing: float) -> FloatArray:
    """Return the distance in mm to the nearest sulcus' sheet; sheets run inward from the surface."""
    dx, dy, dz = (axis - np.float32(c) for axis, c in zip((p.x, p.y, p.z), CENTRE, strict=True))
    stretch = np.float32(0.35) + 52 / (np.sqrt(dx * dx + dy * dy + dz * dz) + 1)
    folds: FloatArray = head.sulci.on_plane(dx * stretch, dy * stretch, dz * stretch, spacing) * np.float32(2.6)
    return folds


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
    ambient = np.maximum(np.abs(np.hypot(p.x / 0.95, p.y - 9) - 18) - 0.8 * wide, np.abs(p.z + 13) - 7)
    ambient = np.maximum(ambient, 4 - p.y)
    quadrigeminal = ellipsoid(p, (0, 31, -6), (11, 3.5 * wide, 6))
    prepontine = np.maximum(ellipsoid(p, (0, 2, -38), (16, 5, 20)), -12 - p.y)
    angle = tube(side, [(10, 6, -38), (26, 15, -38)], [2.4 * wide, 1.6])
    magna = ellipsoid(p, (0, 62, -58), (14, 10, 9))
    canal = np.maximum(np.hypot(p.x, p.y - 36) - 15, p.z + 58)
    insula = (
        np.abs(side.x - 37 + 0.006 * (p.y + 4) ** 2) - 0.75 * wide + 0.02 * np.maximum(np.abs(p.y + 3) - 12, 0) ** 2
    )
    insula = insula + 0.03 * np.maximum(np.abs(p.z - 3) - 9, 0) ** 2
    slope = p.y + 20 - 1.1 * p.z - 0.25 * (side.x - 38) + 4 * np.sin(side.x * 0.22)
    opening = np.maximum(np.abs(slope) * 0.7 - 0.9 * wide, np.maximum(36 - side.x, np.abs(p.z - 3) - 15))
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


def _paint_membranes(
    head: Head, hu: FloatArray, p: Points, moved: Points, skull: Skull, tent: FloatArray, optics: Optics
) -> None:
    softness = optics.softness
    above = ramp(tent, -1, 3)
    reach = ramp(np.hypot(p.y - 8, p.z - 2), 38, 44)
    falx = layer(0.2 * p.x + 0.8 * moved.x, head.dura / 2, softness) * above * reach
    paint(hu, 58.0, falx)
    incisura = ramp(np.hypot(p.x / 0.9, p.y - 12), 20, 25) * ramp(p.y, -4, 4)
    sheet = layer(tent, 0.65 * head.dura, max(softness, optics.slab)) * incisura
    paint(hu, 56.0, sheet)
    triangle = np.maximum(skull.cavity + 1, np.abs(p.x) * 1.3 - (6.5 + skull.cavity))
    paint(hu, head.blood, cover(triangle, softness) * ramp(p.z, -12, 4) * ((p.y > 0) | (p.z > 40)))
    transverse = np.maximum(np.abs(tent) - 4, -skull.cavity - 6)
    paint(hu, head.blood, cover(transverse, softness) * ramp(p.y, 38, 50))
