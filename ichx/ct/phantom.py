"""Synthetic head CT studies with hemorrhages: one call, one study, reproducible from seed and patient number.

Heads are drawn in `phantom_anatomy` and `phantom_brain`, bleeds in `phantom_bleeds`, imitations and artefacts in
`phantom_mimics`, scanners in `phantom_scanner`; files are written by `phantom_dicom`. This file puts them together.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ichx.ct.phantom_anatomy import Head, draw_head, measure, render_outside
from ichx.ct.phantom_bleeds import Bleeds, draw_bleeds
from ichx.ct.phantom_brain import render_brain
from ichx.ct.phantom_prevalence import CHALLENGE_PREVALENCE, draw_subtypes
from ichx.ct.phantom_scanner import Scanner, draw_scanner, noise_image
from ichx.ct.phantom_shapes import Points
from ichx.labels import LABELS, SUBTYPES

__all__ = ["CHALLENGE_PREVALENCE", "PhantomStudy", "make_study", "study_rng", "study_scanner"]

FloatArray = NDArray[np.float32]

VISIBLE_MM2 = 25.0
"""A slice has a subtype's label when at least this much of its area bleeds."""

_SUBSLICES = (-0.25, 0.25)


@dataclass(frozen=True)
class PhantomStudy:
    """One synthetic study, from the lowest slice upward.

    `hu` is `(S, size, size)` int16 HU; `mask` `(S, size, size)` uint8, 0 or 1 + the index in `ichx.labels.SUBTYPES`;
    `labels` `(S, 6)` uint8 in the order of `ichx.labels.LABELS`; `spacing` in mm between pixels and `thickness` in mm
    between slices.
    """

    hu: NDArray[np.int16]
    mask: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    spacing: float
    thickness: float


def study_rng(seed: int, patient: int, subject: str) -> np.random.Generator:
    """Return the generator for one `subject` of a study, so that no subject's draws move another's."""
    digest = hashlib.sha256(f"{seed}/{patient}/{subject}".encode()).digest()
    return np.random.Generator(np.random.Philox(int.from_bytes(digest[:16], "little")))


def study_scanner(seed: int, patient: int, size: int) -> Scanner:
    """Return the scanner of a study."""
    return draw_scanner(study_rng(seed, patient, "scanner"), size)


def make_study(
    seed: int, patient: int, *, size: int = 512, prevalence: Mapping[str, float] | None = None
) -> PhantomStudy:
    """Return the study of `patient`, `size` pixels wide; `prevalence` as in `write_phantom`.

    Raises `IchxError` where `prevalence` names no label or cannot be had.
    """
    scanner = study_scanner(seed, patient, size)
    head = draw_head(study_rng(seed, patient, "head"))
    subtypes = draw_subtypes(study_rng(seed, patient, "subtypes"), prevalence)
    bleeds = draw_bleeds(study_rng(seed, patient, "bleeds"), head, subtypes)
    heights = _heights(study_rng(seed, patient, "range"), head, scanner)
    noise = study_rng(seed, patient, "noise")
    hu = np.empty((len(heights), size, size), np.int16)
    mask = np.zeros((len(heights), size, size), np.uint8)
    labels = np.zeros((len(heights), len(LABELS)), np.uint8)
    outside = _outside_circle(size) if scanner.circular else None
    for index, height in enumerate(heights):
        image, shares = _slice(head, bleeds, scanner, size, height)
        image += noise_image(noise, scanner, size)
        mask[index], labels[index] = _read_shares(shares, scanner.spacing)
        hu[index] = np.clip(np.rint(image), -1023 if scanner.circular else -1024, 3071)
        if outside is not None:
            hu[index][outside] = -1024
    return PhantomStudy(hu, mask, labels, scanner.spacing, scanner.thickness)


def _heights(rng: np.random.Generator, head: Head, scanner: Scanner) -> list[float]:
    """Return the heights of the slices' middles in mm, from the skull base to the vertex, 20 to 40 of them."""
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


def _slice(
    head: Head, bleeds: Bleeds, scanner: Scanner, size: int, height: float
) -> tuple[FloatArray, list[FloatArray]]:
    """Return one slice in HU without noise, and the share of each pixel that each subtype fills."""
    softness = max(scanner.spacing, 0.9) * 1.1
    total = np.zeros((size, size), np.float32)
    shares = [np.zeros((size, size), np.float32) for _ in SUBTYPES]
    for part in _SUBSLICES:
        p = plane_points(head, scanner.spacing, size, height + part * scanner.thickness)
        skull = measure(head, p, scanner.spacing)
        image = render_outside(head, p, skull, softness)
        if skull.cavity.min() < 0:
            extra = bleeds.extra_axial(p, skull)
            brain, spaces = render_brain(head, p, skull, softness, extra.room, bleeds.distend(p))
            for index, share in bleeds.fill(brain, p, skull, spaces, extra, softness):
                shares[index] += share * np.float32(1 / len(_SUBSLICES))
            image += (brain - image) * spaces.cavity
        total += image
    return total * np.float32(1 / len(_SUBSLICES)), shares


def _read_shares(shares: list[FloatArray], spacing: float) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return one slice's mask and its six labels."""
    stack = np.stack(shares)
    best = stack.argmax(axis=0)
    mask = np.where(stack.max(axis=0) >= 0.4, best + 1, 0).astype(np.uint8)
    area = np.where(stack > 0.2, stack, 0).sum(axis=(1, 2)) * spacing**2
    labels = np.zeros(len(LABELS), np.uint8)
    for index in range(len(SUBTYPES)):
        labels[index] = area[index] >= VISIBLE_MM2 and bool((mask == index + 1).any())
    labels[-1] = labels[:-1].max()
    return mask, labels
