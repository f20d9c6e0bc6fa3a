"""The HU cache: the slices of a dataset as int16 Hounsfield units at one size, decoded once and read in any order.

Windows, labels and folds are not part of it, so a change of them needs no new cache. `ichx.cache.build` builds it.

A cache is a folder with shards, `places.npy` (position of each chunk) and `cache.json`, which is written last. A folder
without `cache.json` is an unfinished build, described by `build.json`; the shards in it are complete. The cache of a
mixture has no shards: its `places.npy` has the part of each slice and the row in the cache of that part.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from ichx.cache.resize import INTERPOLATIONS
from ichx.cache.shards import SHARD_ROWS, ShardFiles, check_chunk, unpack
from ichx.ct.dicom import DECODER_VERSION
from ichx.errors import CorruptFileError
from ichx.text import parse_json

if TYPE_CHECKING:
    import pandas as pd

FORMAT: Final = 2
"""Version of the layout of the folder and its shards."""

PACKED_SHARE: Final = 0.5
"""Estimated bytes on disk per byte of HU. Real slices take 0.40 to 0.45."""

CENTRINGS: Final = ("none", "slice", "series")

PLACES_FILE, CACHE_FILE, BUILD_FILE = "places.npy", "cache.json", "build.json"


@dataclass(frozen=True)
class CacheSpec:
    """The part of a recipe's input that determines the pixels of a cache."""

    size: int
    """Rows and columns in pixels."""
    centre: str
    """One of `CENTRINGS`: move the head to the middle per slice, per series, or not at all."""
    resize: str
    """`bilinear` or `area`."""
    field: float = 0.0
    """Edge in mm of the square around the middle that is cached; 0 for the complete image."""

    def __post_init__(self) -> None:
        if (
            self.size < 1
            or not 0 <= self.field < math.inf
            or self.centre not in CENTRINGS
            or self.resize not in INTERPOLATIONS
        ):
            raise ValueError(f"invalid cache: {self}")

    def __str__(self) -> str:
        field = f", {self.field:g} mm" if self.field else ""
        return f"{self.size} px, centre {self.centre}, {self.resize}{field}"

    def to_dict(self) -> dict[str, Any]:
        """Return the values for manifests and keys; those of version 0.1 have no `field`."""
        return {name: value for name, value in asdict(self).items() if name != "field" or value}


class Cache:
    """A finished cache, open for reading. It can be pickled to worker processes, which open it themselves."""

    def __init__(self, folder: Path, local: Path | None = None) -> None:
        """Open the cache in `folder`; shards that are in `local`, too, are read there."""
        manifest = parse_json((folder / CACHE_FILE).read_text())
        self.folder = folder
        self.key: str = manifest["key"]
        self.spec = CacheSpec(**manifest["spec"])
        self.n: int = manifest["n"]
        """Number of slices."""
        self._shard_rows: int = manifest["shard_rows"]
        self.defects: Mapping[int, str] = MappingProxyType({int(row): why for row, why in manifest["defects"].items()})
        """Row -> reason of each slice that could not be decoded. Such a slice reads as air."""
        self.shard_bytes: tuple[int, ...] = tuple(manifest["shard_bytes"])
        """Bytes of each shard on disk."""
        self.nbytes: int = sum(self.shard_bytes)
        """Bytes on disk."""
        self.local = local
        self.parts: tuple[Cache, ...] = tuple(
            Cache(folder.parent / part["folder"], None if local is None else local.parent / part["folder"])
            for part in manifest.get("parts", ())
        )
        """The caches that have the slices of a mixture; none for other caches."""
        self._shape = (self.spec.size, self.spec.size)
        shards = range(len(self.shard_bytes))
        self._files = ShardFiles([shard_path(folder, shard) for shard in shards])
        copies = {path.name for path in local.iterdir()} if local is not None and local.is_dir() else set()
        self._local_shards = frozenset(shard for shard in shards if shard_path(folder, shard).name in copies)
        self._local_files = ShardFiles([shard_path(local or folder, shard) for shard in shards])
        # Memory-mapped, so that all workers share one copy.
        self._places: npt.NDArray[np.int64] = np.asarray(np.load(folder / PLACES_FILE, mmap_mode="r"))

    def __reduce__(self) -> tuple[type["Cache"], tuple[Path, Path | None]]:
        return type(self), (self.folder, self.local)

    def __len__(self) -> int:
        return self.n

    @cached_property
    def valid(self) -> npt.NDArray[np.bool_]:
        """Mask (n,) of the rows that are not defects."""
        valid = np.ones(self.n, bool)
        valid[list(self.defects)] = False
        valid.flags.writeable = False
        return valid

    def places(self, shard: int) -> npt.NDArray[np.int64]:
        """Return offset, length and CRC-32 of each chunk of `shard`, (k, 3)."""
        return np.array(self._places[shard * self._shard_rows : (shard + 1) * self._shard_rows])

    def rows_of_part(self, part: int, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return where number `part` of `parts` has those of `rows` that are its slices."""
        places = np.asarray(self._places[rows])
        found: npt.NDArray[np.int64] = places[places[:, 0] == part, 1]
        return found

    def read(self, row: int, out: npt.NDArray[np.int16] | None = None) -> npt.NDArray[np.int16]:
        """Return slice `row` as (size, size) int16 HU.

        Args:
            row: Row of the slice, from 0.
            out: Array to fill and return, C-contiguous; a new one by default.

        Raises:
            IndexError: The cache has no such row.
            CorruptFileError: The shard is damaged or missing.
        """
        if out is None:
            out = np.empty(self._shape, np.int16)
        elif out.shape != self._shape or out.dtype != np.int16 or not out.flags.c_contiguous:
            raise ValueError(f"out must be contiguous int16 of {self.spec.size} x {self.spec.size}")
        self._use_chunk(row, lambda chunk, checksum: unpack(chunk, checksum, out))
        return out

    def read_chunk(self, row: int) -> bytes:
        """Return slice `row` as it is stored: a blosc2 chunk, whose checksum and size are verified.

        Raises:
            IndexError: The cache has no such row.
            CorruptFileError: The shard is damaged or missing.
        """
        size = 2 * self.spec.size * self.spec.size
        return self._use_chunk(row, lambda chunk, checksum: check_chunk(chunk, checksum, size))

    def _use_chunk(self, row: int, use: Callable[[bytes, int], None]) -> bytes:
        """Call `use` with the chunk of `row` and its checksum, and return the chunk; raises like `read`."""
        if not 0 <= row < self.n:
            raise IndexError(f"row {row} of {self.n}")
        if self.parts:
            number, place = self._places[row].tolist()
            part: Cache = self.parts[number]
            return part._use_chunk(place, use)
        shard = row // self._shard_rows
        offset, length, checksum = self._places[row].tolist()
        if shard in self._local_shards:
            with suppress(OSError, ValueError, RuntimeError):  # removed or damaged: the cache itself is read
                chunk = self._local_files.read(shard, offset, length)
                use(chunk, checksum)
                return chunk
        try:
            chunk = self._files.read(shard, offset, length)
            use(chunk, checksum)
        except (OSError, ValueError, RuntimeError) as error:
            why = (error.strerror if isinstance(error, OSError) else None) or str(error)
            raise CorruptFileError(
                f"Cannot read slice {row} of the cache {self.folder}: {shard_path(self.folder, shard).name}: {why}.",
                f"Run `ichx data cache {self.folder.name.rsplit('-', 2)[0]} --verify` to remove damaged files. "
                "The next use rebuilds them.",
            ) from error
        return chunk


def cache_folder(cache_dir: Path, name: str, spec: CacheSpec, key: str) -> Path:
    """Return the folder of the cache of dataset `name` with `key`."""
    return cache_dir / f"{name}-{spec.size}-{key[:12]}"


def shard_path(folder: Path, shard: int) -> Path:
    """Return the path of shard number `shard` of the cache in `folder`."""
    return folder / f"{shard:05d}.shard"


def shard_rows(shard: int, n: int) -> range:
    """Return the rows in shard number `shard` of a cache of `n` slices."""
    return range(shard * SHARD_ROWS, min(n, (shard + 1) * SHARD_ROWS))


def shards_of(rows: npt.NDArray[np.int64]) -> list[int]:
    """Return the numbers of the shards that have `rows`, ascending."""
    shards: list[int] = np.unique(rows // SHARD_ROWS).tolist()
    return shards


def slices_digest(slices: "pd.DataFrame") -> str:
    """Return the SHA-256 of the ordered slice ids, the fingerprints of their files and their reading assumptions."""
    digest = hashlib.sha256()
    columns = [slices[name] for name in ("slice_id", "bytes", "mtime_ns")]
    assumptions = slices["assumptions"] if "assumptions" in slices else [""] * len(slices)
    for slice_id, size, mtime, assumed in zip(*columns, assumptions, strict=True):
        # Version 0.1 knew no assumptions: its caches of slices that have some contain other values.
        digest.update("\t".join((f"\n{slice_id}", str(size), str(mtime), *assumed.split())).encode())
    return digest.hexdigest()


def cache_key(of_slices: str, spec: CacheSpec) -> str:
    """Return the SHA-256 of everything that determines a cache, given the `slices_digest` of its slices."""
    return hashlib.sha256(
        json.dumps([DECODER_VERSION, FORMAT, SHARD_ROWS, spec.to_dict(), of_slices]).encode()
    ).hexdigest()


def estimated_bytes(n: int, size: int) -> int:
    """Return the estimated bytes on disk of `n` slices at `size` pixels."""
    return int(n * size * size * 2 * PACKED_SHARE)


def read_manifest(folder: Path, file: str = CACHE_FILE) -> dict[str, Any] | None:
    """Return the content of `cache.json` (or `build.json`) in `folder`; None if it is missing, damaged or outdated."""
    try:
        manifest = parse_json((folder / file).read_text())
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) and manifest.get("format") == FORMAT else None


def is_complete(folder: Path, key: str) -> bool:
    """Return whether the cache in `folder` is finished and all its shards still exist with their sizes."""
    manifest = read_manifest(folder)
    if manifest is None or manifest["key"] != key:
        return False
    if not all(is_complete(folder.parent / part["folder"], part["key"]) for part in manifest.get("parts", ())):
        return False
    try:
        sizes = [shard_path(folder, shard).stat().st_size for shard in range(len(manifest["shard_bytes"]))]
    except FileNotFoundError:
        return False
    return sizes == manifest["shard_bytes"] and (folder / PLACES_FILE).is_file()
