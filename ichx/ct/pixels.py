"""Converts stored bytes to Hounsfield units: unused bits, signs, rescale, padding, RSNA's wrong intercepts."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ichx.ct.decoding import Decoded, decode
from ichx.ct.defects import DicomDefectError
from ichx.ct.header import SliceHeader
from ichx.ct.syntaxes import CODECS, EXPLICIT_BIG, LOSSLESS

AIR: Final = -1024
"""HU of air, and of everything darker: padding and the area outside the scan circle."""

_BLOCK: Final = 2**15
"""Pixels per block: they fit into the processor's cache, and large slices take no more memory."""


@dataclass(frozen=True)
class DecodedSlice:
    """A slice as `hu`, `(rows, columns)` int16 from -1024 up; if `repaired`, its header has the repaired intercept."""

    header: SliceHeader
    hu: npt.NDArray[np.int16]
    repaired: bool


def stored_values(header: SliceHeader, raw: bytes) -> npt.NDArray[Any]:
    """Return the stored values of a frame's bytes, `(rows, columns)` integers with their signs.

    Raises:
        DicomDefectError: The compressed bytes cannot be decoded.
    """
    codec = CODECS.get(header.transfer_syntax)
    if codec is not None:
        decoded = decode(codec, raw, header.rows, header.columns, header.bits_allocated // 8)
        return _with_signs(decoded, header)
    if len(raw) < header.frame_bytes:
        raise DicomDefectError("truncated", f"{len(raw)} of {header.frame_bytes} bytes")
    order = ">" if header.transfer_syntax == EXPLICIT_BIG else "<"
    kind = "i" if header.signed else "u"
    flat = np.frombuffer(raw, f"{order}{kind}{header.bits_allocated // 8}", header.rows * header.columns)
    return _used_bits(flat, header.bits_stored).reshape(header.rows, header.columns)


def to_slice(header: SliceHeader, stored: npt.NDArray[Any]) -> DecodedSlice:
    """Return the slice in HU with a repaired intercept. Raises `DicomDefectError` if it is constant."""
    hu = _to_hu(stored, header)
    repaired = False
    if header.intercept_suspect and not _plausible(hu):
        moved = stored.astype(np.int32) + 1000
        moved[moved >= 4096] -= 4096
        candidate = dataclasses.replace(header, intercept=-1000.0)
        other = _to_hu(moved, candidate)
        if _plausible(other):
            header, hu, repaired = candidate, other, True
    if header.padding is not None:
        # Header and codestream may disagree about the sign, so compare bits.
        hu[stored == header.padding] = AIR
        if stored.dtype.kind == "i" and not header.signed:
            low = 2 ** min(header.bits_stored, 8 * stored.itemsize) - 1
            hu[(stored.view(stored.dtype.str.replace("i", "u")) & low) == (header.padding & low)] = AIR
    if hu.min() == hu.max():
        raise DicomDefectError("constant_image", f"every pixel is {hu.flat[0]} HU")
    return DecodedSlice(header, hu, repaired)


def _with_signs(decoded: Decoded, header: SliceHeader) -> npt.NDArray[Any]:
    """Return decoded values as the header defines them, in case it and the codestream disagree.

    JPEG, JPEG-LS and RLE have no signs, and some JPEG 2000 writers omit them: then the header declares two's
    complement. Values that the codestream declares as signed are signed (DICOM PS3.5, 8.2.1).
    """
    values = decoded.values
    if values.dtype.kind == "i":
        return _used_bits(values, header.bits_stored) if header.signed and _exact(header) else values
    if header.signed:
        bits = min(decoded.precision, header.bits_stored)
        return _used_bits(values.view(values.dtype.str.replace("u", "i")), bits)
    return _used_bits(values, header.bits_stored) if _exact(header) else values


def _exact(header: SliceHeader) -> bool:
    """Return whether unused bits are distinguishable from values that a lossy codec has moved beyond the range."""
    return header.transfer_syntax in LOSSLESS


def _used_bits(values: npt.NDArray[Any], bits: int) -> npt.NDArray[Any]:
    """Return `values` with only the low `bits`, which may include a sign; other bits may contain overlays."""
    unused = 8 * values.dtype.itemsize - bits
    return (values << unused) >> unused if unused > 0 else values


def _to_hu(stored: npt.NDArray[Any], header: SliceHeader) -> npt.NDArray[np.int16]:
    # Single precision is exact for integer products below 2^24, and twice as fast.
    integer = header.slope.is_integer() and header.intercept.is_integer()
    small = stored.itemsize <= 2 and abs(header.slope) <= 64 and abs(header.intercept) < 2**22
    number = np.float32 if integer and small else np.float64
    hu = np.empty(stored.shape, np.int16)
    block = max(1, _BLOCK // stored.shape[1])
    with np.errstate(over="ignore"):
        for start in range(0, len(stored), block):
            values: npt.NDArray[np.floating[Any]] = stored[start : start + block].astype(number)
            values *= header.slope
            values += header.intercept
            np.rint(values, out=values)
            np.clip(values, AIR, np.iinfo(np.int16).max, out=values)
            hu[start : start + block] = values
    return hu


def _plausible(hu: npt.NDArray[np.int16]) -> bool:
    """Return whether at least 1 % of the pixels are air, as on any head CT."""
    return bool(np.count_nonzero(hu < -500) >= 0.01 * hu.size)
