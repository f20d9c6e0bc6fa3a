"""Converts stored bytes to Hounsfield units: unused bits, signs, rescale, padding, RSNA's wrong intercepts."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ichx.ct.decoding import Decoded, decode
from ichx.ct.defects import DicomDefectError
from ichx.ct.slice_header import SliceHeader
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


@dataclass(frozen=True)
class StoredPixels:
    """The stored `values` `(rows, columns)` of a frame, integers with their signs, and which of them are `padding`."""

    values: npt.NDArray[Any]
    padding: npt.NDArray[np.bool_] | None


def stored_pixels(header: SliceHeader, raw: bytes) -> StoredPixels:
    """Return the stored values in a frame's bytes.

    Raises:
        DicomDefectError: The compressed bytes cannot be decoded.
    """
    codec = CODECS.get(header.transfer_syntax)
    if codec is not None:
        frame = (header.slice_id.rpartition("#")[0], header.frame) if header.frame else None
        decoded = decode(codec, raw, header.rows, header.columns, header.bits_allocated // 8, frame)
        words, values = decoded.values, _with_signs(decoded, header)
        return StoredPixels(values, _padding(header, words, values))
    if len(raw) < header.frame_bytes:
        raise DicomDefectError("truncated", f"{len(raw)} of {header.frame_bytes} bytes")
    order = ">" if header.transfer_syntax == EXPLICIT_BIG else "<"
    kind = "i" if header.signed else "u"
    flat = np.frombuffer(raw, f"{order}{kind}{header.bits_allocated // 8}", header.rows * header.columns)
    words = flat.reshape(header.rows, header.columns)
    values = _used_bits(words, header.bits_stored, _shift(header, words))
    return StoredPixels(values, _padding(header, words, values))


def to_slice(header: SliceHeader, pixels: StoredPixels) -> DecodedSlice:
    """Return the slice in HU with a repaired intercept.

    Raises:
        DicomDefectError: The slice is constant, or its values are not HU.
    """
    stored = pixels.values
    hu = values_to_hu(stored, header.slope, header.intercept)
    repaired = False
    if header.intercept_suspect and not _plausible(hu):
        moved = stored.astype(np.int32) + 1000
        moved[moved >= 4096] -= 4096
        candidate = dataclasses.replace(header, intercept=-1000.0)
        other = values_to_hu(moved, candidate.slope, candidate.intercept)
        if _plausible(other):
            header, stored, hu, repaired = candidate, moved, other, True
    if pixels.padding is not None:
        hu[pixels.padding] = AIR
    if hu.min() == hu.max():
        raise DicomDefectError("constant_image", f"every pixel is {hu.flat[0]} HU")
    if header.unproven:
        measured = stored if pixels.padding is None else stored[~pixels.padding]
        if not plainly_hu(measured * header.slope + header.intercept):
            missing = "rescale_missing" in header.assumptions
            why = "the rescale slope or intercept is missing" if missing else "the Rescale Type is unknown"
            raise DicomDefectError("bad_rescale" if missing else "not_hu", f"{why}, and the values are not plainly HU")
    return DecodedSlice(header, hu, repaired)


def _with_signs(decoded: Decoded, header: SliceHeader) -> npt.NDArray[Any]:
    """Return decoded values as the header defines them, in case it and the codestream disagree.

    JPEG, JPEG-LS and RLE have no signs, and some JPEG 2000 writers omit them: then the header declares two's
    complement. Values that the codestream declares as signed are signed (DICOM PS3.5, 8.2.1).
    """
    values = decoded.values
    if shift := _shift(header, values):
        return _used_bits(_as(values, "i" if header.signed else "u"), header.bits_stored, shift)
    if values.dtype.kind == "i":
        return _used_bits(values, header.bits_stored) if header.signed and _exact(header) else values
    if header.signed:
        bits = min(decoded.precision, header.bits_stored)
        return _used_bits(_as(values, "i"), bits)
    return _used_bits(values, header.bits_stored) if _exact(header) else values


def _exact(header: SliceHeader) -> bool:
    """Return whether unused bits are distinguishable from values that a lossy codec has moved beyond the range."""
    return header.transfer_syntax in LOSSLESS


def _used_bits(values: npt.NDArray[Any], bits: int, shift: int = 0) -> npt.NDArray[Any]:
    """Return `values` with only the `bits` above `shift`, which may include a sign; others may contain overlays."""
    unused = 8 * values.dtype.itemsize - bits
    return (values << (unused - shift)) >> unused if unused > 0 else values


def _shift(header: SliceHeader, words: npt.NDArray[Any]) -> int:
    """Return how many bits lie below the stored ones: none if all `words` fit the lower bits, whatever HighBit is."""
    if not header.shift or 8 * words.itemsize < header.shift + header.bits_stored:
        return 0
    padding = _in_padding(header, words)
    measured = words if padding is None else words[~padding]
    if not measured.size:
        return 0
    signed = _as(measured, "i")
    limit = 2 ** (header.bits_stored - 1)
    fits = header.signed and -limit <= signed.min() and signed.max() < limit
    return 0 if fits or _as(measured, "u").max() < 2 * limit else header.shift


def _padding(header: SliceHeader, words: npt.NDArray[Any], values: npt.NDArray[Any]) -> npt.NDArray[np.bool_] | None:
    """Return which pixels are padding, by their `values` or by their `words`, which have all allocated bits."""
    if header.padding is None:
        return None
    found = _between(values, *_padding_range(header))
    if header.bits_stored < 16 and (complete := _in_padding(header, words)) is not None:
        found |= complete
    if values.dtype.kind == "i" and not header.signed:
        # Header and codestream disagree about the sign, so compare bits.
        low_bits = 2 ** min(header.bits_stored, 8 * values.itemsize) - 1
        found |= (_as(values, "u") & low_bits) == (header.padding & low_bits)
    return found


def _in_padding(header: SliceHeader, words: npt.NDArray[Any]) -> npt.NDArray[np.bool_] | None:
    """Return which 16-bit `words` are padding; None without a padding value, or for words of another size."""
    if header.padding is None or words.itemsize != 2:
        return None
    return _between(_as(words, "i" if header.signed else "u"), *_padding_range(header))


def _padding_range(header: SliceHeader) -> tuple[int, int]:
    assert header.padding is not None
    limit = header.padding if header.padding_limit is None else header.padding_limit
    return min(header.padding, limit), max(header.padding, limit)


def _between(values: npt.NDArray[Any], low: int, high: int) -> npt.NDArray[np.bool_]:
    return values == low if low == high else (values >= low) & (values <= high)


def _as(values: npt.NDArray[Any], kind: str) -> npt.NDArray[Any]:
    """Return the same bits as integers with (i) or without (u) a sign."""
    return values.view(values.dtype.str.replace(values.dtype.kind, kind))


def values_to_hu(stored: npt.NDArray[Any], slope: float, intercept: float) -> npt.NDArray[np.int16]:
    """Return `slope * stored + intercept` as HU, rounded and clamped to -1024..32767; what is not a number is air."""
    # Single precision is exact for integer products below 2^24, and twice as fast.
    integer = slope.is_integer() and intercept.is_integer() and stored.dtype.kind != "f"
    small = stored.itemsize <= 2 and abs(slope) <= 64 and abs(intercept) < 2**22
    number = np.float32 if integer and small else np.float64
    hu = np.empty(stored.shape, np.int16)
    block = max(1, _BLOCK // stored.shape[1])
    with np.errstate(over="ignore"):
        for start in range(0, len(stored), block):
            values: npt.NDArray[np.floating[Any]] = stored[start : start + block].astype(number)
            values *= slope
            values += intercept
            np.rint(values, out=values)
            if stored.dtype.kind == "f":
                values[np.isnan(values)] = AIR
            np.clip(values, AIR, np.iinfo(np.int16).max, out=values)
            hu[start : start + block] = values
    return hu


def _plausible(hu: npt.NDArray[np.int16]) -> bool:
    """Return whether at least 1 % of the pixels are air, as on any head CT."""
    return bool(np.count_nonzero(hu < -500) >= 0.01 * hu.size)


def plainly_hu(values: npt.NDArray[np.floating[Any]]) -> bool:
    """Return whether `values` are HU beyond doubt: some are those of air, and a body is partly soft tissue.

    Of those over -1200 at least 1 % lie below -800. If a body (over -700) fills a tenth, a fifth of it lies between
    -150 and 150.
    """
    known = values[values > -1200]
    air, body = np.count_nonzero(known < -800), np.count_nonzero(known > -700)
    soft = np.count_nonzero((known > -150) & (known < 150))
    return bool(air >= 0.01 * known.size > 0 and (body < 0.1 * known.size or soft >= 0.2 * body))
