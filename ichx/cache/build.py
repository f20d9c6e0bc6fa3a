"""Building caches: find missing shards, check the disk space, and distribute the work over processes.

Several sizes are built from one decoding. A build that was killed resumes after its last complete shard. The work on
one shard is in `ichx.cache.shard_jobs`, reading in `ichx.cache.hu_cache`.
"""

import contextlib
import errno
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.cache.hu_cache import (
    BUILD_FILE,
    CACHE_FILE,
    FORMAT,
    PLACES_FILE,
    Cache,
    CacheSpec,
    cache_folder,
    cache_key,
    estimated_bytes,
    read_manifest,
    shard_path,
    shard_rows,
    slices_digest,
)
from ichx.cache.shard_jobs import CentresJob, ShardJob, build_shards, find_centres
from ichx.cache.shards import SHARD_ROWS, read_table
from ichx.datasets.ingest import ProgressCallback
from ichx.datasets.sources import SourceFiles
from ichx.errors import StorageError
from ichx.files import atomic_path, remove_drafts
from ichx.locks import file_lock
from ichx.text import format_bytes, format_count
from ichx.worker_pool import map_in_processes, worker_count

LOCK_FILE = "building.lock"


@dataclass(frozen=True)
class CachePlan:
    """A requested cache and the part of it that is missing."""

    spec: CacheSpec
    key: str
    folder: Path
    n: int
    """Number of slices."""
    complete: bool
    missing: tuple[int, ...]
    """Numbers of the shards to build."""

    @property
    def shards(self) -> int:
        """Number of shards of the complete cache."""
        return -(-self.n // SHARD_ROWS)

    @property
    def bytes_needed(self) -> int:
        """Estimated bytes of the missing shards."""
        return estimated_bytes(sum(len(shard_rows(shard, self.n)) for shard in self.missing), self.spec.size)

    def __str__(self) -> str:
        text = f"{self.spec}: {format_count(self.n, 'slice')}"
        if self.complete:
            return f"{text}, complete"
        finished = self.shards - len(self.missing)
        rest = f", {finished:,} of {self.shards:,} shards finished" if finished else ""
        return f"{text}, about {format_bytes(self.bytes_needed)} to write{rest}"


def plan_caches(cache_dir: Path, name: str, slices: pd.DataFrame, specs: Sequence[CacheSpec]) -> list[CachePlan]:
    """Return the plans for caches of `slices`, rows of dataset `name`, one for each distinct spec. Writes nothing.

    Raises:
        StorageError: The folder cannot be read.
    """
    of_slices = slices_digest(slices)
    plans = []
    for spec in dict.fromkeys(specs):
        key = cache_key(of_slices, spec)
        folder = cache_folder(cache_dir, name, spec, key)
        try:
            plans.append(_inspect(CachePlan(spec, key, folder, len(slices), complete=False, missing=())))
        except OSError as error:
            raise _storage_error(error, folder, 0) from error
    return plans


def ensure_cache(
    cache_dir: Path,
    name: str,
    source: Path,
    slices: pd.DataFrame,
    spec: CacheSpec,
    *,
    processes: int | None = None,
    progress: ProgressCallback | None = None,
) -> Cache:
    """Return the cache of `slices`, rows of dataset `name`, for `spec`; see `build_caches`."""
    plans = plan_caches(cache_dir, name, slices, [spec])
    return build_caches(source, slices, plans, processes=processes, progress=progress)[0]


def find_cache(cache_dir: Path, name: str, slices: pd.DataFrame, spec: CacheSpec) -> Cache | None:
    """Return the cache that `ensure_cache` would return, or None if it is not complete."""
    (plan,) = plan_caches(cache_dir, name, slices, [spec])
    return Cache(plan.folder) if plan.complete else None


def build_caches(
    source: Path,
    slices: pd.DataFrame,
    plans: Sequence[CachePlan],
    *,
    processes: int | None = None,
    progress: ProgressCallback | None = None,
) -> list[Cache]:
    """Build the missing parts of `plans` and return their caches.

    If another process builds one of them, wait for it and build what is missing then. Finished shards stay on disk
    after an error.

    Args:
        source: Folder or zip of the files.
        slices: Rows of the dataset, as in `plan_caches`.
        plans: The caches.
        processes: Worker processes; one per core when None.
        progress: Receives (done, total) slices. Slices that `series` centring decodes beforehand count twice.

    Raises:
        StorageError: The disk is full or too small, or the folder cannot be written.
        ChangedDataError: A file has changed since the dataset was added.
        ProcessError: A worker died.
    """
    incomplete = [plan for plan in plans if not plan.complete]
    if incomplete:
        with _locked(incomplete):
            _build_missing(source, slices, incomplete, processes, progress)
    return [Cache(plan.folder) for plan in plans]


def _build_missing(
    source: Path,
    slices: pd.DataFrame,
    plans: Sequence[CachePlan],
    processes: int | None,
    progress: ProgressCallback | None,
) -> None:
    folder, needed = plans[0].folder, 0
    try:
        # Another process may have built a part while this one waited for the lock.
        plans = [plan for plan in map(_inspect, plans) if not plan.complete]
        needed = sum(plan.bytes_needed for plan in plans)
        for plan in plans:
            folder = plan.folder
            if needed > shutil.disk_usage(folder).free:
                raise _no_space(folder, needed)
            if read_manifest(folder, BUILD_FILE) is None:
                _write_json(folder / BUILD_FILE, _manifest(plan))
        _build_shards(source, slices, plans, processes, progress)
        for plan in plans:
            folder = plan.folder
            _finish(plan)
    except OSError as error:
        raise _storage_error(error, folder, needed) from error


@contextlib.contextmanager
def _locked(plans: Sequence[CachePlan]) -> Iterator[None]:
    """Hold the locks of the folders of `plans`, which are created and cleared of temporary files."""
    with contextlib.ExitStack() as locks:
        for folder in sorted({plan.folder for plan in plans}):  # sorted, so that two processes cannot deadlock
            try:
                if locks.enter_context(file_lock(folder / LOCK_FILE)):
                    remove_drafts(folder)
            except OSError as error:
                raise _storage_error(error, folder, 0) from error
        yield


def _inspect(plan: CachePlan) -> CachePlan:
    """Return `plan` with the current state of its folder. Raises `OSError`."""
    complete = _is_complete(plan.folder, plan.key)
    shards = range(0 if complete else plan.shards)
    missing = tuple(shard for shard in shards if not _is_intact(shard_path(plan.folder, shard)))
    return replace(plan, complete=complete, missing=missing)


def _is_complete(folder: Path, key: str) -> bool:
    """Return whether the cache in `folder` is finished and all its shards still exist with their sizes."""
    manifest = read_manifest(folder)
    if manifest is None or manifest["key"] != key:
        return False
    try:
        sizes = [shard_path(folder, shard).stat().st_size for shard in range(len(manifest["shard_bytes"]))]
    except FileNotFoundError:
        return False
    return sizes == manifest["shard_bytes"] and (folder / PLACES_FILE).is_file()


def _is_intact(path: Path) -> bool:
    """Return whether the shard exists and its table can be read; another one is rebuilt."""
    try:
        read_table(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    return True


def _build_shards(
    source: Path,
    slices: pd.DataFrame,
    plans: Sequence[CachePlan],
    processes: int | None,
    progress: ProgressCallback | None,
) -> None:
    n = len(slices)
    numbers = sorted({shard for plan in plans for shard in plan.missing})
    todo = sum(len(shard_rows(shard, n)) for shard in numbers)
    if not todo:
        return
    workers = worker_count(processes, len(numbers))
    files = SourceFiles(source, slices)
    by_series = sorted({shard for plan in plans if plan.spec.centre == "series" for shard in plan.missing})
    rows = np.concatenate([np.empty(0, np.int64), *(np.asarray(shard_rows(shard, n)) for shard in by_series)])
    first_pass = rows_of_same_series(slices, rows)
    done, total = n - todo, n + len(first_pass)

    def advance(by: int) -> None:
        nonlocal done
        done += by
        if progress is not None:
            progress(done, total)

    advance(0)
    centres = series_centres(files, slices, first_pass, workers, advance)

    def job(shard: int) -> ShardJob:
        rows = shard_rows(shard, n)
        targets = tuple((shard_path(plan.folder, shard), plan.spec) for plan in plans if shard in plan.missing)
        needed = centres[rows] if any(spec.centre == "series" for _, spec in targets) else centres[:0]
        return ShardJob(files.select(rows), targets, tuple((row, column) for row, column in needed.tolist()))

    for built in map_in_processes(build_shards, map(job, numbers), workers):
        advance(built)


def rows_of_same_series(slices: pd.DataFrame, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return all rows of the series of `rows`, of the same image shapes: the rows that determine their centres."""
    if not len(rows):
        return np.empty(0, np.int64)
    groups = _series_groups(slices)
    return np.flatnonzero(np.isin(groups, np.unique(groups[rows])))


def series_centres(
    files: SourceFiles, slices: pd.DataFrame, rows: npt.NDArray[np.int64], workers: int, advance: Callable[[int], None]
) -> npt.NDArray[np.float64]:
    """Return the median head centre of the series of each slice.

    Args:
        files: The files of `slices`.
        slices: Rows of the dataset.
        rows: Result of `rows_of_same_series`; these slices are decoded.
        workers: Processes.
        advance: Receives the number of slices decoded since its last call.

    Returns:
        Row and column in pixels, (n, 2), NaN for other series; (0, 2) if `rows` is empty.
    """
    if not len(rows):
        return np.empty((0, 2))
    centres = np.full((len(slices), 2), np.nan)
    parts = [rows[start : start + SHARD_ROWS] for start in range(0, len(rows), SHARD_ROWS)]
    jobs = (CentresJob(tuple(part.tolist()), files.select(part.tolist())) for part in parts)
    for decoded, found in map_in_processes(find_centres, jobs, workers):
        centres[list(decoded)] = found
        advance(len(decoded))
    return pd.DataFrame(centres).groupby(_series_groups(slices)).transform("median").to_numpy()


def _series_groups(slices: pd.DataFrame) -> npt.NDArray[np.int64]:
    """Return a group number per slice, (n,): series and image shape, because a centre is in pixels."""
    grouped = slices.groupby(["study", "series", "rows", "columns"], sort=False, dropna=False)
    return np.asarray(grouped.ngroup(), np.int64)


def _manifest(plan: CachePlan) -> dict[str, Any]:
    return {"format": FORMAT, "key": plan.key, "spec": asdict(plan.spec), "n": plan.n, "shard_rows": SHARD_ROWS}


def _finish(plan: CachePlan) -> None:
    """Write the index and the manifest of a cache whose shards are all built."""
    places, defects, sizes = [np.empty((0, 3), np.int64)], {}, []
    for shard in range(plan.shards):
        path = shard_path(plan.folder, shard)
        table = read_table(path)
        places.append(table.places)
        defects.update({str(shard * SHARD_ROWS + row): reason for row, reason in table.defects.items()})
        sizes.append(path.stat().st_size)
    with atomic_path(plan.folder / PLACES_FILE) as draft:
        np.save(draft, np.concatenate(places))
    _write_json(plan.folder / CACHE_FILE, _manifest(plan) | {"defects": defects, "shard_bytes": sizes})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with atomic_path(path) as draft:
        draft.write_text(json.dumps(content))


def _storage_error(error: OSError, folder: Path, needed: int) -> StorageError:
    if error.errno == errno.ENOSPC:
        return _no_space(folder, needed)
    return StorageError(
        f"Cannot write the cache {folder}: {error.strerror or error}.",
        "Make the folder writable, or set another folder as `cache` in ichx.toml. Finished shards remain.",
    )


def _no_space(folder: Path, needed: int) -> StorageError:
    free = shutil.disk_usage(folder).free
    return StorageError(
        f"No space for the cache {folder}: it needs about {format_bytes(needed)}, {format_bytes(free)} are free.",
        "Free some space, or set another folder as `cache` in ichx.toml. Finished shards remain.",
    )
