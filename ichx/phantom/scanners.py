"""Scanners of the phantom: slice geometry, blur, noise and header style.

The header itself is written by `phantom_dicom`.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

FIELD_OF_VIEW_PIXELS = 512
_REFERENCE_MM = 0.488
_GRAIN_MM = 1.6


@dataclass(frozen=True)
class Scanner:
    """One study's scanner and protocol. Lengths in mm, `tilt` in degrees, `noise` in HU at 512 pixels."""

    habit: str
    spacing: float
    thickness: float
    tilt: float
    noise: float
    blur: float
    circular: bool


def draw_scanner(rng: np.random.Generator, size: int) -> Scanner:
    """Return a scanner for images of `size` pixels; its `habit` is `ge`, `ge_flat`, `philips` or `toshiba`."""
    habit = str(rng.choice(["ge", "ge_flat", "philips", "toshiba"], p=[0.5, 0.15, 0.25, 0.1]))
    spacing = float(rng.choice([0.48828125, rng.uniform(0.41, 0.52)], p=[0.6, 0.4]))
    thickness = float(rng.choice([rng.normal(5.0, 0.12), rng.uniform(4.5, 7.0)], p=[0.7, 0.3]))
    tilt = float(np.clip(rng.normal(-16, 7), -30, 18)) if habit == "ge" or rng.random() < 0.3 else 0.0
    return Scanner(
        habit=habit,
        spacing=round(spacing * FIELD_OF_VIEW_PIXELS / size, 6),
        thickness=round(max(thickness, 4.5), 3),
        tilt=round(tilt, 1),
        noise=float(np.clip(rng.lognormal(np.log(4.2), 0.3), 2.2, 8.0)),
        blur=float(rng.uniform(0.55, 1.1)),
        circular=habit == "ge",
    )


def noise_image(rng: np.random.Generator, scanner: Scanner, size: int, height: float) -> FloatArray:
    """Return `(size, size)` zero-mean noise in HU with the grain of a reconstruction kernel.

    Its deviation falls with the pixel size as an average over pixels would make it fall; low in the head, at `height`
    mm, dense bone adds noise, drawn out from side to side.
    """
    white = rng.standard_normal((size, size), np.float32)
    grain = scanner.blur / scanner.spacing
    if grain > 0.35:
        soft = cv2.GaussianBlur(white, (0, 0), 0.8 * grain)
        white = soft - np.float32(0.6) * cv2.GaussianBlur(white, (0, 0), 1.8 * grain)
        white /= white.std()
    averaged = scanner.noise * np.sqrt(
        (1 + (_REFERENCE_MM / _GRAIN_MM) ** 2) / (1 + (scanner.spacing / _GRAIN_MM) ** 2)
    )
    noise = white * np.float32(averaged)
    bone = float(np.exp(-(((height + 40) / 20) ** 2)))
    if bone > 0.05:
        noise *= np.float32(1 + 0.3 * bone)
        drawn = cv2.GaussianBlur(
            rng.standard_normal((size, size), np.float32), (0, 0), 12 / scanner.spacing, sigmaY=0.1
        )
        noise += drawn * np.float32(0.5 * bone * averaged / max(float(drawn.std()), 1e-6))
    return noise
