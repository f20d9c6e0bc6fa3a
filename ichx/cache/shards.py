"""One shard of a cache: blosc2 chunks, one per slice, one after another, and a table of where they lie.

Not for decoding DICOM. A shard is whole or absent: it is written under another name, flushed to disk and renamed. At
its end stand the table as JSON and a footer: the table's length, its CRC-32, and eight letters that name the format.
"""

import json
import os
import secrets
import struct
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import blosc2
import imagecodecs
import numpy as np
import numpy.typing as npt

_crc32: Final[Callable[[bytes], int]] = imagecodecs.deflate_crc32 if imagecodecs.DEFLATE.available else zlib.crc32
"""CRC-32; libdeflate has the same sum in a tenth of zlib's time, which a read would spend a sixth of its time on."""

SHARD_ROWS: Final = 256
"""Slices per shard; at 378 px a shard is about 31 MB."""

OPEN_SHARDS: Final = 256
"""Files that a reader keeps open: the whole of 65,000 slices, and far from what a process may open."""

STALE_SECONDS: Final = 3600.0
"""A temporary file older than this was left by a process that died: writing one takes seconds."""

# On real slices at 378 px LZ4 with bit shuffle packs to 1/2.4 in 0.26 ms and unpacks in 0.11 ms; ZSTD needs twice that
# to unpack for 1/2.7, LZ4HC ten times that to pack for 1/2.5.
_PACKING: Final[dict[str, Any]] = {
    "codec": blosc2.Codec.LZ4,
    "clevel": 9,
    "filters": [blosc2.Filter.BITSHUFFLE],
    "typesize": 2,
    "nthreads": 1,
}

_FOOTER: Final = struct.Struct("<II8s")
_MAGIC: Final = b"ichx-HU2"

_UNPACKED_BYTES: Final = slice(4, 8)
"""Where a blosc2 chunk tells how long it is unpacked (little endian)."""


@dataclass(frozen=True)
class ShardTable:
    """What a shard holds: `places` (n, 3) int64, offset, length, CRC-32 of each chunk; `defects`, row -> reason."""

    places: npt.NDArray[np.int64]
    defects: Mapping[int, str]


class ShardFiles:
    """The shards at `paths`, each opened when it is first read; for one process, any number of threads."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._open: OrderedDict[int, BinaryIO] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, shard: int, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset` on; fewer where the file is cut. Raises `OSError`."""
        with self._lock:
            file = self._open.get(shard)
            if file is None:
                file = self._open[shard] = self._paths[shard].open("rb", buffering=0)
                if len(self._open) > OPEN_SHARDS:
                    self._open.popitem(last=False)[1].close()
            file.seek(offset)
            return file.read(length)


def pack(image: npt.NDArray[np.int16]) -> bytes:
    """Return `image`, int16 HU, as a chunk."""
    content = np.ascontiguousarray(image, "<i2")
    # One block per chunk: a chunk is only ever read whole.
    chunk: bytes = blosc2.compress2(content, blocksize=content.nbytes, **_PACKING)
    return chunk


def unpack(chunk: bytes, checksum: int, out: npt.NDArray[np.int16]) -> None:
    """Decompress `chunk` into `out`, contiguous int16; raises `ValueError` or `RuntimeError` when it is damaged."""
    if _crc32(chunk) != checksum:
        raise ValueError("its bytes do not have their checksum")
    if int.from_bytes(chunk[_UNPACKED_BYTES], "little") != out.nbytes:
        raise ValueError("it is of another size")
    blosc2.decompress2(chunk, dst=out, nthreads=1)


def write_shard(path: Path, chunks: Sequence[bytes], defects: Mapping[int, str]) -> ShardTable:
    """Write packed `chunks` and their `defects` to `path`, atomically; return the shard's table."""
    lengths = [len(chunk) for chunk in chunks]
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])[:-1]
    places = np.column_stack([offsets, lengths, [_crc32(chunk) for chunk in chunks]]).astype(np.int64)
    content = {"places": places.tolist(), "defects": sorted(defects.items())}
    table = json.dumps(content, separators=(",", ":")).encode()
    write_atomically(path, [*chunks, table, _FOOTER.pack(len(table), _crc32(table), _MAGIC)])
    return ShardTable(places, dict(defects))


def read_table(path: Path) -> ShardTable:
    """Return the table of the shard at `path`; raises `OSError`, or `ValueError` where it is damaged or cut."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - _FOOTER.size))
        footer = file.read()
        if len(footer) != _FOOTER.size:
            raise ValueError(f"{path} is no shard")
        length, checksum, magic = _FOOTER.unpack(footer)
        start = end - _FOOTER.size - length
        if magic != _MAGIC or start < 0:
            raise ValueError(f"{path} is no shard")
        file.seek(start)
        table = file.read(length)
    if _crc32(table) != checksum:
        raise ValueError(f"the table of {path} is damaged")
    content = json.loads(table)
    places = np.array(content["places"], np.int64).reshape(-1, 3)
    if places[:, 1].sum() != start:
        raise ValueError(f"{path} is cut")
    return ShardTable(places, {int(row): str(reason) for row, reason in content["defects"]})


def damaged_chunks(path: Path, table: ShardTable) -> int:
    """Return how many chunks of the shard at `path` do not have their checksum. Raises `OSError`."""
    with path.open("rb") as file:
        return sum(_crc32(file.read(length)) != checksum for _, length, checksum in table.places.tolist())


def write_atomically(path: Path, parts: Iterable[bytes]) -> None:
    """Write `parts` to `path`: under a name of its own, flushed to disk, renamed; nothing is left when it fails."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("wb") as file:
            file.writelines(parts)
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
