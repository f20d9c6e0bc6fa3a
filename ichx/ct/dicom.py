"""Reads CT slices of a DICOM file in Hounsfield units, or reports a named defect.

Values are parsed from the raw bytes of the few elements that are needed: names and free text are never read, and
invalid values (RSNA's `ID_...` UIDs) raise no warnings. Compressed pixels are decoded in another process, which may
die. Folders of files are read in `ichx.datasets.ingest`; windows are in `ichx.ct.windows`.
"""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import BinaryIO, Final

from ichx.ct.defects import DEFECTS, DicomDefectError
from ichx.ct.elements import SERIES_ID, read_elements
from ichx.ct.frames import frame_bytes
from ichx.ct.header import BRAIN_WINDOW, all_headers, file_ids, one_header
from ichx.ct.pixels import AIR, DecodedSlice, stored_pixels, to_slice
from ichx.ct.slice_header import SliceHeader

__all__ = [
    "AIR",
    "BRAIN_WINDOW",
    "DECODER_VERSION",
    "DEFECTS",
    "DecodedSlice",
    "DicomDefectError",
    "SliceHeader",
    "read_headers",
    "read_ids",
    "read_slice",
]

DECODER_VERSION: Final = 2
"""Raised whenever the same file would give other HU, so that old caches are not used as new ones."""


def read_headers(source: Path | BinaryIO) -> list[SliceHeader]:
    """Return the header of each frame of `source` without reading pixels.

    Frames that are not slices (localizers, truncated frames) have a `defect`.

    Raises:
        DicomDefectError: The header or the file size shows a defect of the complete file.
    """
    with _opened(source) as handle:
        return all_headers(read_elements(handle))


def read_ids(source: Path | BinaryIO) -> tuple[str, str, str, str]:
    """Return the ids of slice, patient, study and series of a file that may have a defect; empty where missing.

    Damage behind the ids does not matter. Raises `DicomDefectError` if the header cannot be read up to them.
    """
    with _opened(source) as handle:
        return file_ids(read_elements(handle, last=SERIES_ID).values)


def read_slice(source: Path | BinaryIO, frame: int = 0) -> DecodedSlice:
    """Return the slice in `source` in HU: `slope * stored + intercept`, rounded, clamped to -1024..32767.

    Padding is -1024. A wrong intercept as in RSNA's files is repaired. What was assumed is in the header.

    Args:
        source: A file or a binary stream.
        frame: The frame to decode, from 1, in a file with several frames.

    Raises:
        DicomDefectError: The file is not a usable CT slice.
    """
    with _opened(source) as handle:
        elements = read_elements(handle, frame=frame)
        header, frames = one_header(elements, frame)
        raw = frame_bytes(elements, header, frames)
    return to_slice(header, stored_pixels(header, raw))


def _opened(source: Path | BinaryIO) -> AbstractContextManager[BinaryIO]:
    if not isinstance(source, Path):
        return nullcontext(source)
    try:
        return source.open("rb", buffering=0)
    except OSError as error:
        raise DicomDefectError("unreadable", error.strerror or str(error)) from error
