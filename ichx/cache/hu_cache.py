"""The HU cache: a dataset's slices as int16 Hounsfield units at one size, decoded once and read in any order.

Not for windows, labels or folds: any of them can change without a new cache. It is built by `ichx.cache.build`.

A cache is a folder of shards, `places.npy` (where each chunk stands) and `cache.json`, which is written last: a folder
without it is an unfinished build, of which every shard that is there is whole; `build.json` says what it is to become.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.cache.resize import METHODS
from ichx.cache.shards import SHARD_ROWS, ShardFiles, unpack
from ichx.ct.dicom import DECODER_VERSION
from ichx.errors import IchxError

FORMAT: Final = 2
"""Layout of the folder and of its shards."""

PACKED_SHARE: Final = 0.5
"""Bytes on disk per byte of HU, for estimates: real slices take 0.40 to 0.45."""

CENTRINGS: Final = ("none", "slice", "series")

PLACES_FILE, CACHE_FILE, BUILD_FILE = "places.npy", "cache.json", "build.json"


@dataclass(frozen=True)
class CacheSpec:
    """How to cache: `size` in pixels, `centre` (none, slice, series), `resize` (bilinear, area) of a recipe."""

    size: int
    centre: str
    resize: str

    def __post_init__(self) -> None:
        if self.size < 1 or self.centre not in CENTRINGS or self.resize not in METHODS:
            raise ValueError(f"no such cache: {self}")

    def __str__(self) -> str:
        return f"{self.size} px, centre {self.centre}, {self.resize}"


class Cache:
    """A finished cache, open for reading. May be pickled to worker processes, which open it again.

    `spec`; `n`, the number of slices; `defects`: row -> reason, of slices that could not be decoded (they read as air);
    `valid` (n,) bool, the rest; `nbytes` on disk.
    """

    def __init__(self, folder: Path) -> None:
        manifest = json.loads((folder / CACHE_FILE).read_text())
        self.folder = folder
        self.key: str = manifest["key"]
        self.spec = CacheSpec(**manifest["spec"])
        self.n: int = manifest["n"]
        self._shard_rows: int = manifest["shard_rows"]
        self.defects: Mapping[int, str] = MappingProxyType({int(row): why for row, why in manifest["defects"].items()})
        self.nbytes: int = sum(manifest["shard_bytes"])
        self._shape = (self.spec.size, self.spec.size)
        self._files = ShardFiles([shard_path(folder, shard) for shard in range(len(manifest["shard_bytes"]))])
        # Mapped, not read: all workers share one copy.
        self._places: npt.NDArray[np.int64] = np.asarray(np.load(folder / PLACES_FILE, mmap_mode="r"))

    def __reduce__(self) -> tuple[type["Cache"], tuple[Path]]:
        return type(self), (self.folder,)

    def __len__(self) -> int:
        return self.n

    @cached_property
    def valid(self) -> npt.NDArray[np.bool_]:
        """(n,) bool: which rows hold a slice and not a defect."""
        valid = np.ones(self.n, bool)
        valid[list(self.defects)] = False
        valid.flags.writeable = False
        return valid

    def read(self, row: int, out: npt.NDArray[np.int16] | None = None) -> npt.NDArray[np.int16]:
        """Return slice `row` as (size, size) int16 HU, in `out` when given (C-contiguous).

        Raises `IndexError` for a row that is none, `IchxError` when the stored bytes are damaged or gone.
        """
        if out is None:
            out = np.empty(self._shape, np.int16)
        elif out.shape != self._shape or out.dtype != np.int16 or not out.flags.c_contiguous:
            raise ValueError(f"out must be contiguous int16 of {self.spec.size} x {self.spec.size}")
        shard, offset, length, checksum = self._place(row)
        try:
            unpack(self._files.read(shard, offset, length), checksum, out)
        except (OSError, ValueError, RuntimeError) as error:
            why = (error.strerror if isinstance(error, OSError) else None) or str(error)
            raise IchxError(
                f"slice {row} of the cache {self.folder} cannot be read: {shard_path(self.folder, shard).name}: {why}",
                f"`ichx data cache {name_of(self.folder)} --verify` takes out the damage; the next use rebuilds it",
            ) from error
        return out

    def packed(self, row: int) -> bytes:
        """Return the stored bytes of slice `row`, a blosc2 chunk, unchecked. Raises `IndexError` or `OSError`."""
        shard, offset, length, _ = self._place(row)
        return self._files.read(shard, offset, length)

    def _place(self, row: int) -> tuple[int, int, int, int]:
        """Return the shard of `row`, and offset, length and checksum in it."""
        if not 0 <= row < self.n:
            raise IndexError(f"row {row} of {self.n}")
        offset, length, checksum = self._places[row].tolist()
        return row // self._shard_rows, offset, length, checksum


def cache_folder(cache_dir: Path, name: str, spec: CacheSpec, key: str) -> Path:
    """Return the folder of the cache of dataset `name` that has `key`."""
    return cache_dir / f"{name}-{spec.size}-{key[:12]}"


def name_of(folder: Path) -> str:
    """Return the name of the dataset whose cache is in `folder`."""
    return folder.name.rsplit("-", 2)[0]


def shard_path(folder: Path, shard: int) -> Path:
    """Return the file of shard number `shard` of the cache in `folder`."""
    return folder / f"{shard:05d}.shard"


def shard_rows(shard: int, n: int) -> range:
    """Return which of `n` slices stand in shard number `shard`."""
    return range(shard * SHARD_ROWS, min(n, (shard + 1) * SHARD_ROWS))


def slices_digest(slices: pd.DataFrame) -> str:
    """Return the SHA-256 of the ordered slice ids and the fingerprints of their files."""
    digest = hashlib.sha256()
    for slice_id, size, mtime in zip(slices["slice_id"], slices["bytes"], slices["mtime_ns"], strict=True):
        digest.update(f"\n{slice_id}\t{size}\t{mtime}".encode())
    return digest.hexdigest()


def cache_key(of_slices: str, spec: CacheSpec) -> str:
    """Return the SHA-256 of what determines a cache: the slices' digest, the spec, the decoder's version."""
    return hashlib.sha256(
        json.dumps([DECODER_VERSION, FORMAT, SHARD_ROWS, asdict(spec), of_slices]).encode()
    ).hexdigest()


def estimated_bytes(n: int, size: int) -> int:
    """Return about how much disk `n` slices at `size` pixels take."""
    return int(n * size * size * 2 * PACKED_SHARE)


def read_manifest(folder: Path, file: str = CACHE_FILE) -> dict[str, Any] | None:
    """Return what `cache.json` (or `build.json`) in `folder` says; None where it is absent or damaged."""
    try:
        manifest: dict[str, Any] = json.loads((folder / file).read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return manifest if manifest.get("format") == FORMAT else None
