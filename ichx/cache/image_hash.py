"""Perceptual hash of a CT slice: equal for copies that were shifted, scaled, windowed, blurred or compressed.

It is computed on HU in a fixed window after centring: the brain between 0 and 80 HU, moved to the centroid of the head
and scaled to its size; the band-passed content without bone and air; the low frequencies of its discrete cosine
transform. The similarity of two slices is the cosine between their hashes; `benchmarks/external_identity.py` measures
how well it separates copies from other slices.
"""

from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

VERSION: Final = 1
"""Changes with every change of the hash."""
WINDOW: Final = (0, 80)
"""HU: air, fat and bone are outside, as in copies in a brain window."""
FREQUENCIES: Final = 32
"""Frequencies per axis of the transform that are part of the hash."""
LENGTH: Final = FREQUENCIES * FREQUENCIES
"""Components of a hash; the first, the mean, is always 0."""
SCALE: Final = 400.0
"""Components are stored as int8: their share of the length, which is seldom over 0.3, times this."""
SIMILAR: Final = 0.85
"""Cosine from which two slices count as copies."""

_REDUCED: Final = 128
"""Edge in pixels to which larger slices are reduced first."""
_EDGE: Final = 64
"""Edge in pixels of the centred and scaled image."""
_REACH: Final = 1.75
"""Half an edge in standard deviations of the head's pixels; 1.41 is the radius of a disc."""
_LEAST_HEAD: Final = 0.02
"""Share of the image that the head must have."""
_LEAST_BRAIN: Final = 0.10
"""Share of the centred image that must be neither air nor bone: others look alike in all patients."""
_FINE: Final = 0.5
_COARSE: Final = 6.0
"""Standard deviations in pixels of the band-pass."""

_WEIGHTS: Final = np.hypot(*np.meshgrid(np.arange(FREQUENCIES), np.arange(FREQUENCIES))).astype(np.float32)
"""The spectrum of images falls with the frequency; the hash has all frequencies in equal parts."""

FloatImage = npt.NDArray[np.float32]


def hash_slice(hu: npt.NDArray[np.int16]) -> npt.NDArray[np.int8] | None:
    """Return the hash of a slice in HU, `(LENGTH,)` int8; None if it shows too little brain to be recognized."""
    image = np.clip(hu, *WINDOW).astype(np.float32)
    if max(image.shape) > _REDUCED:
        image = _as_float(cv2.resize(image, (_REDUCED, _REDUCED), interpolation=cv2.INTER_AREA))
    image -= image.min()
    top = float(image.max())
    if top <= 0:
        return None
    centred = _centred(image, top)
    if centred is None:
        return None
    tissue = ((centred > 0.05 * top) & (centred < 0.93 * top)).astype(np.float32)
    inner: FloatImage = np.clip((_blurred(tissue, 1.5) - 0.6) * 4, 0, 1)  # without the rim that contains bone or air
    if inner.mean() < _LEAST_BRAIN:
        return None
    mean = _blurred(centred * inner, _COARSE) / np.maximum(_blurred(inner, _COARSE), 0.02)
    content = (_blurred(centred, _FINE) - mean) * inner
    spread = float(content[inner > 0.5].std())
    if not spread > 0:
        return None
    found = cv2.dct(np.clip(content / spread, -3, 3))[:FREQUENCIES, :FREQUENCIES] * _WEIGHTS
    length = float(np.linalg.norm(found))
    if not length > 0:
        return None
    return np.asarray(np.rint(np.clip(found.ravel() / length * SCALE, -127, 127)), np.int8)


def _centred(image: FloatImage, top: float) -> FloatImage | None:
    """Return the image around the centroid of the head, scaled to its size; None if there is no head."""
    moments = cv2.moments((image > 0.12 * top).astype(np.uint8), binaryImage=True)
    area = moments["m00"]
    if area < _LEAST_HEAD * image.size:
        return None
    x, y = moments["m10"] / area, moments["m01"] / area
    step = 2 * _REACH * float(np.sqrt((moments["mu20"] + moments["mu02"]) / area)) / _EDGE
    origin = [x - step * (_EDGE - 1) / 2, y - step * (_EDGE - 1) / 2]
    matrix = np.array([[step, 0, origin[0]], [0, step, origin[1]]], np.float64)
    return _as_float(cv2.warpAffine(image, matrix, (_EDGE, _EDGE), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP))


def _blurred(image: FloatImage, sigma: float) -> FloatImage:
    return _as_float(cv2.GaussianBlur(image, (0, 0), sigma))


def _as_float(image: Any) -> FloatImage:
    return np.asarray(image, np.float32)
