"""Hemorrhages of the phantom: position, displacement and density of each of the five subtypes.

Which subtypes a patient has is drawn in `phantom_prevalence`. Lengths in mm, densities in HU, head coordinates.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ichx.labels import SUBTYPES
from ichx.phantom.anatomy import CENTRE, Head, Skull
from ichx.phantom.brain import Spaces, tentorium_height
from ichx.phantom.noise_fields import NoiseField
from ichx.phantom.shapes import Optics, Points, Vector, cover, ellipsoid, layer, paint, ramp

FloatArray = NDArray[np.float32]

_CRESCENT = 1.7
"""Ratio of length to height of a subdural collection."""

_SECOND = 0.3
"""Chance that a study has another bleed of the same subtype, on the other side."""

_INDEX = {name: index for index, name in enumerate(SUBTYPES)}


@dataclass(frozen=True)
class Collection:
    """Blood between skull and brain: a lens (epidural) or a crescent (subdural) about a direction from `CENTRE`."""

    epidural: bool
    direction: Vector
    reach: float
    thickness: float
    hu: float
    uneven: float


@dataclass(frozen=True)
class MembraneBlood:
    """Subdural blood along falx or tentorium, on one side."""

    along: str
    side: float
    middle: Vector
    reach: float
    thickness: float
    hu: float


@dataclass(frozen=True)
class SulcalBlood:
    """Subarachnoid blood within `reach` of a point."""

    centre: Vector
    reach: float
    hu: float
    distend: float


@dataclass(frozen=True)
class VentricularBlood:
    """Blood in ventricles: everything behind `level` (a fluid level in y), and casts within `reach` of `centre`."""

    level: float
    centre: Vector
    reach: float
    hu: float


@dataclass(frozen=True)
class Hematoma:
    """Blood in the brain: an uneven ellipsoid with a rim of oedema."""

    centre: Vector
    axes: Vector
    hu: float
    rim: float
    uneven: float


@dataclass(frozen=True)
class Extra:
    """Thickness in mm of the collections on a plane, by collection, and their maximum."""

    room: FloatArray
    by_collection: list[FloatArray]


@dataclass(frozen=True)
class Bleeds:
    """All bleeds of one study."""

    texture: NoiseField
    shape: NoiseField
    collections: tuple[Collection, ...] = ()
    membranes: tuple[MembraneBlood, ...] = ()
    sulcal: tuple[SulcalBlood, ...] = ()
    ventricular: tuple[VentricularBlood, ...] = ()
    hematomas: tuple[Hematoma, ...] = ()

    def extra_axial(self, p: Points, skull: Skull) -> Extra:
        """Return how deep collections reach below the skull, in mm."""
        depths = [_collection_depth(c, p) for c in self.collections]
        room = np.zeros(p.x.shape, np.float32)
        for depth in depths:
            np.maximum(room, depth, out=room)
        return Extra(room, depths)

    def displaced(self, p: Points) -> Points:
        """Return where the tissue at `p` was before hematomas and collections pushed it away."""
        x, y, z = p.x, p.y, p.z
        for hematoma in self.hematomas:
            cube = float(np.prod(hematoma.axes))
            dx, dy, dz = (axis - np.float32(c) for axis, c in zip((x, y, z), hematoma.centre, strict=True))
            away = np.sqrt(dx * dx + dy * dy + dz * dz)
            share = np.float32(0.45 * cube) / (away**3 + np.float32(cube))
            x, y, z = x - dx * share, y - dy * share, z - dz * share
        for collection in self.collections:
            ux = collection.direction[0]
            if abs(ux) > 0.3:
                shift = np.float32(0.4 * np.sign(ux) * max(collection.thickness - 4, 0))
                x = x + shift * np.maximum(1 - (x * np.float32(1 / 70)) ** 2, 0) * ramp(z, -45, 0)
        return Points(x, y, z)

    def distend(self, p: Points) -> FloatArray | float:
        """Return by how many mm subarachnoid blood widens the sulci."""
        if not self.sulcal:
            return 0.0
        widened = np.zeros(p.x.shape, np.float32)
        for sulcal in self.sulcal:
            np.maximum(widened, np.float32(sulcal.distend) * _sulcal_weight(sulcal, p), out=widened)
        return widened

    def fill(
        self, hu: FloatArray, p: Points, skull: Skull, spaces: Spaces, extra: Extra, optics: Optics
    ) -> Iterator[tuple[int, FloatArray]]:
        """Paint all bleeds into `hu`, in place; yield each one's subtype index and its share of the pixels."""
        for sulcal in self.sulcal:
            share = spaces.subarachnoid * _sulcal_weight(sulcal, p) * spaces.cavity
            paint(hu, sulcal.hu, share)
            yield _INDEX["subarachnoid"], share
        for hematoma in self.hematomas:
            yield _INDEX["intraparenchymal"], self._fill_hematoma(hematoma, hu, p, spaces, optics)
        for pool in self.ventricular:
            near = cover(ellipsoid(p, pool.centre, (pool.reach,) * 3), 3.0)
            share = spaces.ventricles * np.maximum(near, cover(pool.level - p.y, 1.5))
            paint(hu, pool.hu, share)
            yield _INDEX["intraventricular"], share
        for membrane in self.membranes:
            share = _membrane_share(membrane, p, optics) * spaces.cavity
            paint(hu, membrane.hu, share)
            yield _INDEX["subdural"], share
        for collection, room in zip(self.collections, extra.by_collection, strict=True):
            share = cover(spaces.depth - room, optics.softness) * (room > 0.8) * spaces.cavity
            swirl = np.float32(collection.uneven) * self.texture.on_plane(p.x, p.y, p.z, optics.spacing)
            paint(hu, np.float32(collection.hu) + swirl, share)
            yield _INDEX["epidural" if collection.epidural else "subdural"], share

    def _fill_hematoma(
        self, hematoma: Hematoma, hu: FloatArray, p: Points, spaces: Spaces, optics: Optics
    ) -> FloatArray:
        distance = ellipsoid(p, hematoma.centre, hematoma.axes)
        near = distance < 25
        if not near.any():
            return np.zeros(p.x.shape, np.float32)
        lobes = self.shape.on_plane(p.x, p.y, p.z, optics.spacing)
        distance = distance + np.float32(0.22 * min(hematoma.axes)) * lobes
        paint(hu, 19.0, cover(distance - hematoma.rim, 4.0) * spaces.brain * np.float32(0.85))
        share = cover(distance, optics.softness + 0.4) * spaces.cavity * (1 - spaces.ventricles)
        paint(hu, (np.float32(hematoma.hu) + np.float32(hematoma.uneven) * lobes).astype(np.float32), share)
        return share


def _collection_depth(collection: Collection, p: Points) -> FloatArray:
    dx, dy, dz = (axis - np.float32(c) for axis, c in zip((p.x, p.y, p.z), CENTRE, strict=True))
    radius = np.sqrt(dx * dx + dy * dy + dz * dz) + np.float32(1e-3)
    ux, uy, uz = collection.direction
    ex, ey, ez = dx / radius - np.float32(ux), dy / radius - np.float32(uy), dz / radius - np.float32(uz)
    along = 1.0 if collection.epidural else _CRESCENT
    away = np.sqrt((ex * ex + ey * ey) * np.float32(along**-2) + ez * ez) * np.float32(75 / collection.reach)
    if collection.epidural:
        depth = np.float32(collection.thickness) * np.maximum(1 - away * away, 0) * _within_sutures(collection, p)
    else:
        depth = np.float32(collection.thickness) * np.sqrt(np.maximum(1 - away**4, 0))
        depth = depth * ramp(p.x * np.float32(np.sign(ux)), 1, 9) * ramp(p.z - tentorium_height(p), -2, 6)
    return np.asarray(depth, np.float32)


def _within_sutures(collection: Collection, p: Points) -> FloatArray:
    """Return 1 on the bone of the lens, falling to 0 at its sutures, where the dura is attached."""
    middle = tuple(c + 75 * u for c, u in zip(CENTRE, collection.direction, strict=True))

    def held(value: FloatArray, at_middle: float) -> FloatArray:
        return ramp(value * np.float32(1 if at_middle > 0 else -1), 0, 6)

    coronal = held(p.y + 22 - np.float32(0.2) * p.z, middle[1] + 22 - 0.2 * middle[2])
    lambdoid = held(p.y - 62 - np.float32(0.4) * p.z, middle[1] - 62 - 0.4 * middle[2])
    return coronal * lambdoid * held(p.x, middle[0])


def _membrane_share(blood: MembraneBlood, p: Points, optics: Optics) -> FloatArray:
    near = cover(ellipsoid(p, blood.middle, (blood.reach,) * 3), 6.0)
    half = blood.thickness / 2
    if blood.along == "falx":
        sheet = layer(p.x - np.float32(blood.side * half), half, optics.softness) * ramp(
            p.z - tentorium_height(p), 0, 4
        )
        return sheet * near * ramp(np.hypot(p.y - 8, p.z - 2), 38, 44)
    height = p.z - tentorium_height(p)
    sheet = layer(height - np.float32(half), half, max(optics.softness, optics.slab)) * ramp(
        p.x * np.float32(blood.side), 4, 10
    )
    return sheet * near * ramp(np.hypot(p.x / 0.9, p.y - 12), 22, 27) * ramp(p.y, -6, 8)


def _sulcal_weight(blood: SulcalBlood, p: Points) -> FloatArray:
    return cover(ellipsoid(p, blood.centre, (blood.reach,) * 3), 8.0)


def draw_bleeds(rng: np.random.Generator, head: Head, subtypes: tuple[str, ...]) -> Bleeds:
    """Return the bleeds of a study that has these subtypes."""
    side = float(rng.choice([-1.0, 1.0]))
    draws = {
        "epidural": _draw_epidural,
        "subdural": _draw_subdural,
        "subarachnoid": _draw_subarachnoid,
        "intraventricular": _draw_ventricular,
        "intraparenchymal": _draw_hematomas,
    }
    found: list[object] = []
    for name in SUBTYPES:
        if name in subtypes:
            found += draws[name](rng, side)
    texture, shape = NoiseField.draw(rng, 8.0, 0.45), NoiseField.draw(rng, 15.0, 0.22)
    for name in SUBTYPES:
        if name in subtypes and rng.random() < _SECOND:
            found += draws[name](rng, -side)
    return Bleeds(
        texture=texture,
        shape=shape,
        collections=tuple(b for b in found if isinstance(b, Collection)),
        membranes=tuple(b for b in found if isinstance(b, MembraneBlood)),
        sulcal=tuple(b for b in found if isinstance(b, SulcalBlood)),
        ventricular=tuple(b for b in found if isinstance(b, VentricularBlood)),
        hematomas=tuple(b for b in found if isinstance(b, Hematoma)),
    )


def _direction(x: float, y: float, z: float) -> Vector:
    length = float(np.sqrt(x * x + y * y + z * z))
    return x / length, y / length, z / length


def _draw_epidural(rng: np.random.Generator, side: float) -> list[object]:
    where = _direction(side * rng.uniform(0.7, 1), rng.uniform(-0.7, 0.7), rng.uniform(-0.2, 0.7))
    reach = float(rng.uniform(22, 42))
    thickness = float(reach * rng.uniform(0.3, 0.6))
    return [Collection(True, where, reach, thickness, float(rng.normal(66, 5)), float(rng.uniform(1, 5)))]


def _draw_subdural(rng: np.random.Generator, side: float) -> list[object]:
    found: list[object] = []
    if rng.random() < 0.8:
        where = _direction(side, rng.uniform(-0.8, 0.8), rng.uniform(-0.1, 0.9))
        hu = float(rng.normal(62, 7) if rng.random() < 0.7 else rng.uniform(36, 48))
        reach = float(rng.uniform(25, 62))
        thickness = float(np.clip(rng.lognormal(1.85, 0.5), 3, 0.3 * reach))
        found.append(Collection(False, where, reach, thickness, hu, float(rng.uniform(1, 8))))
    if rng.random() < 0.22 or not found:
        along = str(rng.choice(["falx", "tentorium"]))
        middle = (0.0, float(rng.uniform(-40, 60)), float(rng.uniform(20, 50)))
        if along == "tentorium":
            middle = (side * 25.0, float(rng.uniform(30, 50)), -12.0)
        thickness = float(rng.uniform(2.5, 6))
        found.append(
            MembraneBlood(along, side, middle, float(rng.uniform(28, 50)), thickness, float(rng.normal(62, 5)))
        )
    return found


def _draw_subarachnoid(rng: np.random.Generator, side: float) -> list[object]:
    hu, distend = float(rng.normal(58, 6)), float(rng.uniform(0.3, 1.2))
    if rng.random() < 0.4:
        basal = [SulcalBlood((side * 8.0, -10.0, -18.0), float(rng.uniform(28, 48)), hu, distend)]
        return [*basal, SulcalBlood((side * 45.0, -15.0, 0.0), float(rng.uniform(20, 32)), hu, distend)]
    count = int(rng.integers(1, 4))
    found: list[object] = []
    for _ in range(count):
        where = _direction(side * rng.uniform(0.2, 1), rng.uniform(-0.9, 0.9), rng.uniform(-0.1, 0.9))
        centre = (where[0] * 62, where[1] * 76 + 5, where[2] * 66 + 5)
        found.append(SulcalBlood(centre, float(rng.uniform(14, 32)), hu, distend))
    return found


def _draw_ventricular(rng: np.random.Generator, side: float) -> list[object]:
    hu = float(rng.normal(61, 6))
    found: list[object] = []
    if rng.random() < 0.7:
        found.append(VentricularBlood(float(rng.uniform(40, 62)), (0.0, 0.0, 500.0), 1.0, hu))
    spots = [
        (side * 10.0, -8.0, 18.0),
        (side * 9.0, 10.0, 22.0),
        (0.0, 4.0, -3.0),
        (0.0, 27.0, -38.0),
        (side * 22.0, 36.0, 8.0),
    ]
    casts = int(rng.integers(0, 4)) if found else int(rng.integers(1, 4))
    for pick in rng.permutation(len(spots))[:casts]:
        found.append(VentricularBlood(500.0, spots[int(pick)], float(rng.uniform(10, 32)), hu))
    return found


def _draw_hematomas(rng: np.random.Generator, side: float) -> list[object]:
    kind = rng.random()
    if kind < 0.4:
        spots = [(side * 25.0, -5.0, 5.0), (side * 11.0, 11.0, 7.0)]
        centres = [spots[int(rng.integers(2))]]
        size = float(rng.uniform(6, 18))
    elif kind < 0.75:
        where = _direction(side * rng.uniform(0.4, 1), rng.uniform(-0.9, 0.9), rng.uniform(0, 0.7))
        centres = [(where[0] * 42, where[1] * 55 + 5, where[2] * 45 + 5)]
        size = float(rng.uniform(7, 22))
    elif kind < 0.85:
        centres = [(side * rng.uniform(8, 28), float(rng.uniform(40, 60)), -40.0)]
        size = float(rng.uniform(6, 15))
    else:
        centres = [
            (side * rng.uniform(10, 50), float(rng.uniform(-70, -45)), float(rng.uniform(-10, 15)))
            for _ in range(int(rng.integers(1, 4)))
        ]
        size = float(rng.uniform(4, 10))
    return [
        Hematoma(
            (float(c[0]), float(c[1]), float(c[2])),
            (
                size * float(rng.uniform(0.7, 1.1)),
                size * float(rng.uniform(0.9, 1.5)),
                size * float(rng.uniform(0.8, 1.2)),
            ),
            float(np.clip(rng.normal(64, 8), 50, 85)),
            float(rng.uniform(2, 9)),
            float(rng.uniform(1, 5)),
        )
        for c in centres
    ]
