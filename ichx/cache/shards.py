"""The shard file of a cache: one blosc2 chunk per slice and a table of their positions. It knows nothing of DICOM.

The table is JSON at the end of the file, followed by a footer: its length, its CRC-32 and eight letters that identify
the format. A shard is written atomically, so it is complete or absent.
"""

import json
import os
import struct
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import imagecodecs
import numpy as np
import numpy.typing as npt

from ichx.files import atomic_path
from ichx.text import parse_json

_crc32: Final[Callable[[bytes], int]] = imagecodecs.deflate_crc32 if imagecodecs.DEFLATE.available else zlib.crc32
"""CRC-32. libdeflate takes a tenth of the time of zlib, with which it would be a sixth of the time of a read."""

SHARD_ROWS: Final = 256
"""Slices per shard. At 378 px a shard has about 31 MB."""

OPEN_SHARDS: Final = 256
"""Maximum number of open files of a reader: enough for 65,000 slices and well below the limit of a process."""

_FOOTER: Final = struct.Struct("<II8s")
_MAGIC: Final = b"ichx-HU2"

_UNPACKED_BYTES: Final = slice(4, 8)
"""Bytes of a blosc2 chunk that hold its uncompressed length (little endian)."""


@dataclass(frozen=True)
class ShardTable:
    """The table of a shard."""

    places: npt.NDArray[np.int64]
    """Offset, length and CRC-32 of each chunk, (n, 3)."""
    defects: Mapping[int, str]
    """Row in the shard -> reason."""


class ShardFiles:
    """The shards at `paths`, opened on first use. Threads may share an instance, processes may not."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._open: OrderedDict[int, BinaryIO] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, shard: int, offset: int, length: int) -> bytes:
        """Return `length` bytes at `offset`, or fewer if the file is truncated. Raises `OSError`."""
        with self._lock:
            file = self._open.get(shard)
            if file is None:
                file = self._open[shard] = self._paths[shard].open("rb", buffering=0)
                if len(self._open) > OPEN_SHARDS:
                    self._open.popitem(last=False)[1].close()
            return os.pread(file.fileno(), length, offset)


def pack(image: npt.NDArray[np.int16]) -> bytes:
    """Return `image`, int16, as a chunk."""
    import blosc2  # takes 30 MB, which readers do not need

    content = np.ascontiguousarray(image, "<i2")
    # Real slices at 378 px: LZ4 with bit shuffle packs to 1/2.4 in 0.26 ms and unpacks in 0.09 ms. ZSTD takes twice as
    # long to unpack for 1/2.7, LZ4HC ten times as long to pack for 1/2.5.
    chunk: bytes = blosc2.compress2(
        content,
        codec=blosc2.Codec.LZ4,
        clevel=9,
        filters=[blosc2.Filter.BITSHUFFLE],
        typesize=2,
        nthreads=1,
        blocksize=content.nbytes,  # one block, because a chunk is always read completely
    )
    return chunk


def check_chunk(chunk: bytes, checksum: int, unpacked_bytes: int) -> None:
    """Raise `ValueError` if `chunk` is damaged, or does not unpack to as many bytes."""
    if _crc32(chunk) != checksum:
        raise ValueError("its checksum is wrong")
    if int.from_bytes(chunk[_UNPACKED_BYTES], "little") != unpacked_bytes:
        raise ValueError("its size is wrong")


def unpack(chunk: bytes, checksum: int, out: npt.NDArray[np.int16]) -> None:
    """Decompress `chunk` into `out`, contiguous int16. Raises `ValueError` or `RuntimeError` if it is damaged."""
    check_chunk(chunk, checksum, out.nbytes)
    if imagecodecs.BLOSC2.available:
        imagecodecs.blosc2_decode(chunk, numthreads=1, out=out.reshape(-1).view(np.uint8).data)
    else:
        import blosc2

        blosc2.decompress2(chunk, dst=out, nthreads=1)


def write_shard(path: Path, chunks: Sequence[bytes], defects: Mapping[int, str]) -> ShardTable:
    """Write `chunks` and their `defects` to `path` atomically and return the table. Raises `OSError`."""
    lengths = [len(chunk) for chunk in chunks]
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])[:-1]
    places = np.column_stack([offsets, lengths, [_crc32(chunk) for chunk in chunks]]).astype(np.int64)
    content = {"places": places.tolist(), "defects": sorted(defects.items())}
    table = json.dumps(content, separators=(",", ":")).encode()
    with atomic_path(path) as draft, draft.open("wb") as file:
        file.writelines([*chunks, table, _FOOTER.pack(len(table), _crc32(table), _MAGIC)])
    return ShardTable(places, dict(defects))


def read_table(path: Path) -> ShardTable:
    """Return the table of the shard at `path`. Raises `OSError`, or `ValueError` if the shard is damaged."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - _FOOTER.size))
        footer = file.read()
        if len(footer) != _FOOTER.size:
            raise ValueError(f"{path} is not a shard")
        length, checksum, magic = _FOOTER.unpack(footer)
        start = end - _FOOTER.size - length
        if magic != _MAGIC or start < 0:
            raise ValueError(f"{path} is not a shard")
        file.seek(start)
        table = file.read(length)
    if _crc32(table) != checksum:
        raise ValueError(f"the table of {path} is damaged")
    content = parse_json(table)
    places = np.array(content["places"], np.int64).reshape(-1, 3)
    if places[:, 1].sum() != start:
        raise ValueError(f"{path} is truncated")
    return ShardTable(places, {int(row): str(reason) for row, reason in content["defects"]})


def is_intact(path: Path) -> bool:
    """Return whether the shard at `path` exists and its table can be read. Raises `OSError`."""
    try:
        read_table(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    return True


def count_damaged(path: Path, table: ShardTable) -> int:
    """Return the number of chunks in the shard at `path` with a wrong checksum. Raises `OSError`."""
    with path.open("rb") as file:
        return sum(_crc32(file.read(length)) != checksum for _, length, checksum in table.places.tolist())
