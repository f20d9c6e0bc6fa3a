"""Which caches a dataset has, what they take on disk, and whether every byte of them is still what was written.

Not for building (`ichx.cache.build`).
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ichx.cache.hu_cache import (
    BUILD_FILE,
    CACHE_FILE,
    PLACES_FILE,
    CacheSpec,
    cache_key,
    read_manifest,
    shard_path,
    shard_rows,
)
from ichx.cache.shards import SHARD_ROWS, damaged_chunks, read_table
from ichx.errors import IchxError, raise_problems
from ichx.worker_pool import run_jobs, worker_count


@dataclass(frozen=True)
class FoundCache:
    """A cache on disk of `n` slices: `shards` of `of_shards` are there, `nbytes` in all; `complete` when it is in use.

    `current`: it belongs to the version of the dataset that was asked about. `defects` were found by decoding.
    """

    folder: Path
    spec: CacheSpec
    n: int
    shards: int
    of_shards: int
    nbytes: int
    defects: int
    complete: bool
    current: bool


@dataclass(frozen=True)
class Verified:
    """What a check of every checksum in the cache in `folder` found.

    `damaged`: file -> what is wrong with it; those files have been taken out. `shards` is how many were looked at.
    """

    folder: Path
    spec: CacheSpec
    shards: int
    damaged: dict[str, str]


@dataclass(frozen=True)
class CheckJob:
    """Check the shard at `path`, of `rows` slices; `places` are what the cache's index says of them, or None."""

    path: Path
    rows: int
    places: npt.NDArray[np.int64] | None


def find_caches(cache_dir: Path, name: str, of_slices: str) -> list[FoundCache]:
    """Return the caches of dataset `name` in `cache_dir`, finished or not, by size.

    `of_slices` is the digest of the current version's slices. Raises `IchxError` where the folder cannot be read.
    """
    try:
        found = [_found(folder, of_slices) for folder in _folders(cache_dir, name)]
    except OSError as error:
        raise _unreadable(cache_dir, error) from error
    return sorted((cache for cache in found if cache), key=lambda cache: (cache.spec.size, cache.folder.name))


def foreign_caches(cache_dir: Path, name: str) -> list[Path]:
    """Return the folders of dataset `name` that another version of ichx made, which only take space here.

    Raises `IchxError` where the folder cannot be read.
    """
    try:
        folders = _folders(cache_dir, name)
        return [f for f in folders if read_manifest(f) is None and read_manifest(f, BUILD_FILE) is None]
    except OSError as error:
        raise _unreadable(cache_dir, error) from error


def verify_caches(
    caches: Sequence[FoundCache], *, processes: int | None = None, progress: Callable[[int, int], None] | None = None
) -> list[Verified]:
    """Read every byte of `caches`, and take out each shard that is damaged, so that the next build makes it again.

    `progress(done, total)` counts shards, which `processes` (one per core when None) read. Raises `IchxError` where
    something cannot be read or removed.
    """
    total, done, verified = sum(cache.shards for cache in caches), 0, []
    for cache in caches:
        index = _index(cache)
        jobs = [
            CheckJob(shard_path(cache.folder, shard), len(rows), None if index is None else index[rows])
            for shard in range(cache.of_shards)
            if shard_path(cache.folder, shard).exists()
            for rows in [shard_rows(shard, cache.n)]
        ]
        damaged: dict[str, str] = {}
        index_wrong = cache.complete and index is None
        try:
            for file, problem, agrees in run_jobs(check_shard, jobs, worker_count(processes, len(jobs))):
                if problem:
                    damaged[file] = problem
                index_wrong |= not agrees
                done += 1
                if progress is not None:
                    progress(done, total)
            for file in sorted(damaged):
                (cache.folder / file).unlink(missing_ok=True)
            if index_wrong:
                damaged[PLACES_FILE] = "it does not fit the shards"
                (cache.folder / CACHE_FILE).unlink(missing_ok=True)
        except OSError as error:
            raise _unreadable(cache.folder, error) from error
        verified.append(Verified(cache.folder, cache.spec, len(jobs), dict(sorted(damaged.items()))))
    return verified


def raise_damaged(name: str, verified: Sequence[Verified]) -> None:
    """Raise an `IchxError` that names each file of the caches of dataset `name` that was damaged; else do nothing."""
    damaged = [cache for cache in verified if cache.damaged]
    problems = [
        f"{cache.folder / file} was damaged and is taken out: {why}"
        for cache in damaged
        for file, why in cache.damaged.items()
    ]
    again = " and ".join(
        f"`ichx data cache {name} --size {cache.spec.size} --centre {cache.spec.centre} --resize {cache.spec.resize}`"
        for cache in damaged
    )
    raise_problems(problems, f"{again} builds only that again")


def check_shard(job: CheckJob) -> tuple[str, str, bool]:
    """Return the shard's file name, what is wrong with it (nothing: empty), and whether the index agrees with it."""
    try:
        table = read_table(job.path)
    except ValueError as error:
        return job.path.name, str(error), True
    if len(table.places) != job.rows:
        return job.path.name, f"{len(table.places)} slices, not {job.rows}", True
    damaged = damaged_chunks(job.path, table)
    problem = f"{damaged} of {job.rows} slices do not have their checksum" if damaged else ""
    return job.path.name, problem, job.places is None or np.array_equal(job.places, table.places)


def _folders(cache_dir: Path, name: str) -> list[Path]:
    folders = sorted(cache_dir.iterdir()) if cache_dir.is_dir() else []
    return [folder for folder in folders if re.fullmatch(rf"{re.escape(name)}-\d+-\w{{12}}", folder.name)]


def _found(folder: Path, of_slices: str) -> FoundCache | None:
    finished = read_manifest(folder)
    manifest = finished or read_manifest(folder, BUILD_FILE)
    if manifest is None:
        return None
    spec, n = CacheSpec(**manifest["spec"]), int(manifest["n"])
    count = -(-n // SHARD_ROWS)
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
        complete=finished is not None and sizes == finished["shard_bytes"],
        current=cache_key(of_slices, spec) == manifest["key"],
    )


def _index(cache: FoundCache) -> npt.NDArray[np.int64] | None:
    """Return the places of all chunks, (n, 3), or None where the cache has no usable index."""
    if read_manifest(cache.folder) is None:
        return None
    try:
        places = np.load(cache.folder / PLACES_FILE)
    except (FileNotFoundError, ValueError, EOFError):
        return None
    return places if places.shape == (cache.n, 3) and places.dtype == np.int64 else None


def _unreadable(folder: Path, error: OSError) -> IchxError:
    return IchxError(
        f"the cache {folder} cannot be checked: {error.strerror or error}",
        "give yourself the right to read and write it",
    )
