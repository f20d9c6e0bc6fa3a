"""Smooth random fields in space, the source of the phantom's irregularities.

Two periodic volumes are made once per process from a fixed seed; a study shifts and mirrors them by its own draw, so
that a field costs an interpolation and no Fourier transform. Scanner noise is not here: see `phantom_scanner`.
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

FloatArray = NDArray[np.float32]

_CELLS = 96
_CELL_MM = 2.0
_SEED = 20191011
_SAMPLES = 3.5


@lru_cache(maxsize=4)
def _volume(wavelength: float, bandwidth: float) -> FloatArray:
    """Return periodic noise of unit variance whose spectrum is a shell at `wavelength` mm, `bandwidth` octaves wide."""
    white = np.random.default_rng([_SEED, round(wavelength * 10)]).standard_normal((_CELLS,) * 3, np.float32)
    full, half = fft.fftfreq(_CELLS, _CELL_MM), fft.rfftfreq(_CELLS, _CELL_MM)
    k = np.sqrt(full[:, None, None] ** 2 + full[None, :, None] ** 2 + half[None, None, :] ** 2)
    octaves = np.log2(np.maximum(k, 1e-6) * wavelength)
    gain = np.exp(-0.5 * (octaves / bandwidth) ** 2).astype(np.float32)
    shaped = fft.irfftn(fft.rfftn(white) * gain, white.shape)
    volume: FloatArray = (shaped / shaped.std()).astype(np.float32)
    return volume


@dataclass(frozen=True)
class NoiseField:
    """A scalar field over head coordinates in mm, of mean 0 and variance 1."""

    wavelength: float
    bandwidth: float
    shift: tuple[float, float, float]
    mirror: tuple[float, float, float]

    @classmethod
    def draw(cls, rng: np.random.Generator, wavelength: float, bandwidth: float = 0.5) -> "NoiseField":
        """Return a field with its own place in the periodic volume."""
        shift = tuple(float(v) for v in rng.uniform(0, _CELLS, 3))
        mirror = tuple(float(v) for v in rng.choice([-1.0, 1.0], 3))
        return cls(wavelength, bandwidth, (shift[0], shift[1], shift[2]), (mirror[0], mirror[1], mirror[2]))

    def at(self, x: FloatArray, y: FloatArray, z: FloatArray, order: int = 1) -> FloatArray:
        """Return the field at points in mm, all arrays of one shape; order 0 takes the nearest cell."""
        axes = zip((z, y, x), self.shift, self.mirror, strict=True)
        points = np.stack([axis * np.float32(m / _CELL_MM) + np.float32(s) for axis, s, m in axes])
        volume = _volume(self.wavelength, self.bandwidth)
        sampled: FloatArray = ndimage.map_coordinates(volume, points, order=order, mode="grid-wrap", output=np.float32)
        return sampled

    def on_plane(self, x: FloatArray, y: FloatArray, z: FloatArray, spacing: float) -> FloatArray:
        """Return the field on an image plane with pixels of `spacing` mm, as `at` but interpolated between samples."""
        step = max(1, int(self.wavelength / (_SAMPLES * spacing)))
        if step == 1:  # pixels about as large as the cells
            return self.at(x, y, z, order=0)
        coarse = self.at(x[::step, ::step], y[::step, ::step], z[::step, ::step])
        rows, columns = x.shape
        sampling = np.array([[1 / step, 0, 0], [0, 1 / step, 0]])
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        border = cv2.BORDER_REPLICATE
        return np.asarray(cv2.warpAffine(coarse, sampling, (columns, rows), flags=flags, borderMode=border), np.float32)
