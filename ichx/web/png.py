"""Small grey images as PNG, without a library for images."""

import struct
import zlib

import numpy as np
import numpy.typing as npt


def encode_png(grey: npt.NDArray[np.uint8]) -> bytes:
    """Return `grey` (rows, columns) as a PNG file."""
    rows, columns = grey.shape
    filtered = np.zeros((rows, columns + 1), np.uint8)  # each line starts with its filter: 0, none
    filtered[:, 1:] = grey
    header = struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(filtered.tobytes(), 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
