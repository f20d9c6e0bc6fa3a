"""One shard of a cache: a blosc2 frame with one chunk per slice, and where its chunks lie. Not for decoding DICOM.

A shard is whole or absent: it is written under another name, flushed to disk and renamed.
"""

import os
import secrets
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import blosc2
import numpy as np
import numpy.typing as npt

SHARD_ROWS: Final = 256
"""Slices per shard; at 378 px a shard is about 31 MB."""

STALE_SECONDS: Final = 3600.0
"""A temporary file older than this was left by a process that died: writing one takes seconds."""

# On real slices at 378 px LZ4 with bit shuffle packs to 1/2.4 in 0.3 ms and unpacks in 0.1 ms; ZSTD needs twice that to
# unpack for 1/2.7, LZ4HC ten times that to pack for 1/2.5.
_PACKING: Final = {
    "codec": blosc2.Codec.LZ4,
    "clevel": 9,
    "filters": [blosc2.Filter.BITSHUFFLE],
    "typesize": 2,
    "nthreads": 1,
}

_HEADER_BYTES: Final = slice(11, 15)
"""Where a frame tells the length of its header (big endian), after which its chunks stand: blosc2's cframe format."""


@dataclass(frozen=True)
class ShardTable:
    """What a shard holds: `places` (n, 3) int64: offset, length, CRC-32 of each chunk; `defects`: row in it -> reason.

    The offset is -1 for a chunk that the frame only describes (all zeros).
    """

    places: npt.NDArray[np.int64]
    defects: Mapping[int, str]


def write_shard(path: Path, images: Sequence[npt.NDArray[np.int16]], defects: Mapping[int, str]) -> ShardTable:
    """Write square int16 HU `images` and their `defects` to `path`, atomically; return the shard's table."""
    edge = images[0].shape[0]
    nbytes = edge * edge * 2
    # One block per chunk: a chunk is only ever read whole.
    packing = {**_PACKING, "blocksize": nbytes}
    frame = blosc2.SChunk(chunksize=nbytes, contiguous=True, cparams=packing, dparams={"nthreads": 1})
    for image in images:
        frame.append_data(np.ascontiguousarray(image, "<i2"))
    chunks = [frame.get_chunk(index) for index in range(len(images))]
    places = _places(frame.to_cframe(), chunks)
    frame.vlmeta["places"] = places.tolist()
    frame.vlmeta["defects"] = [[row, reason] for row, reason in sorted(defects.items())]
    write_atomically(path, frame.to_cframe())
    return ShardTable(places, dict(defects))


def read_table(path: Path) -> ShardTable:
    """Return the table of the shard at `path`."""
    frame = blosc2.open(str(path), mode="r")
    places = np.array(frame.vlmeta["places"], np.int64).reshape(-1, 3)
    return ShardTable(places, {int(row): str(reason) for row, reason in frame.vlmeta["defects"]})


def read_packed(path: Path, row: int, place: npt.NDArray[np.int64]) -> bytes:
    """Return the packed chunk of `row` in the shard at `path`; raises `OSError`, or `ValueError` where it is cut."""
    offset, length, _ = place.tolist()
    if offset < 0:
        chunk: bytes = blosc2.open(str(path), mode="r").get_chunk(row)
    else:
        with path.open("rb", buffering=0) as file:
            file.seek(offset)
            chunk = file.read(length)
    if len(chunk) != length:
        raise ValueError(f"{len(chunk)} of {length} bytes")
    return chunk


def unpack(chunk: bytes, out: npt.NDArray[np.int16]) -> None:
    """Decompress `chunk` into `out`, contiguous int16; raises `ValueError` when it is damaged."""
    blosc2.decompress2(chunk, dst=out, nthreads=1)


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` to `path`: under a name of its own, flushed to disk, renamed; nothing is left when it fails."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_stale(folder: Path) -> None:
    """Remove the temporary files in `folder` that a killed process has left; those of a living one are young."""
    for temporary in folder.glob(".*.tmp"):
        try:
            if time.time() - temporary.stat().st_mtime > STALE_SECONDS:
                temporary.unlink(missing_ok=True)
        except FileNotFoundError:
            continue  # its owner has renamed it in between


def crc32(chunk: bytes) -> int:
    """Return the checksum that a table holds for `chunk`."""
    return zlib.crc32(chunk)


def _places(frame: bytes, chunks: Sequence[bytes]) -> npt.NDArray[np.int64]:
    """Return where each of `chunks` stands in `frame`, found by the format and checked by content."""
    offset = int.from_bytes(frame[_HEADER_BYTES], "big")
    places: list[tuple[Any, ...]] = []
    for chunk in chunks:
        stored = frame[offset : offset + len(chunk)] == chunk
        places.append((offset if stored else -1, len(chunk), crc32(chunk)))
        offset += len(chunk) if stored else 0
    return np.array(places, np.int64)
