"""The HU cache: a dataset's slices as int16 Hounsfield units at one size, decoded once and read in any order.

Not for windows, labels or folds: any of them can change without a new cache. The decoding itself is in
`ichx.data.cache_jobs`.

A cache is a folder of shards, `places.npy` (where each chunk stands) and `cache.json`, which is written last: a folder
without it is an unfinished build, of which every shard that is there is whole.
"""

import errno
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.data.cache_jobs import CentresJob, ShardJob, SourceFile, build_shard, find_centres, run_jobs
from ichx.data.resize import METHODS
from ichx.data.shards import SHARD_ROWS, crc32, read_packed, read_table, remove_stale, unpack, write_atomically
from ichx.errors import IchxError

DECODER_VERSION: Final = 1
"""Raised whenever the same file and spec would give other HU, so that old caches are not taken for new ones."""

FORMAT: Final = 1
"""Layout of the folder."""

PACKED_SHARE: Final = 0.5
"""Bytes on disk per byte of HU, for estimates: real slices take 0.40 to 0.45."""

CENTRINGS: Final = ("none", "slice", "series")


@dataclass(frozen=True)
class CacheSpec:
    """How to cache: `size` in pixels, `centre` (none, slice, series), `resize` (bilinear, area) of a recipe."""

    size: int
    centre: str
    resize: str

    def __post_init__(self) -> None:
        if self.size < 1 or self.centre not in CENTRINGS or self.resize not in METHODS:
            raise ValueError(f"no such cache: {self}")

    @property
    def slice_bytes(self) -> int:
        """Bytes of one unpacked slice."""
        return self.size * self.size * 2


class Cache:
    """A finished cache, open for reading. May be pickled to worker processes, which open it again.

    `spec`; `n`, the number of slices; `defects`: row -> reason, of slices that could not be decoded (they read as air);
    `valid` (n,) bool, the rest; `nbytes` on disk.
    """

    def __init__(self, folder: Path) -> None:
        manifest = json.loads((folder / "cache.json").read_text())
        self.folder = folder
        self.key: str = manifest["key"]
        self.spec = CacheSpec(**manifest["spec"])
        self.n: int = manifest["n"]
        self._shard_rows: int = manifest["shard_rows"]
        self.defects: Mapping[int, str] = MappingProxyType({int(row): why for row, why in manifest["defects"].items()})
        self.nbytes: int = sum(manifest["shard_bytes"])
        self._paths = [shard_path(folder, shard) for shard in range(len(manifest["shard_bytes"]))]
        # Mapped, not read: all workers share one copy.
        self._places: npt.NDArray[np.int64] = np.asarray(np.load(folder / "places.npy", mmap_mode="r"))

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

        Raises `IndexError` for a row that is none, `IchxError` when the cache is damaged.
        """
        if out is None:
            out = np.empty((self.spec.size, self.spec.size), np.int16)
        elif out.shape != (self.spec.size, self.spec.size) or out.dtype != np.int16 or not out.flags.c_contiguous:
            raise ValueError(f"out must be contiguous int16 of {self.spec.size} x {self.spec.size}")
        try:
            unpack(self._packed(row), out)
        except (OSError, ValueError, RuntimeError) as error:
            raise IchxError(
                f"slice {row} of the cache {self.folder} cannot be read: {error}",
                "remove that folder; the cache is built again on the next use",
            ) from error
        return out

    def damaged_rows(self) -> Iterator[int]:
        """Yield the rows whose stored bytes are missing or differ from their checksum."""
        for row in range(self.n):
            try:
                sound = crc32(self._packed(row)) == self._places[row, 2]
            except (OSError, ValueError, RuntimeError):
                sound = False
            if not sound:
                yield row

    def _packed(self, row: int) -> bytes:
        if not 0 <= row < self.n:
            raise IndexError(f"row {row} of {self.n}")
        shard, inner = divmod(row, self._shard_rows)
        return read_packed(self._paths[shard], inner, self._places[row])


def shard_path(folder: Path, shard: int) -> Path:
    """Return the file of shard number `shard` of the cache in `folder`."""
    return folder / f"{shard:05d}.b2frame"


def cache_key(slices: pd.DataFrame, spec: CacheSpec) -> str:
    """Return the SHA-256 of what determines a cache: ordered slice ids and fingerprints, spec, decoder version."""
    digest = hashlib.sha256(json.dumps([DECODER_VERSION, FORMAT, SHARD_ROWS, asdict(spec)]).encode())
    for slice_id, size, mtime in zip(slices["slice_id"], slices["bytes"], slices["mtime_ns"], strict=True):
        digest.update(f"\n{slice_id}\t{size}\t{mtime}".encode())
    return digest.hexdigest()


def estimated_bytes(n: int, size: int) -> int:
    """Return about how much disk `n` slices at `size` pixels take."""
    return int(n * size * size * 2 * PACKED_SHARE)


def find_cache(cache_dir: Path, name: str, slices: pd.DataFrame, spec: CacheSpec) -> Cache | None:
    """Return the finished cache of `slices` in `cache_dir`; None where there is none, and nothing is built."""
    key = cache_key(slices, spec)
    folder = _folder(cache_dir, name, spec, key)
    return Cache(folder) if _is_complete(folder, key) else None


def ensure_cache(
    cache_dir: Path,
    name: str,
    source: Path,
    slices: pd.DataFrame,
    spec: CacheSpec,
    *,
    processes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Cache:
    """Return the cache of `slices` (a dataset's, their files under `source`) in `cache_dir`, building what is missing.

    `processes` is by default one per core. `progress(done, total)` counts slices, twice over for `series` centring,
    which decodes twice. Shards that an interrupted build has finished are kept. Raises `IchxError` when the disk is
    too small or full, the folder cannot be written, a file has changed since the dataset was added, or a worker died.
    """
    key = cache_key(slices, spec)
    folder = _folder(cache_dir, name, spec, key)
    count = -(-len(slices) // SHARD_ROWS)
    try:
        if _is_complete(folder, key):
            return Cache(folder)
        folder.mkdir(parents=True, exist_ok=True)
        remove_stale(folder)
        missing = [shard for shard in range(count) if not _is_whole(shard_path(folder, shard))]
        _check_space(folder, sum(len(_rows(shard, len(slices))) for shard in missing), spec)
        _build(folder, source, slices, spec, missing, processes, progress)
        _finish(folder, key, spec, len(slices), count)
    except OSError as error:
        raise _write_error(error, folder, len(slices), spec) from error
    return Cache(folder)


def _folder(cache_dir: Path, name: str, spec: CacheSpec, key: str) -> Path:
    return cache_dir / f"{name}-{spec.size}-{key[:12]}"


def _is_complete(folder: Path, key: str) -> bool:
    """Whether the cache in `folder` is finished and none of its shards has gone or changed its size since."""
    try:
        manifest = json.loads((folder / "cache.json").read_text())
        if (manifest.get("key"), manifest.get("format")) != (key, FORMAT):
            return False
        found = [shard_path(folder, shard).stat().st_size for shard in range(len(manifest["shard_bytes"]))]
        return found == manifest["shard_bytes"] and (folder / "places.npy").is_file()
    except (FileNotFoundError, json.JSONDecodeError):
        return False


def _is_whole(path: Path) -> bool:
    """Whether a shard is there and opens; one that was damaged from outside is built again."""
    try:
        read_table(path)
    except (OSError, ValueError, RuntimeError, KeyError):
        return False
    return True


def _check_space(folder: Path, n: int, spec: CacheSpec) -> None:
    needed, free = estimated_bytes(n, spec.size), shutil.disk_usage(folder).free
    if needed > free:
        raise _no_space(folder, needed, free)


def _build(
    folder: Path,
    source: Path,
    slices: pd.DataFrame,
    spec: CacheSpec,
    missing: list[int],
    processes: int | None,
    progress: Callable[[int, int], None] | None,
) -> None:
    n = len(slices)
    wanted = [_rows(shard, n) for shard in missing]
    todo = sum(len(rows) for rows in wanted)
    if not todo:
        return
    workers = max(1, min(processes or _cores(), len(wanted)))
    files = _Files(source, slices)
    groups = _series_groups(slices) if spec.centre == "series" else np.zeros(n, np.int64)
    first_pass = np.empty(0, np.int64)
    if spec.centre == "series":
        asked = np.unique(groups[np.concatenate([np.asarray(rows) for rows in wanted])])
        first_pass = np.flatnonzero(np.isin(groups, asked))
    done, total = n - todo, n + len(first_pass)

    def advance(by: int) -> None:
        nonlocal done
        done += by
        if progress is not None:
            progress(done, total)

    advance(0)
    centres = np.full((n, 2), np.nan)
    parts = [first_pass[start : start + SHARD_ROWS] for start in range(0, len(first_pass), SHARD_ROWS)]
    searches = (CentresJob(tuple(part.tolist()), files.of(part.tolist())) for part in parts)
    for rows, found in run_jobs(find_centres, searches, workers):
        centres[list(rows)] = found
        advance(len(rows))
    medians = pd.DataFrame(centres).groupby(groups).transform("median").to_numpy()
    jobs = (
        ShardJob(
            str(shard_path(folder, shard)),
            files.of(_rows(shard, n)),
            spec.size,
            spec.centre,
            spec.resize,
            tuple((row, column) for row, column in medians[_rows(shard, n)].tolist())
            if spec.centre == "series"
            else (),
        )
        for shard in missing
    )
    for built in run_jobs(build_shard, jobs, workers):
        advance(built)


class _Files:
    """The slices' files, made into jobs a shard at a time."""

    def __init__(self, source: Path, slices: pd.DataFrame) -> None:
        self._source = source
        self._columns = [slices[column].to_numpy() for column in ("file", "bytes", "mtime_ns")]

    def of(self, rows: range | list[int]) -> tuple[SourceFile, ...]:
        paths, sizes, mtimes = self._columns
        return tuple(SourceFile(str(self._source / paths[row]), int(sizes[row]), int(mtimes[row])) for row in rows)


def _series_groups(slices: pd.DataFrame) -> npt.NDArray[np.int64]:
    """Return a group number per slice, (n,): its series, and within it its shape, in whose pixels a centre is told."""
    grouped = slices.groupby(["series", "rows", "columns"], sort=False, dropna=False)
    return np.asarray(grouped.ngroup(), np.int64)


def _finish(folder: Path, key: str, spec: CacheSpec, n: int, count: int) -> None:
    places, defects, sizes = [np.empty((0, 3), np.int64)], {}, []
    for shard in range(count):
        path = shard_path(folder, shard)
        table = read_table(path)
        places.append(table.places)
        defects.update({str(shard * SHARD_ROWS + row): reason for row, reason in table.defects.items()})
        sizes.append(path.stat().st_size)
    buffer = io.BytesIO()
    np.save(buffer, np.concatenate(places))
    write_atomically(folder / "places.npy", buffer.getvalue())
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "key": key,
        "spec": asdict(spec),
        "n": n,
        "shard_rows": SHARD_ROWS,
        "defects": defects,
        "shard_bytes": sizes,
    }
    write_atomically(folder / "cache.json", json.dumps(manifest).encode())


def _rows(shard: int, n: int) -> range:
    return range(shard * SHARD_ROWS, min(n, (shard + 1) * SHARD_ROWS))


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _write_error(error: OSError, folder: Path, n: int, spec: CacheSpec) -> IchxError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _no_space(folder, estimated_bytes(n, spec.size), shutil.disk_usage(folder).free)
    return IchxError(
        f"the cache {folder} cannot be written: {error.strerror or error}",
        "make the folder writable, or set another one as `cache` in ichx.toml",
    )


def _no_space(folder: Path, needed: int, free: int) -> IchxError:
    return IchxError(
        f"no space for the cache {folder}: it needs about {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free",
        "free some space, or set another folder as `cache` in ichx.toml; what is finished is kept",
    )
