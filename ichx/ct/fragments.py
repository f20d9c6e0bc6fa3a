"""Walks over the fragments of encapsulated pixels, and counts the frames that a file holds.

Encapsulation is that of DICOM PS3.5, annex A.4. Frames are read in `ichx.ct.frames`.
"""

import struct
from typing import Final

from ichx.ct.defects import DicomDefectError
from ichx.ct.elements import FRAME_OFFSETS, UNDEFINED, Elements
from ichx.ct.streams import Window

MOST_FRAGMENTS: Final = 2**18
"""Fragments of one file; each has a header to be walked over."""

Place = tuple[int, int]
"""(offset, length) of a fragment's value."""


class FragmentWalk:
    """The fragments of encapsulated pixels; `start` is the offset of the first item after the offset table."""

    def __init__(self, window: Window, offset: int, end: int | None) -> None:
        self._window = window
        self._end = end
        table = self.item(offset)
        if table is None:
            raise DicomDefectError("undecodable", "no fragments")
        self.table = window.cut(*table) if table[1] <= 4 * MOST_FRAGMENTS else b""
        self.start = sum(table)

    def item(self, place: int) -> Place | None:
        """Return the fragment whose item is at `place`, or None at the end."""
        if self._end is not None and place + 8 > self._end:
            return None
        head = self._window.cut(place, 8)
        if len(head) < 8:
            return None
        group, element, length = struct.unpack("<HHL", head)
        if (group, element) == (0xFFFE, 0xE0DD):
            return None
        if (group, element) != (0xFFFE, 0xE000) or length == UNDEFINED:
            raise DicomDefectError("undecodable", f"{group:04X},{element:04X} instead of a fragment")
        return place + 8, length

    def fragments(self, start: int, stop: int | None = None) -> list[Place]:
        """Return the fragments from the item at `start` to the end, or to the item at `stop`."""
        found: list[Place] = []
        while (stop is None or start < stop) and (place := self.item(start)) is not None:
            if len(found) == MOST_FRAGMENTS:
                raise DicomDefectError("undecodable", f"more than {MOST_FRAGMENTS} fragments")
            found.append(place)
            start = sum(place)
        return found

    def count(self, most: int) -> int:
        """Return the number of fragments with content, at most `most`."""
        found, start = 0, self.start
        while found < most and (place := self.item(start)) is not None:
            found += place[1] > 0
            start = sum(place)
        return found


def held_frames(elements: Elements, frames: int, frame_bytes: int | None) -> int:
    """Return how many of the `frames` that a header claims the file holds.

    Args:
        elements: The header, with pixels.
        frames: The number of frames in the header.
        frame_bytes: Bytes of a frame; None for encapsulated ones, which have at least a fragment each.

    Raises:
        DicomDefectError: The file cannot be read.
    """
    assert elements.pixels is not None
    window, offset, length = elements.window, elements.pixels.offset, elements.pixels.length
    try:
        if frame_bytes is not None:
            return max(0, window.end_before(offset + min(length, frames * frame_bytes)) - offset) // frame_bytes
        walk = FragmentWalk(window, offset, None if length == UNDEFINED else offset + length)
        try:
            return walk.count(frames)
        except DicomDefectError:
            # Frames behind the damage can be read if a table lists them.
            tabled = len(walk.table) >= 4 * frames or len(elements.values.get(FRAME_OFFSETS, b"")) >= 8 * frames
            if tabled:
                return frames
            raise
    except OSError as error:
        raise DicomDefectError("unreadable", error.strerror or str(error)) from error
