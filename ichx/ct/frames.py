"""Locates and reads the bytes of one frame in PixelData, native or encapsulated.

Encapsulation is that of DICOM PS3.5, annex A.4.
"""

import struct
import zlib
from typing import Final

from ichx.ct.defects import DicomDefectError
from ichx.ct.elements import FRAME_LENGTHS, FRAME_OFFSETS, UNDEFINED, Elements
from ichx.ct.fragments import FragmentWalk, Place
from ichx.ct.slice_header import SliceHeader
from ichx.ct.streams import Window
from ichx.ct.syntaxes import CODECS, NATIVE

LARGEST_FRAME: Final = 2**27
"""Bytes of a compressed frame."""

_END_OF_IMAGE: Final = b"\xff\xd9"


def frame_bytes(elements: Elements, header: SliceHeader, frames: int) -> bytes:
    """Return the bytes of the header's frame as they are stored, one of the file's `frames`.

    For a compressed frame these are its codestream. Raises `DicomDefectError` if they are missing.
    """
    assert elements.pixels is not None
    offset, length = elements.pixels.offset, elements.pixels.length
    index = max(header.frame, 1) - 1
    window = elements.window
    try:
        if header.transfer_syntax in NATIVE:
            content = window.cut(offset + index * header.frame_bytes, header.frame_bytes)
            if len(content) < header.frame_bytes:
                raise DicomDefectError("truncated", f"{len(content)} of {header.frame_bytes} bytes")
            return content
        end = None if length == UNDEFINED else offset + length
        places = _places(elements, FragmentWalk(window, offset, end), index, frames)
        return _join(window, places, CODECS.get(header.transfer_syntax, "raw"))
    except OSError as error:
        raise DicomDefectError("unreadable", error.strerror or str(error)) from error
    except zlib.error as error:
        raise DicomDefectError("undecodable", f"the deflated file cannot be inflated: {error}") from error


def _places(elements: Elements, walk: FragmentWalk, index: int, frames: int) -> list[Place]:
    """Return the fragments of frame `index` (from 0): by an offset table, or by counting."""
    offsets = elements.values.get(FRAME_OFFSETS, b"")
    lengths = elements.values.get(FRAME_LENGTHS, b"")
    if frames > 1 and len(offsets) >= 8 * frames and len(lengths) >= 8 * frames:
        place = walk.item(walk.start + _entry(offsets, index, "<Q"))
        if place is None:
            raise DicomDefectError("truncated", f"frame {index + 1} is missing")
        return [(place[0], min(place[1], _entry(lengths, index, "<Q")))]
    if frames > 1 and len(walk.table) >= 4 * frames:
        stop = walk.start + _entry(walk.table, index + 1, "<L") if index + 1 < frames else None
        found = walk.fragments(walk.start + _entry(walk.table, index, "<L"), stop)
    else:
        found = walk.fragments(walk.start)
        if frames > 1:
            found = _counted(elements, found, index, frames)
    if not found:
        raise DicomDefectError("truncated", f"frame {index + 1} is missing")
    return found


def _entry(table: bytes, index: int, kind: str) -> int:
    return int(struct.unpack_from(kind, table, index * struct.calcsize(kind))[0])


def _counted(elements: Elements, found: list[Place], index: int, frames: int) -> list[Place]:
    """Return the fragments of frame `index` without a table: one each, or up to each one that ends an image."""
    if len(found) <= frames or elements.syntax not in CODECS:
        return found[index : index + 1]
    groups: list[list[Place]] = [[]]
    for place in found:
        groups[-1].append(place)
        offset, length = place
        if _END_OF_IMAGE in elements.window.cut(offset + max(0, length - 10), min(length, 10)):
            groups.append([])
    return groups[index] if index < len(groups) else []


def _join(window: Window, places: list[Place], codec: str) -> bytes:
    total = sum(length for _, length in places)
    if total > LARGEST_FRAME:
        raise DicomDefectError("undecodable", f"{total} bytes for one compressed frame")
    content = b"".join(window.cut(offset, length) for offset, length in places)
    if len(content) < total:
        raise DicomDefectError("truncated", f"{len(content)} of {total} bytes of {codec} data")
    return content
