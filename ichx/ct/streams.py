"""Random access to the bytes of a file, plain or deflated, without reading more than needed.

The bytes are parsed in `ichx.ct.elements`.
"""

import io
import os
import zlib
from typing import BinaryIO, Final, Protocol

from ichx.ct.defects import INFLATED_LIMIT, DicomDefectError

FIRST: Final = 8192
"""Bytes of the first read: more than the header of most CT files."""

HEADER_LIMIT: Final = 2**26
"""Maximum size of a header in bytes."""

MOST_ELEMENTS: Final = 2**20
"""Maximum number of elements and items: ten times those of a file with thousands of frames."""

_STEP: Final = 2**16


class Stream(Protocol):
    """Random access to bytes. `size` is None if it is unknown before the end is read."""

    @property
    def size(self) -> int | None:
        """Return the number of bytes."""

    def read_at(self, offset: int, count: int) -> bytes:
        """Return `count` bytes from `offset`, fewer at the end."""


class Plain:
    """A file from the current position of its handle."""

    def __init__(self, handle: BinaryIO) -> None:
        self._handle = handle
        self._base = handle.tell()
        self._position = 0
        self._size: int | None = None

    @property
    def size(self) -> int:
        """Return the number of bytes of the file."""
        if self._size is None:
            self._size = self._handle.seek(0, os.SEEK_END) - self._base
            self._position = self._size
        return self._size

    def read_at(self, offset: int, count: int) -> bytes:
        """Return `count` bytes from `offset`, fewer at the file's end."""
        if count > _STEP:  # a buffer of that size is allocated before reading
            count = max(0, min(count, self.size - offset))
        if offset != self._position:
            self._handle.seek(self._base + offset)
        content = self._handle.read(count)
        self._position = offset + len(content)
        while 0 < len(content) < count:
            more = self._handle.read(count - len(content))
            if not more:
                break
            content += more
            self._position += len(more)
        return content


class Inflated:
    """The inflated bytes of a deflated `stream` from `start` on; they can be read forward only.

    Methods raise `zlib.error` for damaged bytes, and `DicomDefectError` if they inflate beyond `INFLATED_LIMIT`.
    """

    size = None

    def __init__(self, stream: Stream, start: int) -> None:
        self._stream = stream
        self._next = start
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self._waiting = b""
        self._position = 0

    def read_at(self, offset: int, count: int, known: bytes = b"") -> bytes:
        """Return `known` and `count` bytes from `offset`, which must not precede bytes already read."""
        if offset + count > INFLATED_LIMIT:
            raise DicomDefectError("absurd_size", f"more than {INFLATED_LIMIT // 2**20} MiB inflated")
        while self._position < offset:
            if not self._inflate(min(offset - self._position, 2**20)):
                return known
        content = io.BytesIO()  # returns its bytes without a copy
        content.write(known)
        while count and (part := self._inflate(min(count, 2**20))):
            count -= content.write(part)
        return content.getvalue()

    def end_before(self, limit: int) -> int:
        """Return the end of what can be inflated, at most `limit`, by inflating it."""
        limit = min(limit, INFLATED_LIMIT)
        try:
            while self._position < limit and self._inflate(min(limit - self._position, 2**20)):
                pass
        except zlib.error:
            pass
        return min(limit, self._position)

    def _inflate(self, most: int) -> bytes:
        """Return 1 to `most` bytes, or none at the end."""
        while not self._inflater.eof:
            if not self._waiting:
                self._waiting = self._stream.read_at(self._next, _STEP)
                self._next += len(self._waiting)
            ended = not self._waiting
            content = self._inflater.decompress(self._waiting, most)
            self._waiting = self._inflater.unconsumed_tail
            if content or ended:
                self._position += len(content)
                return content
        return b""


class Window:
    """The first bytes of a stream, `data`, which grow while a parser proceeds, and other bytes on demand."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.data = stream.read_at(0, FIRST)
        self._elements_left = MOST_ELEMENTS

    def count(self) -> None:
        """Count an element. Raises `DicomDefectError` beyond `MOST_ELEMENTS`."""
        self._elements_left -= 1
        if self._elements_left < 0:
            raise DicomDefectError("damaged_header", f"more than {MOST_ELEMENTS} elements")

    def reach(self, end: int) -> bytes:
        """Return `data`, extended to `end` at least or to the stream's end.

        Raises:
            DicomDefectError: The header exceeds `HEADER_LIMIT`.
        """
        while len(self.data) < end:
            if end > HEADER_LIMIT:
                raise DicomDefectError("damaged_header", f"an element reaches beyond {HEADER_LIMIT // 2**20} MiB")
            more = self.stream.read_at(len(self.data), max(end, 2 * len(self.data)) - len(self.data))
            if not more:
                break
            self.data += more
        return self.data

    def end_before(self, limit: int) -> int:
        """Return the end of the stream, at most `limit`.

        A deflated stream is inflated up to it; bytes before it can no longer be read.
        """
        if isinstance(self.stream, Inflated):
            return max(min(limit, len(self.data)), self.stream.end_before(limit))
        size = self.stream.size
        return limit if size is None else min(limit, size)

    def cut(self, offset: int, count: int) -> bytes:
        """Return `count` bytes from `offset`, fewer at the stream's end."""
        known = self.data[offset : offset + count]
        if len(known) == count:
            return known
        if isinstance(self.stream, Inflated):
            return self.stream.read_at(offset + len(known), count - len(known), known)
        return self.stream.read_at(offset, count)  # from its start: cheaper than joining
