"""The process that decodes compressed pixels: `python -m ichx.ct.decoding_worker`, with requests on standard input.

Codecs are native code, which a damaged codestream can make abort, hang or ask for all memory; here that kills nothing
but this process. `ichx.ct.decoding` starts it and sends requests. A request is `REQUEST` and the codestream, an answer
is `ANSWER` and the values or a message. Nothing is pickled.
"""

import itertools
import os
import resource
import signal
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ichx.signals import ignore_stop_signals

REQUEST: Final = struct.Struct("<BBIIQ")
"""Number of the codec in `CODEC_NAMES`, bytes per value, rows, columns, bytes of the codestream that follows."""

ANSWER: Final = struct.Struct("<ccBBQf")
"""`DECODED`, `FAILED`, `NO_MEMORY` or `NO_CODEC`; kind (i or u), bytes per value, precision; bytes that follow; seconds
of the processor, which do not depend on how busy the machine is.
"""

DECODED, FAILED, NO_MEMORY, NO_CODEC = b"D", b"F", b"M", b"C"

READY: Final = b"R"
"""Sent once, when the process is ready."""

LONGEST_MESSAGE: Final = 300

CODEC_NAMES: Final = ("rle", "jpeg", "jpegls", "jpeg2k", "jpegxl")

MEMORY_LIMIT: Final = 512 * 2**20
"""Bytes that decoding a slice may take beyond what the process starts with."""

SECONDS_LIMIT: Final = 5
"""Time that the asking process allows for one slice, and for all slow frames of a file together."""

SLOW_SECONDS: Final = 0.5
"""A frame that takes longer is slow: several times what the largest CT slices take."""

_FRAME_HEADERS: Final = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
"""Markers of JPEG (SOF0 to SOF15) and JPEG-LS (SOF55) that precede the size."""

Array = npt.NDArray[Any]


class _DimensionsError(Exception):
    """The size of the codestream differs from the header's."""


def main() -> None:
    """Answer requests until standard input ends, which it does when the asking process does."""
    ignore_stop_signals()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    import imagecodecs

    answers = os.dup(sys.stdout.fileno())
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, sys.stdout.fileno())  # codecs print
    _limit_memory()
    _write(answers, READY)
    while request := _read(REQUEST.size):
        number, itemsize, rows, columns, length = REQUEST.unpack(request)
        codestream = _read(length)
        # The parent may be gone when a decoder hangs: the alarm kills this process.
        signal.alarm(2 * SECONDS_LIMIT)
        start = time.process_time()
        head, payload = _answer(imagecodecs, CODEC_NAMES[number], codestream, rows, columns, itemsize)
        signal.alarm(0)
        _write(answers, ANSWER.pack(*head, len(payload), time.process_time() - start), payload)


def _answer(
    codecs: Any, codec: str, codestream: bytes, rows: int, columns: int, itemsize: int
) -> tuple[tuple[bytes, bytes, int, int], bytes | memoryview]:
    """Return the first four values of an `ANSWER`, and what follows it."""
    try:
        values, precision = _decode(codecs, codec, codestream, rows, columns, itemsize)
    except MemoryError:
        return _failure(NO_MEMORY, "")
    except ImportError as error:
        return _failure(NO_CODEC, str(error))
    except _DimensionsError as error:
        return _failure(FAILED, str(error))
    except Exception as error:  # codecs fail in any way on a damaged stream
        return _failure(FAILED, f"{type(error).__name__}: {error}")
    head = (DECODED, values.dtype.kind.encode(), values.itemsize, precision)
    return head, np.ascontiguousarray(values).data.cast("B")


def _failure(kind: bytes, message: str) -> tuple[tuple[bytes, bytes, int, int], bytes]:
    return (kind, b"-", 0, 0), message.encode()[:LONGEST_MESSAGE]


def _decode(codecs: Any, codec: str, codestream: bytes, rows: int, columns: int, itemsize: int) -> tuple[Array, int]:
    """Return the values, (rows, columns) int or uint of 1, 2 or 4 bytes, and their precision in bits."""
    precision = 8 * itemsize
    if codec == "rle":
        return _decode_rle(codecs, codestream, rows, columns, itemsize), precision
    seen = {"jpeg": _jpeg_size, "jpegls": _jpeg_size, "jpeg2k": _jpeg2k_size}.get(codec, _no_size)(codestream)
    if seen is not None:
        _check((seen[0], seen[1]), rows, columns)  # before an unexpected size takes memory
        precision = seen[2]
    decode: Callable[[bytes], Array] = getattr(codecs, f"{'jpeg8' if codec == 'jpeg' else codec}_decode")
    values = decode(codestream)
    _check(values.shape, rows, columns)
    if values.dtype.kind not in "iu" or values.itemsize > 4:
        raise _DimensionsError(f"decoded to values of the type {values.dtype}")
    return values, min(precision, 8 * values.itemsize)


def _decode_rle(codecs: Any, codestream: bytes, rows: int, columns: int, itemsize: int) -> Array:
    """Return the values; what segments have beyond the last row, less than a row, is padding."""
    places = _segments(codestream, itemsize)
    planes = []
    for start, end in itertools.pairwise(places):
        plane = np.frombuffer(codecs.packbits_decode(codestream[start:end]), np.uint8)
        if not rows * columns <= plane.size < (rows + 1) * columns:
            raise _DimensionsError(f"decoded to {plane.size} values, not to {rows} x {columns}")
        planes.append(plane[: rows * columns])
    # Segments begin with the most significant bytes.
    return np.stack(planes, axis=1).view(f">u{itemsize}").astype(f"<u{itemsize}").reshape(rows, columns)


def _check(shape: tuple[int, ...], rows: int, columns: int) -> None:
    if shape != (rows, columns):
        raise _DimensionsError(f"decoded to {shape}, not to {(rows, columns)}")


def _segments(codestream: bytes, itemsize: int) -> list[int]:
    """Return the offsets of the segments in the RLE header (DICOM PS3.5, G.5), and the end of the last one.

    Raises `ValueError` for offsets beyond the codestream.
    """
    if len(codestream) < 64:
        raise ValueError("no RLE header")
    count, *places = struct.unpack_from("<16L", codestream)
    places = [*places[:itemsize], len(codestream)]
    if count != itemsize or places[0] < 64 or places != sorted(places):
        raise ValueError(f"{count} RLE segments at {places}, which cannot be")
    return places


def _no_size(codestream: bytes) -> None:
    return None


def _jpeg_size(codestream: bytes) -> tuple[int, int, int] | None:
    """Return (rows, columns, precision) of a JPEG or JPEG-LS frame header, or None."""
    place = 2
    while place + 9 <= len(codestream) and codestream[place] == 0xFF:
        marker = codestream[place + 1]
        if marker == 0xFF:  # fill bytes may precede a marker
            place += 1
            continue
        length = int.from_bytes(codestream[place + 2 : place + 4], "big")
        if marker in _FRAME_HEADERS:
            precision, rows, columns = struct.unpack_from(">BHH", codestream, place + 4)
            return (rows, columns, precision) if rows else None  # rows may follow the scan
        place += 2 + length
    return None


def _jpeg2k_size(codestream: bytes) -> tuple[int, int, int] | None:
    """Return (rows, columns, precision) of the SIZ segment, or None."""
    place = codestream.find(b"\xff\x4f\xff\x51")
    if place < 0 or place + 43 > len(codestream):
        return None
    width, height, left, top = struct.unpack_from(">IIII", codestream, place + 8)
    return height - top, width - left, (codestream[place + 42] & 0x7F) + 1


def _limit_memory() -> None:
    """Limit memory to what is mapped now plus `MEMORY_LIMIT`, if the system reports what is mapped."""
    mapped = Path("/proc/self/statm")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a dump of each death would take time and space
    if not mapped.exists():
        return
    limit = int(mapped.read_text(encoding="ascii").split()[0]) * resource.getpagesize() + MEMORY_LIMIT
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _read(length: int) -> bytes:
    """Return `length` bytes of standard input, or none at its end."""
    content = bytearray(length)
    view, done = memoryview(content), 0
    while done < length:
        count = os.readv(0, [view[done:]])
        if not count:
            return b""
        done += count
    return bytes(content)


def _write(descriptor: int, *parts: bytes | memoryview) -> None:
    """Write all parts, in one write if the pipe has room: each write wakes the parent."""
    views = [memoryview(part) for part in parts if len(part)]
    while views:
        done = os.writev(descriptor, views)
        while views and done >= len(views[0]):
            done -= len(views.pop(0))
        if views:
            views[0] = views[0][done:]


if __name__ == "__main__":
    main()
