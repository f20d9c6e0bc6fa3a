"""Perceptual hash of a CT slice: equal for copies that were shifted, scaled, windowed, blurred or compressed.

It is computed on HU in a fixed window after centring: the brain between 0 and 80 HU, moved to the centroid of the head
and scaled to its size; the band-passed content without bone and air; the low frequencies of its discrete cosine
transform. Bone and air are left out before the image is reduced, and it is sampled twice as finely as needed and then
averaged: otherwise, noise above the sampled frequencies changes the hash of a copy that is shifted by one pixel.

The similarity of two slices is the cosine between their hashes; `benchmarks/external_identity.py` measures how well it
separates copies from other slices.
"""

import math
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

VERSION: Final = 2
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
_FINE_EDGE: Final = 2 * _EDGE
"""Edge in pixels of the image that is averaged to it."""
_COARSE_EDGE: Final = _EDGE // 4
"""Edge in pixels of the image of local means."""
_COARSE: Final = 1.5
"""Standard deviation in its pixels of the Gaussian of the local means."""
_REACH: Final = 1.75
"""Half an edge in standard deviations of the head's pixels; 1.41 is the radius of a disc."""
_HEAD: Final = 0.24
"""Share of the highest value from which a pixel counts fully as head, and proportionally below it."""
_LEAST_HEAD: Final = 0.02
"""Share of the image that the head must have."""
_TISSUE: Final = (0.05, 0.93)
"""Shares of the highest value between which a pixel is neither air nor bone."""
_RIM: Final = 5
"""Edge in pixels of the square around a pixel in which bone and air lower its weight."""
_LEAST_BRAIN: Final = 0.10
"""Share of the centred image that must be neither air nor bone: others look alike in all patients."""
_LEAST_WEIGHT: Final = 0.02
"""Weight from which there is a local mean."""
_LARGEST: Final = 3.0
"""Limit of the content, in standard deviations."""

_WEIGHTS: Final = np.hypot(*np.meshgrid(np.arange(FREQUENCIES), np.arange(FREQUENCIES))).astype(np.float32)
"""The spectrum of images falls with the frequency; the hash has all frequencies in equal parts."""
_COSINES: Final = np.ascontiguousarray(
    cv2.dct(np.eye(_EDGE, dtype=np.float32), flags=cv2.DCT_ROWS)[:, :FREQUENCIES].T, np.float32
)
"""The discrete cosine transform of a column, as a matrix."""
_COSINES_ACROSS: Final = np.ascontiguousarray(_COSINES.T)
"""That of a row."""
_INNER: Final = np.rint(255 * np.clip((np.arange(256) / 255 - 0.6) * 4, 0, 1)).astype(np.uint8)
"""Weight of a pixel by the share of tissue around it: 0 at the rim that contains bone or air."""

_AREA: Final = cv2.INTER_AREA

FloatImage = npt.NDArray[np.float32]
GreyImage = npt.NDArray[np.uint8]


def hash_slice(hu: npt.NDArray[np.int16]) -> npt.NDArray[np.int8] | None:
    """Return the hash of a slice in HU, `(LENGTH,)` int8; None if it shows too little brain to be recognized."""
    image = _windowed(hu)
    low, high, _, _ = cv2.minMaxLoc(image)
    if high <= low:
        return None
    if low:
        image -= np.uint8(low)
    top = high - low
    fine = _centred(image, top)
    if fine is None:
        return None
    content = _content(fine, top)
    if content is None:
        return None
    found = (_COSINES @ content @ _COSINES_ACROSS) * _WEIGHTS
    length = float(cv2.norm(found))
    if not length > 0:
        return None
    found *= SCALE / length
    return np.rint(np.clip(found.ravel(), -127, 127)).astype(np.int8)


def _windowed(hu: npt.NDArray[np.int16]) -> GreyImage:
    """Return `WINDOW` as values from 0 to 255, reduced to `_REDUCED` pixels."""
    low, high = WINDOW
    above: Any = cv2.max(hu, low)  # type: ignore[call-overload]
    image: Any = cv2.convertScaleAbs(above, alpha=255 / (high - low), beta=-255 * low / (high - low))
    if max(image.shape) > _REDUCED:
        image = cv2.resize(image, (_REDUCED, _REDUCED), interpolation=_AREA)
    return _grey(image)


def _centred(image: GreyImage, top: float) -> GreyImage | None:
    """Return the image around the centroid of the head, scaled to its size; None if there is no head."""
    full = math.floor(_HEAD * top)
    head = cv2.threshold(cv2.resize(image, (_EDGE, _EDGE), interpolation=_AREA), full, 0, cv2.THRESH_TRUNC)[1]
    moments = cv2.moments(head)
    weight = moments["m00"]
    if not full or weight < _LEAST_HEAD * _EDGE * _EDGE * full:
        return None
    step = image.shape[0] / _EDGE
    x, y = ((moments[name] / weight + 0.5) * step - 0.5 for name in ("m10", "m01"))
    spread = step * math.sqrt((moments["mu20"] + moments["mu02"]) / weight)
    step = 2 * _REACH * spread / _FINE_EDGE
    middle = step * (_FINE_EDGE - 1) / 2
    matrix = np.array([[step, 0, x - middle], [0, step, y - middle]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return _grey(cv2.warpAffine(image, matrix, (_FINE_EDGE, _FINE_EDGE), flags=flags))


def _content(fine: GreyImage, top: float) -> FloatImage | None:
    """Return the differences of the brain from its local means, weighted, `(_EDGE, _EDGE)`; None if there is none."""
    air, bone = (share * top for share in _TISSUE)
    fine = _grey(cv2.threshold(fine, bone, 0, cv2.THRESH_TOZERO_INV)[1])
    fine = _grey(cv2.threshold(fine, air, 0, cv2.THRESH_TOZERO)[1])
    tissue = cv2.resize(cv2.threshold(fine, 0, 255, cv2.THRESH_BINARY)[1], (_EDGE, _EDGE), interpolation=_AREA)
    inner = cv2.LUT(cv2.blur(tissue, (_RIM, _RIM)), _INNER)
    if cv2.mean(inner)[0] < 255 * _LEAST_BRAIN:
        return None
    weights = inner.astype(np.float32)
    content = weights * cv2.resize(fine, (_EDGE, _EDGE), interpolation=_AREA)
    weights *= tissue
    means = _coarse(content) / np.maximum(_coarse(weights), _LEAST_WEIGHT * 255**2)
    weights *= cv2.resize(means, (_EDGE, _EDGE), interpolation=cv2.INTER_LINEAR)
    content -= weights
    spread = float(cv2.norm(content) / cv2.norm(inner))
    if not spread > 0:
        return None
    content *= 1 / (_LARGEST * 255 * spread)
    np.clip(content, -1, 1, out=content)
    return content


def _coarse(image: FloatImage) -> FloatImage:
    """Return `image`, reduced and blurred."""
    reduced = cv2.resize(image, (_COARSE_EDGE, _COARSE_EDGE), interpolation=_AREA)
    return np.asarray(cv2.GaussianBlur(reduced, (0, 0), _COARSE), np.float32)


def _grey(image: Any) -> GreyImage:
    return np.asarray(image, np.uint8)
