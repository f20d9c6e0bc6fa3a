"""Synthetic head CT studies with hemorrhages: one call, one study, reproducible from seed and patient number.

Heads are drawn in `phantom_anatomy` and `phantom_brain`, bleeds in `phantom_bleeds`, imitations and artefacts in
`phantom_mimics`, scanners in `phantom_scanner`; files are written by `phantom_dicom`. This file puts them together.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ichx.labels import LABELS, SUBTYPES
from ichx.phantom.anatomy import Head, Skull, draw_head, measure, render_outside
from ichx.phantom.artefacts import Artefacts, draw_artefacts
from ichx.phantom.bleeds import Bleeds, draw_bleeds
from ichx.phantom.brain import render_brain
from ichx.phantom.mimics import Mimics, draw_mimics
from ichx.phantom.prevalence import CHALLENGE_PREVALENCE, draw_subtypes
from ichx.phantom.scanners import Scanner, draw_scanner, noise_image
from ichx.phantom.shapes import Optics, Points

__all__ = ["CHALLENGE_PREVALENCE", "PhantomStudy", "make_study", "study_rng", "study_scanner"]

FloatArray = NDArray[np.float32]

VISIBLE_MM2 = 25.0
"""Area of a bleed in a slice from which half of the readers label it."""

READER_SPREAD = 1.1
"""Standard deviation of the logarithm of that area over slices and subtypes.

Labels flicker between neighbouring slices as those of real readers do: `benchmarks/phantom_labels.py` compares them.
"""

_SUBSLICES = (-0.25, 0.25)  # of a slice's thickness; two, as neighbours soften each other
_MASK_SHARE = 0.4
_TRACE = 0.2


@dataclass(frozen=True)
class PhantomStudy:
    """One synthetic study, from the lowest slice upward.

    `hu` is `(S, size, size)` int16 HU; `mask` `(S, size, size)` uint8, 0 or 1 + the index in `ichx.labels.SUBTYPES` of
    a subtype that the slice is labelled with; `labels` `(S, 6)` uint8 in the order of `ichx.labels.LABELS`; `spacing`
    in mm between pixels and `thickness` in mm between slices.
    """

    hu: NDArray[np.int16]
    mask: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    spacing: float
    thickness: float


def study_rng(seed: int, patient: int, subject: str) -> np.random.Generator:
    """Return the generator for one `subject` of a study, so that the draws of subjects are independent."""
    digest = hashlib.sha256(f"{seed}/{patient}/{subject}".encode()).digest()
    return np.random.Generator(np.random.Philox(int.from_bytes(digest[:16], "little")))


def study_scanner(seed: int, patient: int, size: int) -> Scanner:
    """Return the scanner of a study."""
    return draw_scanner(study_rng(seed, patient, "scanner"), size)


def make_study(
    seed: int, patient: int, *, size: int = 512, prevalence: Mapping[str, float] | None = None
) -> PhantomStudy:
    """Return the study of `patient`, `size` pixels wide; `prevalence` as in `write_phantom`.

    Raises `InvalidInputError` if `prevalence` has an unknown label or is impossible.
    """
    scanner = study_scanner(seed, patient, size)
    patient_parts = _draw_patient(seed, patient, prevalence)
    heights = _heights(study_rng(seed, patient, "range"), patient_parts.head, scanner)
    noise, reader = study_rng(seed, patient, "noise"), study_rng(seed, patient, "reader")
    visible = VISIBLE_MM2 * np.exp(READER_SPREAD * reader.standard_normal((len(heights), len(SUBTYPES))))
    hu = np.empty((len(heights), size, size), np.int16)
    mask = np.zeros((len(heights), size, size), np.uint8)
    labels = np.zeros((len(heights), len(LABELS)), np.uint8)
    outside = _outside_circle(size) if scanner.circular else None
    rest = patient_parts.artefacts.head_rest(size, scanner.spacing)
    for index, height in enumerate(heights):
        image, shares = _slice(patient_parts, scanner, size, height)
        image += rest * np.maximum(-200 - image, 0)
        image += noise_image(noise, scanner, size, height / patient_parts.head.scale[2])
        mask[index], labels[index] = _read_shares(shares, size, scanner.spacing, visible[index])
        hu[index] = np.clip(np.rint(image), -1023 if scanner.circular else -1024, 3071)
        if outside is not None:
            hu[index][outside] = -1024
    return PhantomStudy(hu, mask, labels, scanner.spacing, scanner.thickness)


@dataclass(frozen=True)
class _Patient:
    head: Head
    bleeds: Bleeds
    mimics: Mimics
    artefacts: Artefacts


def _draw_patient(seed: int, patient: int, prevalence: Mapping[str, float] | None) -> _Patient:
    head = draw_head(study_rng(seed, patient, "head"))
    subtypes = draw_subtypes(study_rng(seed, patient, "subtypes"), prevalence)
    return _Patient(
        head=head,
        bleeds=draw_bleeds(study_rng(seed, patient, "bleeds"), head, subtypes),
        mimics=draw_mimics(study_rng(seed, patient, "mimics"), head),
        artefacts=draw_artefacts(study_rng(seed, patient, "artefacts")),
    )


def _heights(rng: np.random.Generator, head: Head, scanner: Scanner) -> list[float]:
    """Return the heights of the slice centres in mm, from the skull base to the vertex, 20 to 40 of them."""
    bottom = rng.uniform(-84, -58) * head.scale[2]
    top = rng.uniform(84, 104) * head.scale[2]
    count = int(np.clip(round((top - bottom) / scanner.thickness), 20, 40))
    return [float(bottom + scanner.thickness * index) for index in range(count)]


def _outside_circle(size: int) -> NDArray[np.bool_]:
    axis = np.arange(size) - (size - 1) / 2
    return np.asarray(np.hypot(axis[:, None], axis[None, :]) > size / 2)


def plane_points(head: Head, spacing: float, size: int, height: float) -> Points:
    """Return the head coordinates of an image plane's pixels."""
    axis = (np.arange(size, dtype=np.float32) - np.float32((size - 1) / 2)) * np.float32(spacing)
    pitch, roll, yaw = head.angles
    turn = _rotation(0, pitch) @ _rotation(1, roll) @ _rotation(2, yaw)
    u, v = axis[None, :] - np.float32(head.offset[0]), axis[:, None] - np.float32(head.offset[1])
    rows = (turn / np.array(head.scale)[:, None]).astype(np.float32)
    x, y, z = (row[0] * u + row[1] * v + row[2] * np.float32(height) for row in rows)
    return Points(x, y, z)


def _rotation(axis: int, angle: float) -> NDArray[np.float64]:
    a, b = [i for i in range(3) if i != axis]
    matrix = np.eye(3)
    matrix[a, a] = matrix[b, b] = np.cos(angle)
    matrix[a, b], matrix[b, a] = -np.sin(angle), np.sin(angle)
    return matrix


def _slice(patient: _Patient, scanner: Scanner, size: int, height: float) -> tuple[FloatArray, dict[int, FloatArray]]:
    """Return one slice in HU without noise, and by subtype the share of each pixel that it fills."""
    head, spacing = patient.head, scanner.spacing
    optics = Optics(spacing, 1.1 * max(spacing, 0.9), scanner.thickness / len(_SUBSLICES))
    whole = plane_points(head, spacing, size, height)
    box = _box(np.hypot(whole.x / 92, (whole.y + 5) / 118) < 1)
    planes = [plane_points(head, spacing, size, height + part * scanner.thickness).crop(box) for part in _SUBSLICES]
    skulls = [measure(head, p, optics, patient.mimics.scalp_swelling(p)) for p in planes]
    shares: dict[int, FloatArray] = {}
    mean = np.zeros(whole.x[box].shape, np.float32)
    for p, skull, other in zip(planes, skulls, reversed(skulls), strict=True):
        soft_skull = skull.softened(other)
        image = render_outside(head, p, soft_skull, optics)
        if skull.cavity.min() < 0:
            inner = _box(skull.cavity < 2 * optics.softness)
            view = image[inner]
            for index, share in _paint_content(patient, view, p.crop(inner), soft_skull.crop(inner), optics):
                found = shares.setdefault(index, np.zeros((size, size), np.float32))
                found[box][inner] += share / np.float32(len(_SUBSLICES))
        mean += image / np.float32(len(_SUBSLICES))
    image = np.full((size, size), -1000, np.float32)
    image[box] = mean
    if scanner.blur > 0.35 * spacing:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), scanner.blur / spacing), np.float32)
    image = patient.artefacts.blur_motion(image, spacing, height)
    patient.artefacts.streaked(image, whole)
    patient.artefacts.ringed(image, spacing)
    return image, shares


def _paint_content(
    patient: _Patient, image: FloatArray, p: Points, skull: Skull, optics: Optics
) -> list[tuple[int, FloatArray]]:
    """Paint the content of the cavity, in place; return subtype index and share of the pixels of every bleed."""
    bleeds = patient.bleeds
    extra = bleeds.extra_axial(p, skull)
    moved = bleeds.displaced(p)
    brain, spaces = render_brain(patient.head, p, moved, skull, optics, extra.room, bleeds.distend(p))
    patient.mimics.render(brain, p, skull, spaces.brain, optics)
    shares = list(bleeds.fill(brain, p, skull, spaces, extra, optics))
    patient.artefacts.shade(brain, p, skull)
    image += (brain - image) * spaces.cavity
    return shares


def _box(inside: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Return the rows and columns that hold all True pixels, at least one of each."""
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if not len(rows):
        return slice(0, 1), slice(0, 1)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _read_shares(
    shares: dict[int, FloatArray], size: int, spacing: float, visible: NDArray[np.float64]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return one slice's mask and its six labels; `visible` (5,) are the areas in mm2 that its reader sees."""
    mask = np.zeros((size, size), np.uint8)
    labels = np.zeros(len(LABELS), np.uint8)
    most = np.full((size, size), _MASK_SHARE, np.float32)
    for index, share in shares.items():
        mask[share >= most] = index + 1
        np.maximum(most, share, out=most)
    for index, share in shares.items():
        area = float(share[share > _TRACE].sum()) * spacing**2
        labels[index] = area >= visible[index] and bool((mask == index + 1).any())
        if not labels[index]:
            mask[mask == index + 1] = 0  # too little for the label: not in the mask either
    labels[-1] = labels[:-1].max()
    return mask, labels
