"""A slice's stored bytes to Hounsfield units: unused bits, signs, rescale, padding, and the wrong intercept of RSNA."""

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
"""HU of air, and of everything that is darker: padding, and what lies outside the scanner's circle."""

_BLOCK: Final = 2**15
"""Pixels that are computed at a time: they stay in the processor's cache, and a large slice takes no more memory."""


@dataclass(frozen=True)
class DecodedSlice:
    """A slice as `hu`, (rows, columns) int16 from -1024 up; its header has the repaired intercept where `repaired`."""

    header: SliceHeader
    hu: npt.NDArray[np.int16]
    repaired: bool


def stored_values(header: SliceHeader, raw: bytes) -> npt.NDArray[Any]:
    """Return the stored values, (rows, columns) integers with their signs, of a frame's bytes.

    Raises `DicomDefectError` where compressed bytes cannot be decoded.
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
    """Return the slice in HU, its wrong intercept repaired. Raises `DicomDefectError` where it is constant."""
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
        # Header and codestream may disagree about the sign, so what counts is the bits.
        hu[stored == header.padding] = AIR
        if stored.dtype.kind == "i" and not header.signed:
            low = 2 ** min(header.bits_stored, 8 * stored.itemsize) - 1
            hu[(stored.view(stored.dtype.str.replace("i", "u")) & low) == (header.padding & low)] = AIR
    if hu.min() == hu.max():
        raise DicomDefectError("constant_image", f"every pixel is {hu.flat[0]} HU")
    return DecodedSlice(header, hu, repaired)


def _with_signs(decoded: Decoded, header: SliceHeader) -> npt.NDArray[Any]:
    """Return decoded values as the header means them, where it and the codestream disagree.

    JPEG, JPEG-LS and RLE know no signs, and some writers of JPEG 2000 forget them: then the header says that the bits
    are two's complement. Values that a codestream calls signed are taken at its word (DICOM PS3.5, 8.2.1).
    """
    values = decoded.values
    if values.dtype.kind == "i":
        return _used_bits(values, header.bits_stored) if header.signed and _exact(header) else values
    if header.signed:
        bits = min(decoded.precision, header.bits_stored)
        return _used_bits(values.view(values.dtype.str.replace("u", "i")), bits)
    return _used_bits(values, header.bits_stored) if _exact(header) else values


def _exact(header: SliceHeader) -> bool:
    """Whether unused bits can be told from values that a lossy codec has moved over the edge."""
    return header.transfer_syntax in LOSSLESS


def _used_bits(values: npt.NDArray[Any], bits: int) -> npt.NDArray[Any]:
    """Return `values` with only the low `bits`, which may carry a sign; the others may hold overlays."""
    unused = 8 * values.dtype.itemsize - bits
    return (values << unused) >> unused if unused > 0 else values


def _to_hu(stored: npt.NDArray[Any], header: SliceHeader) -> npt.NDArray[np.int16]:
    # Single precision is exact where the products are whole numbers below 2^24, and twice as fast.
    whole = header.slope.is_integer() and header.intercept.is_integer()
    small = stored.itemsize <= 2 and abs(header.slope) <= 64 and abs(header.intercept) < 2**22
    number = np.float32 if whole and small else np.float64
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
    """Whether at least 1 % of the pixels are air, as on any CT of a head."""
    return bool(np.count_nonzero(hu < -500) >= 0.01 * hu.size)
