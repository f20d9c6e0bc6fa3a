"""The phantom's head outside the brain: cavity, skull, skull base, sinuses, orbits, face and scalp.

Head coordinates are mm: x to the patient's left, y backward, z upward, the third ventricle near the origin. Everything
is a function of position, so that structures go on from slice to slice. The brain itself is in `phantom_brain`.
"""

from dataclasses import dataclass, fields, replace
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from ichx.phantom.noise_fields import NoiseField
from ichx.phantom.shapes import FAR, Optics, Points, cover, ellipsoid, join, layer, meet, paint, ramp, reaches, tube

FloatArray = NDArray[np.float32]

CENTRE = (0.0, 5.0, 5.0)
"""The point in the cavity from which directions are measured."""

_MAP_STEP = 2.0
_MAP_X = np.arange(-100, 101, _MAP_STEP, dtype=np.float32)
_MAP_Y = np.arange(-120, 121, _MAP_STEP, dtype=np.float32)


@dataclass(frozen=True)
class Head:
    """One patient's head: proportions, position, irregularities. Lengths in mm, angles in radians, densities in HU."""

    scale: tuple[float, float, float]
    offset: tuple[float, float]
    angles: tuple[float, float, float]
    breadth: float
    egg: float
    skull: float
    scalp: float
    diploe: float
    atrophy: float
    ventricles: float
    grey: float
    white: float
    csf: float
    blood: float
    dura: float
    leukoaraiosis: float
    pneumatised: float
    warp: tuple[NoiseField, NoiseField]
    lumps: NoiseField
    sulci: NoiseField
    cells: NoiseField
    grain: NoiseField


def draw_head(rng: np.random.Generator) -> Head:
    """Return a patient."""
    atrophy = float(np.clip(rng.beta(1.6, 1.8), 0, 1))
    common = rng.normal(1.0, 0.035)
    return Head(
        scale=(
            float(common * rng.normal(1, 0.025)),
            float(common * rng.normal(1, 0.025)),
            float(common * rng.normal(1, 0.025)),
        ),
        offset=(float(np.clip(rng.normal(0, 6), -18, 18)), float(np.clip(rng.normal(2, 9), -20, 22))),
        angles=(
            float(np.deg2rad(rng.normal(0, 3.5))),
            float(np.deg2rad(rng.normal(0, 2.2))),
            float(np.deg2rad(rng.standard_t(4) * 3.5)),
        ),
        breadth=float(rng.normal(68, 1.5)),
        egg=float(rng.uniform(0.02, 0.08)),
        skull=float(np.clip(rng.normal(6.8, 1.2), 4.5, 10.5)),
        scalp=float(np.clip(rng.normal(5.5, 1.4), 3.0, 9.5)),
        diploe=float(rng.uniform(0.25, 0.6)),
        atrophy=atrophy,
        ventricles=float(np.clip(0.55 + 0.75 * atrophy + rng.normal(0, 0.15), 0.45, 1.7)),
        grey=float(rng.normal(38, 1.2)),
        white=float(rng.normal(29.5, 1.0)),
        csf=float(rng.uniform(4, 10)),
        blood=float(rng.uniform(42, 58)),
        dura=float(rng.uniform(0.9, 2.0)),
        leukoaraiosis=float(max(0.0, atrophy + rng.normal(-0.3, 0.3))),
        pneumatised=float(rng.uniform(0.4, 1.0)),
        warp=(NoiseField.draw(rng, 60.0, 0.4), NoiseField.draw(rng, 60.0, 0.4)),
        lumps=NoiseField.draw(rng, 32.0, 0.5),
        sulci=NoiseField.draw(rng, 15.0, 0.22),
        cells=NoiseField.draw(rng, 8.0, 0.45),
        grain=NoiseField.draw(rng, 8.0, 0.45),
    )


@lru_cache(maxsize=1)
def _skull_base() -> tuple[FloatArray, FloatArray]:
    """Return floor height and bone thickness in mm over the grid of `_MAP_Y` and `_MAP_X`."""
    x, y = np.meshgrid(np.abs(_MAP_X), _MAP_Y)
    petrous = 2 + 0.42 * (x - 12)
    sphenoid = -26 - 0.2 * (x - 12)
    posterior = -66 + 22 * (x / 54) ** 4 + 16 * (np.abs(y - 40) / 48) ** 4
    clivus = -22 - 1.9 * (y - 1) - 0.8 * np.maximum(x - 8, 0)
    posterior = np.where(x < 26, np.maximum(posterior, np.clip(clivus, -66, -22)), posterior)
    middle = -46 + 16 * (np.abs(x - 36) / 24) ** 4 + 5 * (np.abs(y + 10) / 22) ** 2
    anterior = -20 + 9 * np.exp(-(((x - 28) / 12) ** 2) - ((y + 56) / 19) ** 2) - 6 * np.exp(-((x / 7) ** 2))
    anterior = anterior - 0.12 * (y + 60)
    floor = np.where(y > petrous, posterior, np.where(y > sphenoid, middle, anterior))
    sella = (x < 13) & (y > -30) & (y < 1)
    floor = np.where(sella, np.where(y > -5, -22, -28), floor)
    floor = cv2.GaussianBlur(floor.astype(np.float32), (0, 0), 1.4)
    beside = np.maximum(x - 62, 0) * 2
    floor = np.maximum(floor, np.where(x > 10, -19 - 0.12 * (x - 12) - 0.8 * np.abs(y - petrous - 2) - beside, -200))
    floor = np.maximum(floor, np.where(x > 10, -15 - 1.5 * np.abs(y - sphenoid) - 0.1 * x, -200))
    thick = np.where(y > petrous, 6, np.where(y > sphenoid, 5, 3.5))
    thick = thick + 22 * np.exp(-(((y - petrous - 2) / 9) ** 2)) * (x > 9) * (x < 66)
    thick = thick + 20 * np.exp(-((x / 13) ** 2) - ((y - 10) / 12) ** 2)
    thick = thick + 12 * np.exp(-(((x - 20) / 6) ** 2) - ((y - 28) / 9) ** 2)
    thick = cv2.GaussianBlur(thick.astype(np.float32), (0, 0), 1.0)
    hole = (x / 14) ** 2 + ((y - 38) / 17) ** 2 < 1
    floor[hole] = -160
    return floor.astype(np.float32), thick.astype(np.float32)


def _from_map(values: FloatArray, p: Points) -> FloatArray:
    u = (p.x - _MAP_X[0]) * np.float32(1 / _MAP_STEP)
    v = (p.y - _MAP_Y[0]) * np.float32(1 / _MAP_STEP)
    return np.asarray(cv2.remap(values, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32)


@dataclass(frozen=True)
class Skull:
    """One plane's fields in mm: distances to cavity, calvaria's inner face and skin (negative inside), floor height.

    `steep` is how wide the skull's edges are drawn: more where they slope through the slice.
    """

    cavity: FloatArray
    inner: FloatArray
    thickness: FloatArray
    floor: FloatArray
    skin: FloatArray
    lumps: FloatArray
    steep: FloatArray

    def crop(self, box: tuple[slice, slice]) -> "Skull":
        """Return the fields of some rows and columns."""
        return Skull(*(getattr(self, field.name)[box] for field in fields(self)))

    def softened(self, other: "Skull") -> "Skull":
        """Return the skull with edges softened by their distance to those of `other`, the next plane."""
        return replace(self, steep=self.steep + np.abs(self.cavity - other.cavity))


def measure(head: Head, p: Points, optics: Optics, swelling: FloatArray | float = 0.0) -> Skull:
    """Return the skull's distance fields on a plane; `swelling` thickens the scalp, in mm."""
    lumps = head.lumps.on_plane(p.x, p.y, p.z, optics.spacing)
    wide = 1 + np.float32(head.egg) * np.tanh((p.y - 12) * np.float32(1 / 45))
    shaped = Points(p.x / wide, p.y, np.where(p.z > 15, p.z, 15 + (p.z - 15) * np.float32(0.58)))
    inner = ellipsoid(shaped, (0, 4, 15), (head.breadth, 86, 64)) + np.float32(0.45) * lumps
    floor = _from_map(_skull_base()[0], p)
    cavity = meet(inner, (floor - p.z) * np.float32(0.8), 6.0)
    thickness = np.float32(head.skull) * (1 + np.float32(0.09) * lumps)
    thickness = thickness + np.float32(4.5) * np.exp(-((p.x / 16) ** 2) - ((p.z + 22) / 14) ** 2) * (np.abs(p.y) > 40)
    thickness = thickness - np.float32(0.32 * head.skull) * np.exp(-(((np.abs(p.x) - 66) / 10) ** 2)) * (p.z < 25)
    scalp = np.float32(head.scalp) * (1 + np.float32(0.05) * lumps) + swelling
    temporal = np.exp(-(((p.y + 22) / 24) ** 2) - ((p.z + 18) / 24) ** 2) * np.minimum(np.abs(p.x) / 60, 1)
    skin = inner - thickness - scalp - np.float32(9) * temporal
    if reaches(p, -140, -5):
        face = ellipsoid(p, (0, -46, -58), (62, 52, 56))
        neck = ellipsoid(p, (0, 34, -92), (62, 56, 62))
        skin = join(join(skin, face, 18.0), neck, 18.0)
        skin = join(skin, ellipsoid(p, (0, -96, -62), (11, 16, 16)), 6.0)
    return Skull(cavity, inner, thickness, floor, skin, lumps, np.full(p.x.shape, optics.softness, np.float32))


def render_outside(head: Head, p: Points, skull: Skull, optics: Optics) -> FloatArray:
    """Return HU of everything but the cavity's content, on one plane."""
    spacing, softness = optics.spacing, optics.softness
    hu = np.full(p.x.shape, -1000, np.float32)
    low = reaches(p, -160, -10)
    cells = head.cells.on_plane(p.x, p.y, p.z, spacing) if low else None
    paint(hu, 70.0, cover(skull.skin, softness))
    depth = -skull.skin
    fat = cover(2.9 - depth, 1.0) * cover(depth - 0.75 * head.scalp - 1.2, 1.5)
    paint(hu, -92.0, fat)
    if cells is not None:
        _paint_soft_face(head, hu, p, skull, spacing)
    _paint_bone(head, hu, p, skull, cells)
    if cells is not None:
        _paint_cavities(head, hu, p, skull, cells, softness)
    return hu


def _paint_soft_face(head: Head, hu: FloatArray, p: Points, skull: Skull, spacing: float) -> None:
    """Muscles with planes of fat between them, below the skull base."""
    inside = cover(skull.skin + 5, 3.0) * ramp(p.z, -8, -25)
    paint(hu, 56.0, inside)
    lean = np.float32(0.55)
    bundles = head.sulci.on_plane(p.x * lean, p.y * lean, p.z * np.float32(0.3), spacing)
    width = np.float32(0.02) + np.float32(0.07) * np.abs(skull.lumps)
    planes = cover(np.abs(bundles) - width, 0.3)
    padding = ramp(skull.lumps + np.float32(0.5) * bundles, 0.5, 1.3) * cover(55 - np.abs(p.x), 14.0)
    paint(hu, -78.0, np.minimum(np.float32(0.8) * planes + padding, 1) * inside)


def _antrum(side: Points) -> FloatArray:
    """Return the distance to the maxillary sinus, a pyramid with its tip to the cheek."""
    if not reaches(side, -100, -40):
        return np.full(side.x.shape, FAR, np.float32)
    front = 0.53 * (side.x - 13) - 0.85 * (side.y + 80)
    back = 0.62 * (side.x - 44) + 0.78 * (side.y + 60)
    walls = meet(np.maximum(front, 13 - side.x), back, 5.0)
    return meet(walls, np.abs(side.z + 71) - 17, 5.0)


def _orbit(side: Points) -> FloatArray:
    """Return the distance to the orbit, a cone whose apex points back and to the midline."""
    if not reaches(side, -70, -8):
        return np.full(side.x.shape, FAR, np.float32)
    back = side.y + 88
    middle = 33 - np.float32(0.28) * back
    width = np.maximum(20 - np.float32(0.27) * back, 1)
    across = np.hypot(side.x - middle, (side.z + 38) * np.float32(1.05)) - width
    return np.asarray(np.maximum(across, np.abs(back - 26) - 28), np.float32)


def _paint_bone(head: Head, hu: FloatArray, p: Points, skull: Skull, cells: FloatArray | None) -> None:
    outer = skull.inner - skull.thickness
    bone = np.maximum(outer, -skull.cavity)
    below = None
    if cells is not None:
        below = skull.floor - _from_map(_skull_base()[1], p)
        bone = np.maximum(bone, below - p.z)
        side = p.mirrored()
        bone = np.minimum(bone, np.maximum(ellipsoid(side, (54, 30, -48), (12, 15, 20)), -skull.cavity))
        bone = np.minimum(bone, tube(side, [(56, -44, -54), (67, -18, -50), (62, 4, -46)], [3.5, 2.4, 3.0]))
        bone = np.minimum(bone, tube(side, [(50, -2, -56), (51, -12, -90)], [5.0, 4.0], 1.6))
        orbit = _orbit(side)
        lateral = ramp(side.x, 30, 44)
        wall = np.maximum(np.abs(orbit - 1.0 - lateral) - 0.5 - 1.5 * lateral, -84 + 14 * lateral - p.y)
        bone = np.minimum(bone, np.maximum(wall, skull.skin + 4))
        bone = np.minimum(bone, np.maximum(np.abs(_antrum(side) - 0.6) - 0.6, skull.skin + 5))
        ring = np.sqrt((np.hypot(p.x * 0.85, p.y - 38) - 23) ** 2 + (p.z + 84) ** 2) - 6.5
        bone = np.minimum(bone, ring)
        bone = np.minimum(bone, ellipsoid(p, (0, 12, -92), (6.5, 6.5, 15)))
    depth = np.minimum(-outer, skull.cavity)
    spongy = ramp(depth, 1.4, 2.6) * np.float32(head.diploe + 0.3)
    density = 1650 - 1150 * spongy + 60 * skull.lumps
    if cells is not None:
        deep = ramp(p.z, 0, -25)
        density = density + deep * (140 * cells - 150)
        petrous = ellipsoid(p.mirrored(), (36, 12, -30), (26, 9, 9))
        density = density + np.float32(700) * cover(petrous, 4.0)
    paint(hu, density.astype(np.float32), cover(bone, skull.steep))


def _paint_cavities(head: Head, hu: FloatArray, p: Points, skull: Skull, cells: FloatArray, softness: float) -> None:
    side = p.mirrored()
    orbit = np.maximum(_orbit(side), skull.skin + 3)
    paint(hu, -95.0, cover(orbit, softness))
    muscle = np.minimum(
        tube(side, [(31, -62, -38), (15, -36, -36)], [2.4, 2.0]),
        np.minimum(
            tube(side, [(46, -72, -38), (18, -36, -37)], [1.8, 1.6]),
            tube(side, [(18, -70, -38), (13, -36, -36)], [1.9, 1.5]),
        ),
    )
    paint(hu, 42.0, cover(np.maximum(muscle, orbit), softness))
    globe = ellipsoid(side, (31, -71, -38), (12.2, 12.4, 12.2))
    paint(hu, 46.0, cover(globe, softness))
    paint(hu, 12.0, cover(globe + 1.6, softness))
    paint(hu, 78.0, cover(ellipsoid(side, (31, -79.5, -38), (4.6, 2.2, 4.6)), softness))
    pneumatised = np.float32(head.pneumatised)
    mastoid = np.maximum(ellipsoid(side, (55, 30, -42), (11, 14, 20)), -skull.cavity + 2)
    paint(hu, -820.0, cover(mastoid, 2.0) * cover((0.75 - pneumatised - cells) * 2.5, softness))
    canal = tube(side, [(84, 12, -44), (52, 10, -42)], [3.6, 3.0])
    paint(hu, -950.0, cover(canal, softness))
    ethmoid = np.maximum(ellipsoid(p, (0, -54, -40), (12, 34, 17)), skull.skin + 8)
    paint(hu, -900.0, cover(ethmoid, softness))
    septa = layer(cells, 0.16, 0.3) * cover(ethmoid, softness)
    paint(hu, 350.0, septa * np.float32(0.6))
    paint(hu, 500.0, layer(p.x, 0.7, softness) * cover(ethmoid, softness))
    sphenoid = ellipsoid(side, (8, -15, -40), (8.5, 13 * head.pneumatised, 9))
    paint(hu, -960.0, cover(sphenoid, softness))
    nose = np.maximum(ellipsoid(p, (0, -60, -70), (13, 38, 24)), skull.skin + 7)
    paint(hu, -900.0, cover(nose, softness))
    turbinates = ellipsoid(side, (7, -60, -70), (3.4, 24, 12))
    paint(hu, 45.0, cover(turbinates + cells, softness))
    paint(hu, 300.0, layer(p.x + cells, 0.7, softness) * cover(nose, softness))
    antrum = np.maximum(_antrum(side), skull.skin + 5)
    paint(hu, -970.0, cover(antrum, softness))
    paint(
        hu,
        30.0,
        cover(antrum, softness) * cover(-46 - p.y - 12 * (head.pneumatised - 0.6), softness) * (head.pneumatised < 0.6),
    )
    paint(hu, -970.0, cover(ellipsoid(p, (0, -14, -82), (13, 9, 16)), softness))
    frontal = np.maximum(
        ellipsoid(side, (9, -86, -18), (15 * head.pneumatised, 5, 15 * head.pneumatised)), 1.5 - skull.cavity
    )
    paint(hu, -960.0, cover(np.maximum(frontal, skull.skin + head.scalp + 1.5), softness))
