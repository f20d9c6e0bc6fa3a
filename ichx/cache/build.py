"""Building caches: find missing shards, check the disk space, and distribute the work over processes.

Several sizes are built from one decoding. A build that was killed resumes after its last complete shard. Several
builders share the work (`ichx.cache.sharing`). The work on one shard is in `ichx.cache.shard_jobs`, reading in
`ichx.cache.hu_cache`.
"""

import errno
import json
import os
import shutil
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
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
    is_complete,
    read_manifest,
    shard_path,
    shard_rows,
    slices_digest,
)
from ichx.cache.parts import PARTS_PATTERN, Part
from ichx.cache.resize import pixel_spacings
from ichx.cache.series_centres import CENTRES_PATTERN, missing_blocks, rows_of_same_series, shared_series_centres
from ichx.cache.shard_jobs import ShardJob, build_shards
from ichx.cache.shards import SHARD_ROWS, is_intact, read_table
from ichx.cache.sharing import CLAIM_PATTERN, SharedWork, build_once, claim, share
from ichx.datasets.ingest import ProgressCallback
from ichx.datasets.sources import SourceFiles
from ichx.errors import StorageError
from ichx.files import atomic_path, remove_drafts, write_error
from ichx.text import format_bytes, format_count
from ichx.worker_pool import core_count, worker_count


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
    parts: "tuple[CachePlan, ...]" = ()
    """The caches that the cache of a mixture reads; then `missing` is empty."""

    @property
    def shards(self) -> int:
        """Number of shards of the complete cache."""
        return sum(part.shards for part in self.parts) if self.parts else -(-self.n // SHARD_ROWS)

    @property
    def missing_shards(self) -> int:
        """Number of shards to build, with those of parts."""
        return sum(part.missing_shards for part in self.parts) if self.parts else len(self.missing)

    @property
    def missing_slices(self) -> int:
        """Estimated number of slices to decode, with those of parts."""
        if self.parts:
            return sum(part.missing_slices for part in self.parts)
        return 0 if self.complete else self.n * len(self.missing) // self.shards

    @property
    def bytes_needed(self) -> int:
        """Estimated bytes of the missing shards."""
        if self.parts:
            return sum(part.bytes_needed for part in self.parts)
        return estimated_bytes(sum(len(shard_rows(shard, self.n)) for shard in self.missing), self.spec.size)

    def __str__(self) -> str:
        text = f"{self.spec}: {format_count(self.n, 'slice')}"
        if self.complete:
            return f"{text}, complete"
        finished = self.shards - self.missing_shards
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

    Builders of the same cache share the work. Finished shards stay on disk after an error.

    Args:
        source: Folder or zip of the files.
        slices: Rows of the dataset, as in `plan_caches`.
        plans: The caches.
        processes: Worker processes; when None, one per core, or a single one if another builder uses all cores.
        progress: Receives (done, total) slices. Slices that `series` centring decodes beforehand count twice.

    Raises:
        StorageError: The disk is full or too small, or the folder cannot be written.
        ChangedDataError: A file has changed since the dataset was added.
        ProcessError: A worker died.
    """
    _build_missing(source, slices, plans, None, processes, progress)
    return [Cache(plan.folder) for plan in plans]


def build_part(
    source: Path,
    slices: pd.DataFrame,
    plans: Sequence[CachePlan],
    part: Part,
    *,
    processes: int | None = None,
    progress: ProgressCallback | None = None,
) -> None:
    """Build the shards of one of several parts of `plans`; the last part finishes the caches. See `build_caches`.

    All parts need the same `plans`. A part that another builder works on, too, shares the work.
    """
    _build_missing(source, slices, plans, part, processes, progress)


def _build_missing(
    source: Path,
    slices: pd.DataFrame,
    plans: Sequence[CachePlan],
    part: Part | None,
    processes: int | None,
    progress: ProgressCallback | None,
) -> None:
    if all(plan.complete for plan in plans):
        return
    plan, needed = plans[0], 0
    try:
        # Again if a shard was removed meanwhile, or another builder has finished one of several caches.
        while plans := [plan for plan in map(_inspect, plans) if not plan.complete]:
            for plan in plans:
                plan.folder.mkdir(parents=True, exist_ok=True)
                remove_drafts(plan.folder)
            todo = plans if part is None else _restrict(plans, part)
            needed = sum(plan.bytes_needed for plan in todo)
            for plan in todo:
                if needed > shutil.disk_usage(plan.folder).free:
                    raise _no_space(plan.folder, needed)
                if read_manifest(plan.folder, BUILD_FILE) is None:
                    write_json(plan.folder / BUILD_FILE, new_manifest(plan))
            build = _Build(SourceFiles(source, slices), slices, todo, part is not None, progress)
            if build.run(processes):
                for plan in plans:
                    _finish(plan)
                if part is not None:
                    return
    except OSError as error:
        raise _storage_error(error, plan.folder, needed, len(plan.missing)) from error


def _restrict(plans: Sequence[CachePlan], part: Part) -> list[CachePlan]:
    """Return `plans` with those missing shards that belong to `part`."""
    shards = part.shards([(plan.folder, plan.missing) for plan in plans])
    return [replace(plan, missing=tuple(shard for shard in plan.missing if shard in shards)) for plan in plans]


def _inspect(plan: CachePlan) -> CachePlan:
    """Return `plan` with the current state of its folder. Raises `OSError`."""
    complete = is_complete(plan.folder, plan.key)
    shards = range(0 if complete else plan.shards)
    missing = tuple(shard for shard in shards if not is_intact(shard_path(plan.folder, shard)))
    return replace(plan, complete=complete, missing=missing)


class _Build:
    """The missing shards of `plans`, caches of the same slices."""

    def __init__(
        self,
        files: SourceFiles,
        slices: pd.DataFrame,
        plans: Sequence[CachePlan],
        of_part: bool,
        progress: ProgressCallback | None,
    ) -> None:
        self._files, self._slices, self._plans, self._progress = files, slices, plans, progress
        n = len(slices)
        self._missing = {shard for plan in plans for shard in plan.missing}
        by_series = {shard for plan in plans if plan.spec.centre == "series" for shard in plan.missing}
        rows = np.concatenate([np.empty(0, np.int64), *(np.asarray(shard_rows(shard, n)) for shard in by_series)])
        self._first_pass = rows_of_same_series(slices, rows)
        self._centres_folder = next((plan.folder for plan in plans if plan.spec.centre == "series"), Path())
        self._blocks = set(missing_blocks(self._centres_folder, self._first_pass))
        todo = self._slices_in(self._missing)
        self._total = (todo if of_part else n) + self._slices_in(self._blocks)

    def run(self, processes: int | None) -> bool:
        """Return True when the shards exist, False if another builder has finished a cache in the first pass."""
        if not self._missing:
            return True
        self._report(self._missing, self._blocks)
        with _fair_share(min(plan.folder for plan in self._plans), processes, len(self._missing)) as workers:
            centres: npt.NDArray[np.float64] | None = np.empty((0, 2))
            if len(self._first_pass):
                advance = partial(self._report, self._missing)
                centres = shared_series_centres(
                    self._centres_folder, self._files, self._slices, self._first_pass, workers, advance
                )
            if centres is not None:
                self._build_shards(centres, workers)
        return centres is not None

    def _build_shards(self, centres: npt.NDArray[np.float64], workers: int) -> None:
        specs = {shard_path(plan.folder, shard): plan.spec for plan in self._plans for shard in plan.missing}

        def job(shard: int, paths: Collection[Path], ignore_claims: bool) -> ShardJob:
            rows = shard_rows(shard, len(self._slices))
            targets = tuple((path, specs[path]) for path in paths)
            needed = centres[rows] if any(spec.centre == "series" for _, spec in targets) else centres[:0]
            of_rows = tuple((row, column) for row, column in needed.tolist())
            spacings = pixel_spacings(self._slices, rows) if any(spec.field for _, spec in targets) else ()
            return ShardJob(shard, self._files.select(rows), targets, of_rows, ignore_claims, spacings)

        paths = {
            shard: [shard_path(plan.folder, shard) for plan in self._plans if shard in plan.missing]
            for shard in sorted(self._missing)
        }
        share(SharedWork(paths, is_intact, job, build_shards), workers, partial(self._report, blocks=()))

    def _report(self, shards: Collection[int], blocks: Collection[int]) -> None:
        """Report the progress when `shards` and `blocks` of the first pass are missing."""
        if self._progress is not None:
            missing = self._slices_in(shards) + self._slices_in(self._blocks.intersection(blocks))
            self._progress(self._total - missing, self._total)

    def _slices_in(self, shards: Collection[int]) -> int:
        return sum(len(shard_rows(shard, len(self._slices))) for shard in shards)


@contextmanager
def _fair_share(folder: Path, processes: int | None, shards: int) -> Iterator[int]:
    """Yield the number of worker processes for the cache in `folder`.

    By default the first builder on the cores of this process uses all of them. The others help with one process each:
    the folds of a run start together.
    """
    if processes is not None:
        yield worker_count(processes, shards)
        return
    affinity = getattr(os, "sched_getaffinity", None)  # macOS has none
    cores = sorted(affinity(0)) if affinity else [core_count()]
    name = f"cores-{zlib.crc32(repr((os.uname().nodename, cores)).encode()):08x}"
    with claim(folder / name) as first:
        yield worker_count(None if first else 1, shards)


def new_manifest(plan: CachePlan) -> dict[str, Any]:
    """Return the content of `build.json`, with which `cache.json` begins."""
    return {"format": FORMAT, "key": plan.key, "spec": plan.spec.to_dict(), "n": plan.n, "shard_rows": SHARD_ROWS}


def _finish(plan: CachePlan) -> None:
    """Write the index and the manifest if all shards are built; remove the temporary files of the build."""
    folder = plan.folder
    if not all(is_intact(shard_path(folder, shard)) for shard in range(plan.shards)):
        return  # the others belong to other parts
    build_once(folder / CACHE_FILE, partial(is_complete, folder, plan.key), partial(_write_index, plan))
    for pattern in (CENTRES_PATTERN, PARTS_PATTERN, CLAIM_PATTERN):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)
    remove_drafts(folder)


def _write_index(plan: CachePlan) -> None:
    places, defects, sizes = [np.empty((0, 3), np.int64)], {}, []
    for shard in range(plan.shards):
        path = shard_path(plan.folder, shard)
        table = read_table(path)
        places.append(table.places)
        defects.update({str(shard * SHARD_ROWS + row): reason for row, reason in table.defects.items()})
        sizes.append(path.stat().st_size)
    with atomic_path(plan.folder / PLACES_FILE) as draft:
        np.save(draft, np.concatenate(places))
    write_json(plan.folder / CACHE_FILE, new_manifest(plan) | {"defects": defects, "shard_bytes": sizes})


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content` to `path` atomically. Raises `OSError`."""
    with atomic_path(path) as draft:
        draft.write_text(json.dumps(content))


def _storage_error(error: OSError, folder: Path, needed: int, missing: int = 0) -> StorageError:
    if error.errno == errno.ENOSPC:
        return _no_space(folder, needed)
    if isinstance(error, IsADirectoryError):
        return write_error(Path(error.filename2 or error.filename), "the cache", error)
    shards = f", which lacks {format_count(missing, 'shard')}" if missing else ""
    return StorageError(
        f"Cannot write the cache {folder}{shards}: {error.strerror or error}.",
        "Make the folder writable, or set another folder as `cache` in ichx.toml. Finished shards remain.",
    )


def _no_space(folder: Path, needed: int) -> StorageError:
    free = shutil.disk_usage(folder).free
    return StorageError(
        f"No space for the cache {folder}: it needs about {format_bytes(needed)}, {format_bytes(free)} are free.",
        "Free some space, or set another folder as `cache` in ichx.toml. Finished shards remain.",
    )
