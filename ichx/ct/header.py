"""Parses the header of a CT slice: raw elements to a `SliceHeader` per frame, or to a named defect.

Not for the bytes (`ichx.ct.elements`) or the pixels (`ichx.ct.pixels`).
"""

import math
import re
from dataclasses import dataclass
from typing import Final, Literal

from ichx.ct import elements as tags
from ichx.ct.acquisition import image_type, read_acquisition
from ichx.ct.defects import LARGEST, MOST_FRAMES, SMALLEST, DicomDefectError
from ichx.ct.elements import UNDEFINED, Elements, Pixels, Values
from ichx.ct.fragments import held_frames
from ichx.ct.slice_header import SliceHeader
from ichx.ct.syntaxes import NATIVE, describe, remedy, supported

BRAIN_WINDOW: Final = (40.0, 80.0)
"""Default (centre, width) in HU for headers without a usable window."""

CT_CLASSES: Final = ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")
"""CT Image, Enhanced CT Image, and Legacy Converted Enhanced CT Image Storage."""

_CT = re.compile(r"^$|\bCT\b|COMPUTED TOMOGRAPHY", re.IGNORECASE)
"""Modalities of files whose SOP class is that of a CT image; some writers spell them out."""

LEAST_SLOPE: Final = 1e-9
LARGEST_SLOPE: Final = 1e4
LARGEST_INTERCEPT: Final = 1e6
"""Plausible absolute rescale values."""

LARGEST_POSITION: Final = 1e5
LEAST_SPACING, LARGEST_SPACING = 1e-3, 1e3
LARGEST_DIRECTION: Final = 1e3
LEAST_WIDTH, LARGEST_WINDOW = 1e-3, 1e6
"""Plausible positions and spacings in mm, components of directions, and windows in HU. Others count as missing."""

LARGEST_PIXELS: Final = 2**36
"""Bytes of all frames, uncompressed."""

_HU_TYPES = re.compile(r"(?:HU|HOUND?SFIELD.*)?", re.IGNORECASE)
_LIKE_HU = ("US", "HU_MOD")
_NOT_HU = ("OD", "MGML", "Z_EFF", "ED", "EDW", "PCT")
"""Rescale Types (DICOM PS3.3, C.11.1.1.2)."""


def all_headers(elements: Elements) -> list[SliceHeader]:
    """Return the header of each frame. Raises `DicomDefectError` if the file has no slice."""
    image, frames = _image(elements)
    if frames == 1:
        return [_slice(elements, image, 1, 1)]
    held = held_frames(elements, frames, image.frame_bytes if image.syntax in NATIVE else None)
    headers, first = [], None
    for frame in range(1, held + 1):
        try:
            headers.append(_slice(elements, image, frame, frames))
        except DicomDefectError as defect:
            first = first or defect
            headers.append(_refused(image, frame, defect))
    if held < frames:
        # One header for all missing frames: a number in a header must not fill a catalog.
        missing = DicomDefectError("truncated", f"{held:,} of {frames:,} frames")
        first = first or missing
        headers.append(_refused(image, held + 1, missing))
    if first is not None and all(header.defect for header in headers):
        raise first
    return headers


def one_header(elements: Elements, frame: int) -> tuple[SliceHeader, int]:
    """Return the header of `frame` (0 in a file with one) and the number of frames, or raise for its defect."""
    image, frames = _image(elements)
    if (frame == 0) != (frames == 1) or not 0 <= frame <= frames:
        requested = f"frame {frame}" if frame else "none"
        raise DicomDefectError("multi_frame", f"{frames} frames, {requested} of them requested")
    return _slice(elements, image, max(frame, 1), frames), frames


def file_ids(values: Values) -> tuple[str, str, str, str]:
    """Return the ids of slice, patient, study and series in the header; empty where they are missing."""
    ids = tuple(_text(values, tag) for tag in (tags.SLICE_ID, tags.PATIENT_ID, tags.STUDY_ID, tags.SERIES_ID))
    assert len(ids) == 4
    return ids


@dataclass(frozen=True)
class _Image:
    """What holds for all frames of a file."""

    ids: tuple[str, str, str, str]
    rows: int
    columns: int
    allocated: int
    stored: int
    signed: bool
    padding: int | None
    padding_limit: int | None
    shift: int
    syntax: str
    available: int | None
    assumptions: tuple[str, ...]

    @property
    def frame_bytes(self) -> int:
        """Bytes of an uncompressed frame."""
        return self.rows * self.columns * self.allocated // 8


def _image(elements: Elements) -> tuple[_Image, int]:
    """Return what holds for all frames, and their number; raise for the first thing that makes the file no CT slice."""
    values, pixels = elements.values, elements.pixels
    modality, sop_class = _text(values, tags.MODALITY), _text(values, tags.SOP_CLASS)
    if not (_CT.search(modality) if sop_class in CT_CLASSES else modality.upper() == "CT"):
        raise DicomDefectError("not_ct", f"modality {modality[:40]}" if modality else "no modality")
    if not _text(values, tags.SLICE_ID):
        raise DicomDefectError("no_slice_id")
    _check_type(values, tags.IMAGE_TYPE)
    available = 0 if pixels is None else _available(elements, pixels)
    if pixels is None or available == 0:
        raise DicomDefectError("no_pixels")
    if pixels.floating:
        raise DicomDefectError("unsupported_pixels", "floating point")
    if sop_class and sop_class not in CT_CLASSES:
        raise DicomDefectError("not_ct", f"SOP class {describe(sop_class)}")
    rows, columns = _integer(elements, tags.ROWS) or 0, _integer(elements, tags.COLUMNS) or 0
    if not (SMALLEST <= rows <= LARGEST and SMALLEST <= columns <= LARGEST):
        raise DicomDefectError("absurd_size", f"{rows} rows x {columns} columns")
    count = _numbers(values, tags.FRAMES, 1)
    frames = int(max(1.0, count[0])) if count else 1
    if frames > MOST_FRAMES:
        raise DicomDefectError("absurd_size", f"{frames} frames")
    allocated, stored = _bits(elements)
    if frames * rows * columns * allocated // 8 > LARGEST_PIXELS:
        raise DicomDefectError("absurd_size", f"{frames:,} frames of {rows} rows x {columns} columns")
    if elements.modality_lut:
        raise DicomDefectError("modality_lut")
    if not supported(elements.syntax):
        raise DicomDefectError("unsupported_syntax", f"{describe(elements.syntax)}: {remedy(elements.syntax)}")
    expected = rows * columns * allocated // 8
    if pixels.length == UNDEFINED and elements.syntax in NATIVE and (available is None or available >= expected):
        raise DicomDefectError("undecodable", f"pixels of undefined length in {describe(elements.syntax)}")
    signed = _integer(elements, tags.SIGNED) == 1
    padding = _integer(elements, tags.PADDING, signed=signed)
    limit = None if padding is None else _integer(elements, tags.PADDING_LIMIT, signed=signed)
    high_bit = _integer(elements, tags.HIGH_BIT)
    assumed = {
        "bit_layout": high_bit not in (None, stored - 1),
        "padding_bits": padding is not None and not _fits(padding, stored, signed=signed),
        "padding_range": limit not in (None, padding),
        "encoding": elements.encoding_assumed,
    }
    image = _Image(
        ids=file_ids(values),
        rows=rows,
        columns=columns,
        allocated=allocated,
        stored=stored,
        signed=signed,
        padding=padding,
        padding_limit=limit,
        shift=high_bit + 1 - stored if high_bit is not None and stored <= high_bit < allocated else 0,
        syntax=elements.syntax,
        available=available,
        assumptions=tuple(name for name, holds in assumed.items() if holds),
    )
    return image, frames


def _available(elements: Elements, pixels: Pixels) -> int | None:
    """Return how many bytes of pixels there are; None where only reading on would show it."""
    size = elements.window.stream.size
    if size is None:
        return None if pixels.length == UNDEFINED else pixels.length
    return max(0, min(pixels.length, size - pixels.offset))  # an undefined length is the largest number


def _bits(elements: Elements) -> tuple[int, int]:
    """Return the bits allocated and stored of grey pixels."""
    photometric = _text(elements.values, tags.PHOTOMETRIC)
    if photometric == "MONOCHROME1":
        raise DicomDefectError("monochrome1")
    allocated = _integer(elements, tags.ALLOCATED) or 0
    stored = _integer(elements, tags.STORED) or allocated
    if photometric != "MONOCHROME2" or _integer(elements, tags.SAMPLES) not in (1, None):
        raise DicomDefectError("unsupported_pixels", photometric[:20] or "no photometric interpretation")
    if allocated not in (8, 16, 32) or not 1 <= stored <= allocated:
        raise DicomDefectError("unsupported_pixels", f"{stored} of {allocated} bits")
    return allocated, stored


def _slice(elements: Elements, image: _Image, frame: int, frames: int) -> SliceHeader:
    """Return the header of `frame` (from 1), or raise for what makes it no slice."""
    values = elements.of_frame(frame)
    _check_type(values, tags.FRAME_TYPE)
    slope, intercept = _rescale(values, tags.SLOPE), _rescale(values, tags.INTERCEPT)
    if slope is not None and not LEAST_SLOPE <= abs(slope) <= LARGEST_SLOPE:
        raise DicomDefectError("bad_rescale", f"slope {slope:g}")
    if intercept is not None and abs(intercept) > LARGEST_INTERCEPT:
        raise DicomDefectError("bad_rescale", f"intercept {intercept:g}")
    if intercept is None and not image.signed and image.syntax in NATIVE:
        raise DicomDefectError("bad_rescale", "no rescale intercept, and unsigned values are not HU")
    assumed = [
        *(["rescale_missing"] if slope is None or intercept is None else []),
        *_assumed_type(values),
        *image.assumptions,
    ]
    expected = image.frame_bytes
    if image.available is not None and image.syntax in NATIVE and image.available < frame * expected:
        raise DicomDefectError("truncated", f"{image.available} of {frame * expected} bytes")
    centre = _numbers(values, tags.CENTRE, 1, LARGEST_WINDOW)
    width = _numbers(values, tags.WIDTH, 1, LARGEST_WINDOW)
    window = (centre[0], width[0]) if centre and width and width[0] >= LEAST_WIDTH else None
    orientation = _numbers(values, tags.ORIENTATION, 6, LARGEST_DIRECTION)
    if orientation is not None and not _across(orientation[:3], orientation[3:]):
        orientation = None
    # If frames have no positions, that of the file may belong to any of them.
    own = elements.values if frames == 1 else {}
    place = own | elements.shared | (elements.frames[frame - 1] if frame <= len(elements.frames) else {})
    spacing = _numbers(values, tags.SPACING, 2, LARGEST_SPACING)
    slice_id, patient_id, study_id, series_id = image.ids
    return SliceHeader(
        slice_id=slice_id if frames == 1 else f"{slice_id}#{frame}",
        patient_id=patient_id,
        study_id=study_id,
        series_id=series_id,
        instance_number=_instance_number(values) if frames == 1 else frame,
        rows=image.rows,
        columns=image.columns,
        bits_allocated=image.allocated,
        bits_stored=image.stored,
        signed=image.signed,
        padding=image.padding,
        slope=1.0 if slope is None else slope,
        intercept=0.0 if intercept is None else intercept,
        window=window or BRAIN_WINDOW,
        window_missing=window is None,
        position=_numbers(place, tags.POSITION, 3, LARGEST_POSITION),
        orientation=orientation,
        spacing=spacing if spacing and min(spacing) >= LEAST_SPACING else None,
        transfer_syntax=image.syntax,
        frame=0 if frames == 1 else frame,
        assumptions=tuple(assumed),
        padding_limit=image.padding_limit,
        shift=image.shift,
        acquisition=read_acquisition(values),
        image_type=image_type(values),
    )


def _refused(image: _Image, frame: int, defect: DicomDefectError) -> SliceHeader:
    """Return the header of a frame that is not a slice: the values of the file, and the reason."""
    slice_id, patient_id, study_id, series_id = image.ids
    return SliceHeader(
        slice_id=f"{slice_id}#{frame}",
        patient_id=patient_id,
        study_id=study_id,
        series_id=series_id,
        instance_number=frame,
        rows=image.rows,
        columns=image.columns,
        bits_allocated=image.allocated,
        bits_stored=image.stored,
        signed=image.signed,
        padding=image.padding,
        slope=1.0,
        intercept=0.0,
        window=BRAIN_WINDOW,
        window_missing=True,
        position=None,
        orientation=None,
        spacing=None,
        transfer_syntax=image.syntax,
        frame=frame,
        defect=defect.reason,
        detail=defect.detail,
    )


def _check_type(values: Values, tag: int) -> None:
    if "LOCALIZER" in _text(values, tag).upper().split("\\"):
        raise DicomDefectError("localizer")


def _instance_number(values: Values) -> int | None:
    number = _numbers(values, tags.INSTANCE_NUMBER, 1)
    return int(number[0]) if number and abs(number[0]) < 2**31 else None


def _text(values: Values, tag: int) -> str:
    raw = values.get(tag)
    return raw.decode("latin-1").strip(" \0\t\r\n") if raw else ""


def _numbers(values: Values, tag: int, count: int, largest: float = math.inf) -> tuple[float, ...] | None:
    """Return the first `count` decimal numbers; None if they are missing, not finite, or one exceeds `largest`."""
    text = _text(values, tag)
    if not text:
        return None
    try:
        numbers = tuple(float(part) for part in text.split("\\")[:count])
    except ValueError:
        return None
    plausible = all(map(math.isfinite, numbers)) and max(map(abs, numbers)) <= largest
    return numbers if len(numbers) == count and plausible and "_" not in text else None


def _integer(elements: Elements, tag: int, *, signed: bool = False) -> int | None:
    """Return the first binary integer (US or SS, two bytes), or None."""
    value = elements.values.get(tag, b"")[:2]
    order: Literal["big", "little"] = "big" if elements.big else "little"
    return int.from_bytes(value, order, signed=signed) if len(value) == 2 else None


def _across(row: tuple[float, ...], column: tuple[float, ...]) -> bool:
    """Whether the two are directions across each other, of about unit length."""
    row_length, column_length = math.hypot(*row), math.hypot(*column)
    along = sum(a * b for a, b in zip(row, column, strict=True))
    return min(row_length, column_length) > 0.5 and abs(along) < 0.5 * row_length * column_length


def _rescale(values: Values, tag: int) -> float | None:
    text = _text(values, tag)
    if not text:
        return None
    value = _numbers(values, tag, 1)
    if value is None:
        raise DicomDefectError("bad_rescale", f"{text[:40]!r} is not a number")
    return value[0]


def _assumed_type(values: Values) -> list[str]:
    """Return the assumption about the Rescale Type, if any. Raises `DicomDefectError` for another unit than HU."""
    unit = _text(values, tags.RESCALE_TYPE).split("\\")[0].strip().upper()
    if _HU_TYPES.fullmatch(unit):
        return []
    if unit in _NOT_HU:
        raise DicomDefectError("not_hu", f"Rescale Type {unit}")
    return ["rescale_type" if unit in _LIKE_HU else "rescale_type_unknown"]


def _fits(value: int, bits: int, *, signed: bool) -> bool:
    """Whether `value` can be stored in `bits`."""
    limit = 1 << (bits - 1)
    return -limit <= value < limit if signed else value < 2 * limit
