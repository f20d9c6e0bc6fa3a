"""Mimics of hemorrhages and other changes of the brain: calcifications, old infarcts, meningiomas.

Healthy and bleeding heads get them alike. Artefacts of the scanner are in `phantom_artefacts`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ichx.phantom.anatomy import Head, Skull
from ichx.phantom.noise_fields import NoiseField
from ichx.phantom.shapes import Optics, Points, Vector, cover, ellipsoid, paint, reaches, tube

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Spot:
    """A calcification or the like: an ellipsoid in mm of some density in HU, smooth or crumbled."""

    centre: Vector
    axes: Vector
    hu: float
    crumbled: bool = False


@dataclass(frozen=True)
class Vessel:
    """An artery in a cistern that may be dense, or have calcified walls."""

    path: tuple[Vector, ...]
    radius: float
    hu: float


@dataclass(frozen=True)
class Mimics:
    """All of one study. `scars` are old infarcts (dark), `swelling` a scalp hematoma: direction, reach and mm."""

    spots: tuple[Spot, ...]
    vessels: tuple[Vessel, ...]
    scars: tuple[Spot, ...]
    swelling: Spot | None
    texture: NoiseField

    def scalp_swelling(self, p: Points) -> FloatArray | float:
        """Return by how many mm the scalp is swollen."""
        if self.swelling is None:
            return 0.0
        near = cover(ellipsoid(p, self.swelling.centre, self.swelling.axes), 40.0)
        swollen: FloatArray = near * np.float32(self.swelling.hu)
        return swollen

    def render(self, hu: FloatArray, p: Points, skull: Skull, brain: FloatArray, optics: Optics) -> None:
        """Paint them into the content of the cavity, in place; `brain` is the share of each pixel that is brain."""
        scars, spots = ([s for s in group if _meets(s, p)] for group in (self.scars, self.spots))
        texture = (
            self.texture.on_plane(p.x, p.y, p.z, optics.spacing) if scars or any(s.crumbled for s in spots) else None
        )
        for scar in scars:
            paint(hu, scar.hu, cover(ellipsoid(p, scar.centre, scar.axes) + _roughness(texture, 5.0), 5.0) * brain)
        for vessel in self.vessels:
            paint(hu, vessel.hu, cover(tube(p, vessel.path, [vessel.radius] * len(vessel.path)), optics.softness))
        for spot in spots:
            distance = ellipsoid(p, spot.centre, spot.axes)
            if spot.crumbled:
                distance = distance + _roughness(texture, 0.5 * min(spot.axes))
            paint(hu, spot.hu, cover(distance, optics.softness))


def _meets(spot: Spot, p: Points) -> bool:
    return reaches(p, spot.centre[2] - 2 * spot.axes[2], spot.centre[2] + 2 * spot.axes[2])


def _roughness(texture: FloatArray | None, size: float) -> FloatArray | float:
    return 0.0 if texture is None else (texture + np.float32(0.3)) * np.float32(size)


def draw_mimics(rng: np.random.Generator, head: Head) -> Mimics:
    """Return the mimics of a study; most come with age, which the atrophy indicates."""
    age = head.atrophy
    spots: list[Spot] = []

    def often(chance: float) -> bool:
        return bool(rng.random() < chance)

    def spot(x: float, y: float, z: float, size: float, hu: float, flat: float = 1.0, crumbled: bool = False) -> None:
        axes = (size * flat, size * float(rng.uniform(0.8, 1.3)), size * float(rng.uniform(0.8, 1.3)))
        spots.append(Spot((float(x), float(y), float(z)), axes, float(hu), crumbled))

    if often(0.35 + 0.5 * age):
        for side in (-1, 1):
            if often(0.85):
                spot(
                    side * 21,
                    rng.normal(37, 3),
                    rng.normal(11, 2),
                    rng.uniform(1.8, 4.5),
                    rng.uniform(70, 350),
                    0.8,
                    True,
                )
    if often(0.65):
        spot(rng.normal(0, 0.7), rng.normal(27, 1.5), rng.normal(-1, 1.5), rng.uniform(1.2, 3.5), rng.uniform(90, 400))
    if often(0.15 + 0.3 * age):
        for _ in range(int(rng.integers(1, 4))):
            spot(0, rng.uniform(-62, -30), rng.uniform(12, 50), rng.uniform(2, 7), rng.uniform(90, 500), 0.25)
    if often(0.08 + 0.25 * age):
        size, hu = rng.uniform(2, 5), rng.uniform(55, 120)
        for side in (-1, 1):
            spot(side * 18, rng.normal(-6, 2), rng.normal(3, 1.5), size * rng.uniform(0.7, 1.2), hu, 0.7, True)
    if often(0.06):
        angle, z = rng.uniform(0, 2 * np.pi), rng.uniform(5, 45)
        spot(54 * np.cos(angle), 68 * np.sin(angle) + 4, z, rng.uniform(7, 15), rng.uniform(44, 62))
    if often(0.08):
        spot(rng.uniform(-45, 45), rng.uniform(-45, 55), rng.uniform(0, 45), rng.uniform(1, 2.5), rng.uniform(80, 300))
    scars = []
    if often(0.05 + 0.2 * age):
        angle, z, size = rng.uniform(0, 2 * np.pi), float(rng.uniform(0, 45)), float(rng.uniform(10, 24))
        centre = (float(46 * np.cos(angle)), float(58 * np.sin(angle) + 5), z)
        scars.append(Spot(centre, (size, size * 1.3, size), float(rng.uniform(13, 24))))
    swelling = None
    if often(0.14):
        angle = rng.uniform(0, 2 * np.pi)
        centre = (float(78 * np.cos(angle)), float(96 * np.sin(angle)), float(rng.uniform(0, 60)))
        swelling = Spot(centre, (26.0, 26.0, 22.0), float(rng.uniform(4, 13)))
    return Mimics(tuple(spots), _draw_vessels(rng, age), tuple(scars), swelling, NoiseField.draw(rng, 8.0, 0.45))


def _draw_vessels(rng: np.random.Generator, age: float) -> tuple[Vessel, ...]:
    hu = float(rng.normal(46, 4) + 10 * (rng.random() < 0.1))
    vessels = [Vessel(((0.0, -6.0, -44.0), (1.0, -8.0, -30.0), (0.0, -7.0, -22.0)), float(rng.uniform(1.3, 2.3)), hu)]
    for side in (-1.0, 1.0):
        start = (side * 8.0, -14.0, -22.0)
        middle_cerebral = (start, (side * 20.0, -19.0, -19.0), (side * 34.0, -18.0, -14.0))
        dense = hu + (12 if rng.random() < 0.06 else 0)
        vessels.append(Vessel(middle_cerebral, float(rng.uniform(1.0, 1.6)), dense))
        if rng.random() < 0.5 * age:
            carotid = ((side * 11.0, -15.0, -31.0), (side * 10.0, -13.0, -26.0))
            vessels.append(Vessel(carotid, 1.6, float(rng.uniform(200, 600))))
    return tuple(vessels)
