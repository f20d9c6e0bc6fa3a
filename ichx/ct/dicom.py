"""One DICOM file to a CT slice in Hounsfield units, or to a named defect.

Values are taken from the raw bytes of the few elements that are needed: names and free text are never read, and invalid
values (RSNA's `ID_...` UIDs) raise no warnings. Not for folders of files (`ichx.data.ingest`) or windows
(`ichx.ct.windows`).
"""

import dataclasses
import math
import os
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, Final, Literal

import imagecodecs
import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.encaps import generate_frames
from pydicom.errors import InvalidDicomError
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
)

AIR: Final = -1024
"""HU of air, and of everything that is darker: padding, and what lies outside the scanner's circle."""

BRAIN_WINDOW: Final = (40.0, 80.0)
"""(centre, width) in HU that stands in for a header without a usable window."""

SMALLEST, LARGEST = 16, 8192
"""Rows and columns outside these are no CT slice."""

DEFECTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "unreadable": "the operating system cannot read the file",
        "not_dicom": "not a DICOM file (no DICM prefix)",
        "damaged_header": "the header cannot be parsed",
        "no_slice_id": "no SOPInstanceUID",
        "not_ct": "another modality, or an object that is no CT image",
        "localizer": "a localizer (scout), not an axial slice",
        "multi_frame": "several frames in one file",
        "monochrome1": "MONOCHROME1: inverted grey values, which are no HU",
        "unsupported_pixels": "colour, floating point, or an impossible number of bits",
        "absurd_size": f"rows or columns missing or outside {SMALLEST} to {LARGEST}",
        "bad_rescale": "rescale slope or intercept is zero, or not a number",
        "no_pixels": "no PixelData",
        "truncated": "PixelData is shorter than rows x columns",
        "unsupported_syntax": "no decoder for the transfer syntax",
        "undecodable": "the compressed pixels cannot be decoded",
        "constant_image": "every pixel has the same value",
        "duplicate_instance": "another file, earlier by path, has the same SOPInstanceUID",
        "no_label": "the label CSV does not speak of this slice",
    }
)
"""Each reason for which a file is refused, and what it means. The last two only a whole dataset can show."""

IMAGE_TYPE, SOP_CLASS, SLICE_ID, MODALITY = 0x00080008, 0x00080016, 0x00080018, 0x00080060
PATIENT_ID, STUDY_ID, SERIES_ID, INSTANCE_NUMBER = 0x00100020, 0x0020000D, 0x0020000E, 0x00200013
POSITION, ORIENTATION, SPACING = 0x00200032, 0x00200037, 0x00280030
SAMPLES, PHOTOMETRIC, FRAMES, ROWS, COLUMNS = 0x00280002, 0x00280004, 0x00280008, 0x00280010, 0x00280011
ALLOCATED, STORED, SIGNED, PADDING = 0x00280100, 0x00280101, 0x00280103, 0x00280120
CENTRE, WIDTH, INTERCEPT, SLOPE = 0x00281050, 0x00281051, 0x00281052, 0x00281053
PIXELS, FLOAT_PIXELS, DOUBLE_PIXELS = 0x7FE00010, 0x7FE00008, 0x7FE00009

HEADER_TAGS: Final = [
    *(IMAGE_TYPE, SOP_CLASS, SLICE_ID, MODALITY, PATIENT_ID, STUDY_ID, SERIES_ID, INSTANCE_NUMBER),
    *(POSITION, ORIENTATION, SPACING, SAMPLES, PHOTOMETRIC, FRAMES, ROWS, COLUMNS),
    *(ALLOCATED, STORED, SIGNED, PADDING, CENTRE, WIDTH, INTERCEPT, SLOPE),
]
"""The only elements whose values are read."""

CT_CLASSES: Final = ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")
"""CT Image, Enhanced CT Image, and Legacy Converted Enhanced CT Image Storage."""

NATIVE: Final = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)
"""Transfer syntaxes whose pixels stand in the file as they are, once the file is inflated."""

LOSSY_JPEG: Final = (JPEGBaseline8Bit, JPEGExtended12Bit, "1.2.840.10008.1.2.4.53", "1.2.840.10008.1.2.4.55")
"""JPEG of 8 and 12 bits, sequential and progressive: gdcm does not decode 12 bits, imagecodecs decodes all."""


class DicomDefectError(Exception):
    """The file is no usable CT slice: `reason` is a key of `DEFECTS`, `detail` says what was found."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail or DEFECTS[reason]}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type["DicomDefectError"], tuple[str, str]]:
        """Keep both parts when the error crosses a process boundary."""
        return type(self), (self.reason, self.detail)


@dataclass(frozen=True)
class SliceHeader:
    """What the header of one slice says. Missing ids are empty; `position` and `spacing` (row, column) in mm.

    `window` is the (centre, width) in HU that counts: the file's first, or the brain window where `window_missing`.
    `padding` is the stored value that stands for no measurement.
    """

    slice_id: str
    patient_id: str
    study_id: str
    series_id: str
    instance_number: int | None
    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    signed: bool
    padding: int | None
    slope: float
    intercept: float
    window: tuple[float, float]
    window_missing: bool
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    transfer_syntax: str

    @property
    def intercept_suspect(self) -> bool:
        """Whether the header is of the family in which some RSNA files carry a wrong intercept."""
        return self.bits_stored == 12 and not self.signed and self.intercept > -100


@dataclass(frozen=True)
class DecodedSlice:
    """A slice as `hu`, (rows, columns) int16 from -1024 up; its header has the repaired intercept where `repaired`."""

    header: SliceHeader
    hu: npt.NDArray[np.int16]
    repaired: bool


def read_header(source: Path | BinaryIO) -> SliceHeader:
    """Return the header of the slice in `source`, reading no pixels.

    Raises `DicomDefectError` for what the header and the file's size show.
    """
    with _opened(source) as handle:
        dataset = _parse(handle, pixels=False)
        syntax = _syntax(dataset)
        # The position in a deflated file is one in its inflated stream: there only decoding shows what is missing.
        length = None if syntax == DeflatedExplicitVRLittleEndian else _pixel_bytes(handle, syntax)
    header = _header(dataset, has_pixels=length != 0)
    if length is not None and syntax in NATIVE:
        _check_length(header, length)
    return header


def read_slice(source: Path | BinaryIO) -> DecodedSlice:
    """Return the slice in `source` in HU: `slope * stored + intercept`, rounded, clamped to -1024..32767.

    Padding is -1024. A wrong intercept of the RSNA kind is repaired. Raises `DicomDefectError` for anything else.
    """
    with _opened(source) as handle:
        dataset = _parse(handle, pixels=True)
    raw = _bytes(dataset, PIXELS)
    header = _header(dataset, has_pixels=bool(raw))
    stored = _stored_values(header, raw)
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
        hu[stored == header.padding] = AIR
    if hu.min() == hu.max():
        raise DicomDefectError("constant_image", f"every pixel is {hu.flat[0]} HU")
    return DecodedSlice(header, hu, repaired)


def _opened(source: Path | BinaryIO) -> Any:
    if not isinstance(source, Path):
        return nullcontext(source)
    try:
        return source.open("rb")
    except OSError as error:
        raise DicomDefectError("unreadable", error.strerror or str(error)) from error


def _parse(handle: BinaryIO, *, pixels: bool) -> pydicom.FileDataset:
    tags: list[Any] = [*HEADER_TAGS, PIXELS] if pixels else HEADER_TAGS
    try:
        return pydicom.dcmread(handle, stop_before_pixels=not pixels, specific_tags=tags)
    except InvalidDicomError as error:
        raise DicomDefectError("not_dicom") from error
    except OSError as error:
        raise DicomDefectError("unreadable", error.strerror or str(error)) from error
    except Exception as error:  # a damaged file makes the parser fail in any way
        raise DicomDefectError("damaged_header", f"{type(error).__name__}: {error}") from error


def _syntax(dataset: pydicom.FileDataset) -> str:
    """Return the transfer syntax; a file that names none is read as what the parser guessed."""
    try:
        named = dataset.file_meta.get("TransferSyntaxUID")
    except Exception as error:  # a damaged element fails when it is converted
        raise DicomDefectError("damaged_header", f"{type(error).__name__}: {error}") from error
    if named:
        return str(named)
    implicit, little = dataset.original_encoding
    return str(ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian)


def _header(dataset: pydicom.FileDataset, *, has_pixels: bool) -> SliceHeader:
    """Return the header, or raise for the first thing in it that makes the file no CT slice."""
    modality, sop_class = _text(dataset, MODALITY), _text(dataset, SOP_CLASS)
    photometric, frames = _text(dataset, PHOTOMETRIC), _numbers(dataset, FRAMES, 1)
    if modality != "CT" and (modality or sop_class not in CT_CLASSES):
        raise DicomDefectError("not_ct", f"modality {modality!r}")
    if not _text(dataset, SLICE_ID):
        raise DicomDefectError("no_slice_id")
    if "LOCALIZER" in _text(dataset, IMAGE_TYPE).upper().split("\\"):
        raise DicomDefectError("localizer")
    if not has_pixels:
        raise DicomDefectError("no_pixels")
    if sop_class and sop_class not in CT_CLASSES:
        raise DicomDefectError("not_ct", f"SOP class {sop_class}")
    rows, columns = _integer(dataset, ROWS) or 0, _integer(dataset, COLUMNS) or 0
    if not (SMALLEST <= rows <= LARGEST and SMALLEST <= columns <= LARGEST):
        raise DicomDefectError("absurd_size", f"{rows} rows x {columns} columns")
    if frames is not None and frames[0] > 1:
        raise DicomDefectError("multi_frame", f"{frames[0]:.0f} frames")
    if photometric == "MONOCHROME1":
        raise DicomDefectError("monochrome1")
    allocated = _integer(dataset, ALLOCATED) or 0
    stored = _integer(dataset, STORED) or allocated
    samples = _integer(dataset, SAMPLES)
    if photometric != "MONOCHROME2" or samples not in (1, None):
        raise DicomDefectError("unsupported_pixels", f"{photometric or 'no photometric interpretation'}")
    if allocated not in (8, 16, 32) or not 1 <= stored <= allocated:
        raise DicomDefectError("unsupported_pixels", f"{stored} of {allocated} bits")
    signed = _integer(dataset, SIGNED) == 1
    slope, intercept = _rescale(dataset, SLOPE, 1.0), _rescale(dataset, INTERCEPT, 0.0)
    if slope == 0:
        raise DicomDefectError("bad_rescale", "slope 0")
    centre, width = _numbers(dataset, CENTRE, 1), _numbers(dataset, WIDTH, 1)
    window = (centre[0], width[0]) if centre and width and width[0] > 0 else None
    instance = _numbers(dataset, INSTANCE_NUMBER, 1)
    orientation = _numbers(dataset, ORIENTATION, 6)
    if orientation is not None and not _across(orientation[:3], orientation[3:]):
        orientation = None
    spacing = _numbers(dataset, SPACING, 2)
    return SliceHeader(
        slice_id=_text(dataset, SLICE_ID),
        patient_id=_text(dataset, PATIENT_ID),
        study_id=_text(dataset, STUDY_ID),
        series_id=_text(dataset, SERIES_ID),
        instance_number=int(instance[0]) if instance and abs(instance[0]) < 2**31 else None,
        rows=rows,
        columns=columns,
        bits_allocated=allocated,
        bits_stored=stored,
        signed=signed,
        padding=_integer(dataset, PADDING, signed=signed),
        slope=slope,
        intercept=intercept,
        window=window or BRAIN_WINDOW,
        window_missing=window is None,
        position=_numbers(dataset, POSITION, 3),
        orientation=orientation,
        spacing=spacing if spacing and min(spacing) > 0 else None,
        transfer_syntax=_syntax(dataset),
    )


def _bytes(dataset: pydicom.FileDataset, tag: int) -> bytes:
    element = dataset.get_item(tag, keep_deferred=True)  # an empty element would be converted otherwise
    value = None if element is None else element.value
    return value if isinstance(value, bytes) else b""


def _text(dataset: pydicom.FileDataset, tag: int) -> str:
    return _bytes(dataset, tag).decode("latin-1").strip(" \0\t\r\n")


def _numbers(dataset: pydicom.FileDataset, tag: int, count: int) -> tuple[float, ...] | None:
    """Return the first `count` decimal numbers, or None where they are missing, not numbers or not finite."""
    try:
        values = tuple(float(part) for part in _text(dataset, tag).split("\\")[:count])
    except ValueError:
        return None
    return values if len(values) == count and all(map(math.isfinite, values)) else None


def _integer(dataset: pydicom.FileDataset, tag: int, *, signed: bool = False) -> int | None:
    """Return the first binary integer (US or SS, two bytes), or None where there is none."""
    value = _bytes(dataset, tag)[:2]
    order: Literal["big", "little"] = "little" if dataset.original_encoding[1] else "big"
    return int.from_bytes(value, order, signed=signed) if len(value) == 2 else None


def _across(row: tuple[float, ...], column: tuple[float, ...]) -> bool:
    """Whether the two are directions across each other, of about unit length."""
    row_length, column_length = math.hypot(*row), math.hypot(*column)
    along = sum(a * b for a, b in zip(row, column, strict=True))
    return min(row_length, column_length) > 0.5 and abs(along) < 0.5 * row_length * column_length


def _rescale(dataset: pydicom.FileDataset, tag: int, default: float) -> float:
    if not _text(dataset, tag):
        return default
    value = _numbers(dataset, tag, 1)
    if value is None:
        raise DicomDefectError("bad_rescale", f"{_text(dataset, tag)[:40]!r} is no number")
    return value[0]


def _pixel_bytes(handle: BinaryIO, syntax: str) -> int:
    """Return how many bytes of pixels stand in the file, whose header has just been read; 0 without a pixel element."""
    order: Literal["big", "little"] = "big" if syntax == ExplicitVRBigEndian else "little"
    head = 8 if syntax == ImplicitVRLittleEndian else 12
    where = handle.tell()
    left = handle.seek(0, os.SEEK_END) - where - head
    if left < 0:
        return 0
    handle.seek(where)
    start = handle.read(head)
    tag = int.from_bytes(start[:2], order) << 16 | int.from_bytes(start[2:4], order)
    if tag in (FLOAT_PIXELS, DOUBLE_PIXELS):
        raise DicomDefectError("unsupported_pixels", "floating point")
    return min(int.from_bytes(start[head - 4 : head], order), left)  # an unwritten length is the largest number


def _check_length(header: SliceHeader, length: int) -> None:
    expected = header.rows * header.columns * header.bits_allocated // 8
    if length < expected:
        raise DicomDefectError("truncated", f"{length} of {expected} bytes")


def _stored_values(header: SliceHeader, raw: bytes) -> npt.NDArray[Any]:
    """Return the stored values, (rows, columns), an integer type of the header's signedness, unused bits removed."""
    if header.transfer_syntax not in NATIVE:
        return _decompress(header, raw)
    _check_length(header, len(raw))
    order = ">" if header.transfer_syntax == ExplicitVRBigEndian else "<"
    kind = "i" if header.signed else "u"
    count = header.rows * header.columns
    flat = np.frombuffer(raw, f"{order}{kind}{header.bits_allocated // 8}", count)
    unused = header.bits_allocated - header.bits_stored
    if unused:  # they may hold overlays; shifting up and down again also spreads the sign
        flat = (flat << unused) >> unused
    return flat.reshape(header.rows, header.columns)


def _decompress(header: SliceHeader, raw: bytes) -> npt.NDArray[Any]:
    decoder: Any = None
    if header.transfer_syntax not in LOSSY_JPEG:
        decoder = _decoder(header.transfer_syntax)
    layout: dict[str, Any] = {
        "rows": header.rows,
        "columns": header.columns,
        "bits_allocated": header.bits_allocated,
        "bits_stored": header.bits_stored,
        "pixel_representation": int(header.signed),
        "samples_per_pixel": 1,
        "photometric_interpretation": "MONOCHROME2",
        "number_of_frames": 1,
        "pixel_keyword": "PixelData",
    }
    stored: npt.NDArray[Any]
    try:
        if decoder is None:
            stored = imagecodecs.jpeg_decode(next(generate_frames(raw, number_of_frames=1)))
        else:
            stored, _ = decoder.as_array(raw, raw=True, **layout)
    except Exception as error:  # decoders fail in any way on a damaged stream
        raise DicomDefectError("undecodable", f"{type(error).__name__}: {error}"[:300]) from error
    if stored.shape != (header.rows, header.columns):
        raise DicomDefectError("undecodable", f"decoded to {stored.shape}, not to ({header.rows}, {header.columns})")
    return stored


def _decoder(syntax: str) -> Any:
    try:
        decoder = get_decoder(UID(syntax, pydicom.config.IGNORE))
    except NotImplementedError as error:
        raise DicomDefectError("unsupported_syntax", syntax) from error
    if not decoder.is_available:
        needs = "; ".join(decoder.missing_dependencies)
        raise DicomDefectError("unsupported_syntax", f"{decoder.UID.name} needs {needs}")
    return decoder


def _to_hu(stored: npt.NDArray[Any], header: SliceHeader) -> npt.NDArray[np.int16]:
    # Single precision is exact where the products are whole numbers below 2^24, and twice as fast.
    whole = header.slope.is_integer() and header.intercept.is_integer()
    small = header.bits_allocated <= 16 and abs(header.slope) <= 64 and abs(header.intercept) < 2**22
    hu: npt.NDArray[np.floating[Any]] = stored.astype(np.float32 if whole and small else np.float64)
    hu *= header.slope
    hu += header.intercept
    np.rint(hu, out=hu)
    np.clip(hu, AIR, np.iinfo(np.int16).max, out=hu)
    return hu.astype(np.int16)


def _plausible(hu: npt.NDArray[np.int16]) -> bool:
    """Whether at least 1 % of the pixels are air, as on any CT of a head."""
    return bool(np.count_nonzero(hu < -500) >= 0.01 * hu.size)
