"""Copies of the shards of a cache on a disk of this machine, e.g. in `$TMPDIR` of a cluster's node.

All processes of the machine share them. Whatever prevents a copy is a note, not an error: the shared cache, in which
the caches are built, has every shard.
"""

import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from ichx.cache.hu_cache import Cache, shard_path, shards_of
from ichx.cache.shards import count_damaged, read_table
from ichx.cache.sharing import SharedWork, claim, share
from ichx.datasets.ingest import ProgressCallback
from ichx.errors import IchxError, ProcessError, ResourceError
from ichx.files import atomic_path, remove_drafts
from ichx.text import format_bytes
from ichx.worker_pool import core_count, worker_count
from ichx.workspace import Workspace

COPIERS: Final = 4
"""Largest number of processes that copy: one stream does not use a fast network."""

SHARDS_PER_COPIER: Final = 8

Note = Callable[[str], None]


@dataclass(frozen=True)
class CopyJob:
    """Copy a shard, whose chunks are at `places`."""

    shard: int
    source: Path
    target: Path
    places: npt.NDArray[np.int64]
    ignore_claims: bool


def local_folder(workspace: Workspace, note: Note, needed: int = 0) -> Path | None:
    """Return the folder in the setting `cache_local`, created if needed.

    None without this setting, or if the folder cannot be used or has less than `needed` bytes of free space.
    """
    try:
        folder = workspace.local_cache_dir()
        if folder is None:
            return None
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except IchxError as error:
        note(f"no local copy of the cache: {error.problem}")
    except OSError as error:
        note(f"no local copy of the cache in {workspace.cache_local}: {error.strerror or error}")
    else:
        if needed <= free:
            return folder
        note(
            f"no local copy of the cache in {folder}: it needs about {format_bytes(needed)}, "
            f"{format_bytes(free)} are free"
        )
    return None


def with_local_copy(
    workspace: Workspace, cache: Cache, rows: npt.NDArray[np.int64], note: Note, progress: ProgressCallback
) -> Cache:
    """Return `cache`, reading the shards of `rows` from the folder in the setting `cache_local`, if there is one.

    Missing shards are copied and verified first, once per machine.

    Args:
        workspace: The workspace with the setting.
        cache: A finished cache.
        rows: The rows that will be read. The cache can read the others, too.
        note: Receives why shards are not copied.
        progress: Receives (done, total) shards.
    """
    parent = local_folder(workspace, note)
    if parent is None or parent.resolve() == cache.folder.parent.resolve():
        return cache
    folder = parent / cache.folder.name
    if cache.parts:
        for number, part in enumerate(cache.parts):
            with_local_copy(workspace, part, cache.rows_of_part(number, rows), note, progress)
        return Cache(cache.folder, folder)
    try:
        folder.mkdir(exist_ok=True)
        remove_drafts(folder)
        missing = [shard for shard in shards_of(rows) if not _is_copy(cache, folder, shard)]
        if missing and local_folder(workspace, note, sum(cache.shard_bytes[shard] for shard in missing)):
            _copy(cache, folder, missing, progress)
    except (OSError, ValueError, ProcessError, ResourceError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        note(f"the local copy of the cache in {folder} is incomplete: {why}")
    return Cache(cache.folder, folder) if folder.is_dir() else cache


def copy_shard(job: CopyJob) -> tuple[int, bool]:
    """Copy the shard of `job` unless another process does; return its number and whether it is copied.

    Raises `OSError`, or `ValueError` if the shard or the copy is damaged.
    """
    with claim(job.target, ignore=job.ignore_claims) as claimed:
        if claimed and not _has_places(job.target, job.places):
            with atomic_path(job.target) as draft:
                shutil.copyfile(job.source, draft)
                if not _has_places(draft, job.places) or count_damaged(draft, read_table(draft)):
                    raise ValueError(f"checksums of {job.source.name} differ")
    return job.shard, claimed


def _copy(cache: Cache, folder: Path, shards: list[int], progress: ProgressCallback) -> None:
    total = len(shards)
    paths = {shard: (shard_path(folder, shard),) for shard in shards}
    shard_of = {path: shard for shard, (path,) in paths.items()}

    def is_built(path: Path) -> bool:
        return _is_copy(cache, folder, shard_of[path])

    def job(shard: int, _: Collection[Path], ignore_claims: bool) -> CopyJob:
        source, target = shard_path(cache.folder, shard), shard_path(folder, shard)
        return CopyJob(shard, source, target, cache.places(shard), ignore_claims)

    def report(missing: Collection[int]) -> None:
        progress(total - len(missing), total)

    report(shards)
    processes = worker_count(min(COPIERS, core_count()), max(1, total // SHARDS_PER_COPIER))
    share(SharedWork(paths, is_built, job, copy_shard), processes, report)


def _is_copy(cache: Cache, folder: Path, shard: int) -> bool:
    return _has_places(shard_path(folder, shard), cache.places(shard))


def _has_places(path: Path, places: npt.NDArray[np.int64]) -> bool:
    """Return whether the shard at `path` exists and has its chunks, with their checksums, at `places`."""
    try:
        return np.array_equal(read_table(path).places, places)
    except (FileNotFoundError, ValueError):
        return False
