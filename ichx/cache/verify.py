"""Caches on disk: list those of a dataset and verify their checksums. They are built by `ichx.cache.build`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ichx.cache.hu_cache import (
    BUILD_FILE,
    CACHE_FILE,
    PLACES_FILE,
    CacheSpec,
    cache_key,
    is_complete,
    read_manifest,
    shard_path,
    shard_rows,
)
from ichx.cache.shards import SHARD_ROWS, count_damaged, read_table
from ichx.errors import CorruptFileError, StorageError
from ichx.worker_pool import map_in_processes, worker_count

if TYPE_CHECKING:
    from ichx.datasets.ingest import ProgressCallback


@dataclass(frozen=True)
class FoundCache:
    """A cache on disk, finished or not."""

    folder: Path
    spec: CacheSpec
    n: int
    """Number of slices."""
    shards: int
    """Shards that exist, of `of_shards`."""
    of_shards: int
    nbytes: int
    defects: int
    """Slices that could not be decoded."""
    complete: bool
    current: bool
    """Whether it has the slices of the requested version of the dataset."""
    reads: tuple[str, ...] = ()
    """Folders of the caches that have the slices of a mixture."""


@dataclass(frozen=True)
class VerifiedCache:
    """Result of verifying all checksums of a cache."""

    folder: Path
    spec: CacheSpec
    shards: int
    """Number of verified shards."""
    damaged: dict[str, str]
    """File name -> problem. These files have been removed."""


@dataclass(frozen=True)
class VerifyJob:
    """Verify the shard at `path`, which should have `rows` slices at `places` of the index (None without an index)."""

    path: Path
    rows: int
    places: npt.NDArray[np.int64] | None


def find_caches(cache_dir: Path, name: str, of_slices: str) -> list[FoundCache]:
    """Return the caches of dataset `name` in `cache_dir`, sorted by size.

    Args:
        cache_dir: Folder of all caches.
        name: The dataset.
        of_slices: Digest of the slices of the version for which a cache is `current`.

    Raises:
        StorageError: A folder cannot be read.
    """
    try:
        found = [_inspect(folder, of_slices) for folder in _folders(cache_dir, name)]
    except OSError as error:
        raise _storage_error(cache_dir, error) from error
    return sorted((cache for cache in found if cache), key=lambda cache: (cache.spec.size, cache.folder.name))


def foreign_caches(cache_dir: Path, name: str) -> list[Path]:
    """Return the cache folders of dataset `name` that only another version of ichx can read.

    Raises:
        StorageError: A folder cannot be read.
    """
    try:
        folders = _folders(cache_dir, name)
        return [f for f in folders if read_manifest(f) is None and read_manifest(f, BUILD_FILE) is None]
    except OSError as error:
        raise _storage_error(cache_dir, error) from error


def verify_caches(
    caches: Sequence[FoundCache], *, processes: int | None = None, progress: "ProgressCallback | None" = None
) -> list[VerifiedCache]:
    """Read every byte of `caches` and remove damaged files, so that the next build recreates them.

    Args:
        caches: The caches.
        processes: Worker processes; one per core when None.
        progress: Receives (done, total) shards.

    Raises:
        StorageError: A file cannot be read or removed.
    """
    caches = [cache for cache in caches if not cache.reads]  # the caches of its parts are verified
    total, done, verified = sum(cache.shards for cache in caches), 0, []
    for cache in caches:
        index = _read_index(cache)
        jobs = [
            VerifyJob(path, len(rows), None if index is None else index[rows])
            for shard in range(cache.of_shards)
            if (path := shard_path(cache.folder, shard)).exists()
            for rows in [shard_rows(shard, cache.n)]
        ]
        damaged: dict[str, str] = {}
        index_differs = cache.complete and index is None
        try:
            for file, problem, matches in map_in_processes(verify_shard, jobs, worker_count(processes, len(jobs))):
                if problem:
                    damaged[file] = problem
                index_differs |= not matches
                done += 1
                if progress is not None:
                    progress(done, total)
            for file in damaged:
                (cache.folder / file).unlink(missing_ok=True)
            if index_differs:
                damaged[PLACES_FILE] = "it does not match the shards"
                (cache.folder / CACHE_FILE).unlink(missing_ok=True)
        except OSError as error:
            raise _storage_error(cache.folder, error) from error
        verified.append(VerifiedCache(cache.folder, cache.spec, len(jobs), dict(sorted(damaged.items()))))
    return verified


def raise_if_damaged(name: str, verified: Sequence[VerifiedCache]) -> None:
    """Raise an error with all damaged files of the caches of dataset `name`, if there are any.

    Raises:
        CorruptFileError: A file was damaged.
    """
    damaged = [cache for cache in verified if cache.damaged]
    if not damaged:
        return
    problems = [
        f"{cache.folder / file} was damaged and has been removed: {why}."
        for cache in damaged
        for file, why in cache.damaged.items()
    ]
    commands = " and ".join(
        f"`ichx data cache {name} --size {cache.spec.size} --centre {cache.spec.centre} --resize {cache.spec.resize}"
        + (f" --field {cache.spec.field:g}`" if cache.spec.field else "`")
        for cache in damaged
    )
    raise CorruptFileError("\n".join(problems), f"Run {commands} to rebuild only the removed files.")


def verify_shard(job: VerifyJob) -> tuple[str, str, bool]:
    """Return the file name of the shard, its problem (empty if intact), and whether the index matches it."""
    try:
        table = read_table(job.path)
    except ValueError as error:
        return job.path.name, str(error), True
    if len(table.places) != job.rows:
        return job.path.name, f"it has {len(table.places)} slices instead of {job.rows}", True
    damaged = count_damaged(job.path, table)
    problem = f"{damaged} of {job.rows} slices have a wrong checksum" if damaged else ""
    return job.path.name, problem, job.places is None or np.array_equal(job.places, table.places)


def _folders(cache_dir: Path, name: str) -> list[Path]:
    folders = sorted(cache_dir.iterdir()) if cache_dir.is_dir() else []
    return [folder for folder in folders if re.fullmatch(rf"{re.escape(name)}-\d+-\w{{12}}", folder.name)]


def _inspect(folder: Path, of_slices: str) -> FoundCache | None:
    finished = read_manifest(folder)
    manifest = finished or read_manifest(folder, BUILD_FILE)
    if manifest is None:
        return None
    spec, n = CacheSpec(**manifest["spec"]), int(manifest["n"])
    reads = tuple(str(part["folder"]) for part in manifest.get("parts", ()))
    count = 0 if reads else -(-n // SHARD_ROWS)
    paths = [path for path in (shard_path(folder, shard) for shard in range(count)) if path.exists()]
    sizes = [path.stat().st_size for path in paths]
    return FoundCache(
        folder=folder,
        spec=spec,
        n=n,
        shards=len(paths),
        of_shards=count,
        nbytes=sum(sizes),
        defects=len(finished["defects"]) if finished else 0,
        complete=is_complete(folder, manifest["key"])
        if reads
        else finished is not None and sizes == finished["shard_bytes"],
        current=cache_key(of_slices, spec) == manifest["key"],
        reads=reads,
    )


def _read_index(cache: FoundCache) -> npt.NDArray[np.int64] | None:
    """Return the positions of all chunks, (n, 3), or None if the index is missing or unusable."""
    if read_manifest(cache.folder) is None:
        return None
    try:
        places = np.load(cache.folder / PLACES_FILE)
    except (FileNotFoundError, ValueError, EOFError):
        return None
    return places if places.shape == (cache.n, 3) and places.dtype == np.int64 else None


def _storage_error(folder: Path, error: OSError) -> StorageError:
    return StorageError(
        f"Cannot check the cache {folder}: {error.strerror or error}.",
        "Give yourself permission to read and write the folder.",
    )
