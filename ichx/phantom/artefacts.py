"""Artefacts of a scanner: beam hardening, cupping, streaks, motion, rings and the head rest.

Random grain is in `phantom_scanner`.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ichx.phantom.anatomy import Skull
from ichx.phantom.shapes import Points, cover, ramp, reaches

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Artefacts:
    """One study's artefacts; strengths in HU. `motion` holds heights in mm, shift in mm and turn in degrees."""

    hardening: float
    cupping: float
    streaks: tuple[tuple[float, float], ...]
    streak_height: float
    motion: tuple[tuple[float, float, float], ...]
    ring: tuple[float, float]
    rest: tuple[float, float, float]

    def shade(self, hu: FloatArray, p: Points, skull: Skull) -> None:
        """Add beam hardening, in place: dark bands between the petrous bones, brightening at the skull."""
        if reaches(p, -62, -8):
            band = np.exp(-(((p.z + 34) / 10) ** 2))
            dark = np.exp(-(((p.y - 9) / 5) ** 2)) + 0.6 * np.exp(-(((p.y - 22 + 0.3 * p.x) / 3) ** 2))
            hu -= np.float32(self.hardening) * band * dark * np.exp(-((p.x / 36) ** 2))
            bright = np.exp(-(((p.y - 16 - 0.15 * p.x) / 2.5) ** 2)) + np.exp(-(((p.y - 1) / 2.5) ** 2))
            hu += np.float32(0.5 * self.hardening) * band * bright * np.exp(-((p.x / 40) ** 2))
            spur = np.exp(-((p.x / 2.5) ** 2) - ((p.z + 45) / 14) ** 2) * ramp(p.y, 35, 60)
            hu += np.float32(0.6 * self.hardening) * spur
        hu += np.float32(self.cupping) * np.exp(np.minimum(skull.cavity, 0) * np.float32(1 / 4.5))

    def blur_motion(self, image: FloatArray, spacing: float, height: float) -> FloatArray:
        """Return the slice of a patient who moved."""
        for middle, shift, turn in self.motion:
            if abs(height - middle) < 6:
                rows, columns = image.shape
                matrix = cv2.getRotationMatrix2D((columns / 2, rows / 2), turn, 1.0)
                matrix = matrix + np.array([[0, 0, 1], [0, 0, 0.5]]) * shift / spacing
                moved = cv2.warpAffine(image, matrix, (columns, rows), borderMode=cv2.BORDER_REPLICATE)
                image = np.asarray(np.float32(0.62) * image + np.float32(0.38) * moved, np.float32)
        return image

    def streaked(self, image: FloatArray, p: Points) -> None:
        """Add streaks from metal or motion, in place, strongest at their own height."""
        strength = np.float32(np.exp(-(((float(p.z.mean()) - self.streak_height) / 9) ** 2)))
        if not self.streaks or strength < 0.02:
            return
        inside = np.clip((image + 900) / 800, 0, 1)
        for angle, amplitude in self.streaks:
            across = (p.x - 20 * np.cos(7 * angle)) * np.float32(np.sin(angle)) - (p.y + 40) * np.float32(np.cos(angle))
            wave = np.exp(-((across / 2.2) ** 2)) - 0.6 * np.exp(-(((across - 4) / 3) ** 2))
            image += inside * strength * np.float32(amplitude) * wave

    def ringed(self, image: FloatArray, spacing: float) -> None:
        """Add a detector's ring, in place."""
        radius, amplitude = self.ring
        if amplitude:
            rows, columns = image.shape
            v, u = np.ogrid[:rows, :columns]
            away = np.hypot((u - (columns - 1) / 2) * spacing, (v - (rows - 1) / 2) * spacing).astype(np.float32)
            image += np.float32(amplitude) * cover(np.abs(away - radius) - 0.6, 1.0)

    def head_rest(self, size: int, spacing: float) -> FloatArray:
        """Return the share of each pixel that the shell of the head rest fills."""
        axis = (np.arange(size, dtype=np.float32) - (size - 1) / 2) * np.float32(spacing)
        height, radius, opening = self.rest
        u, v = axis[None, :], axis[:, None] - np.float32(height)
        bowl = np.where(v > 0, np.hypot(u, v), np.abs(u)) - radius
        shell: FloatArray = cover(np.abs(bowl) - 0.9, max(spacing, 1.0)) * (v > -opening)
        return shell.astype(np.float32)


def draw_artefacts(rng: np.random.Generator) -> Artefacts:
    """Return the artefacts of a study."""
    motion = []
    if rng.random() < 0.13:
        middle = rng.uniform(-60, 70)
        for _ in range(int(rng.integers(1, 4))):
            motion.append((float(middle + rng.normal(0, 10)), float(rng.normal(0, 2.5)), float(rng.normal(0, 1.8))))
    streaks = []
    if rng.random() < 0.22:
        amplitude = rng.lognormal(2.8, 0.7)
        for _ in range(int(rng.integers(2, 7))):
            streaks.append((float(rng.uniform(-0.7, 0.7)), float(amplitude * rng.normal(0, 1))))
    ring = (float(rng.uniform(5, 70)), float(rng.normal(0, 6)) if rng.random() < 0.05 else 0.0)
    return Artefacts(
        hardening=float(np.clip(rng.lognormal(1.9, 0.5), 2, 20)),
        cupping=float(np.clip(rng.normal(3.5, 2.5), 0, 10)),
        streaks=tuple(streaks),
        streak_height=float(rng.choice([rng.normal(-66, 8), rng.uniform(-50, 70)], p=[0.6, 0.4])),
        motion=tuple(motion),
        ring=ring,
        rest=(float(rng.uniform(5, 35)), float(rng.uniform(92, 122)), float(rng.uniform(0, 60))),
    )
