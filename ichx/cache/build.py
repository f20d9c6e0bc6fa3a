"""Building caches: what of them is missing, whether the disk has room for it, and the work dealt to processes.

Several sizes are built from one decoding. A build that is killed at any moment goes on from its last whole shard. What
is done to a slice is in `ichx.cache.shard_jobs`, reading in `ichx.cache.hu_cache`.
"""

import contextlib
import errno
import fcntl
import io
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
from ichx.cache.shard_jobs import CentresJob, ShardJob, Target, build_shards, find_centres
from ichx.cache.shards import SHARD_ROWS, read_table, remove_stale, write_atomically
from ichx.datasets.sources import SourceFiles
from ichx.errors import IchxError
from ichx.text import format_bytes, format_count
from ichx.worker_pool import run_jobs, worker_count

LOCK_FILE = "building.lock"
NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}
"""What a file system without locks answers."""

Progress = Callable[[int, int], None]
"""Is told (done, total)."""


@dataclass(frozen=True)
class CachePlan:
    """A cache of `n` slices that is asked for: `missing` are the shards to build, `complete` when nothing is to do."""

    spec: CacheSpec
    key: str
    folder: Path
    n: int
    complete: bool
    missing: tuple[int, ...]

    @property
    def shards(self) -> int:
        """Number of shards of the whole cache."""
        return -(-self.n // SHARD_ROWS)

    @property
    def bytes_needed(self) -> int:
        """About how much disk is still to be filled."""
        return estimated_bytes(sum(len(shard_rows(shard, self.n)) for shard in self.missing), self.spec.size)

    @property
    def told(self) -> str:
        """The plan in a line."""
        whole = f"{self.spec}: {format_count(self.n, 'slice')}"
        if self.complete:
            return f"{whole}, cached already"
        kept = self.shards - len(self.missing)
        rest = f", {kept:,} of {self.shards:,} shards are there" if kept else ""
        return f"{whole}, about {format_bytes(self.bytes_needed)} to write{rest}"


def plan_caches(cache_dir: Path, name: str, slices: pd.DataFrame, specs: Sequence[CacheSpec]) -> list[CachePlan]:
    """Return what is to be done for the caches of `slices` that `specs` ask for, writing nothing.

    Raises `IchxError` where the folder cannot be read.
    """
    of_slices = slices_digest(slices)
    plans = []
    for spec in dict.fromkeys(specs):
        key = cache_key(of_slices, spec)
        folder = cache_folder(cache_dir, name, spec, key)
        try:
            plans.append(_as_it_is(CachePlan(spec, key, folder, len(slices), complete=False, missing=())))
        except OSError as error:
            raise _write_error(error, folder, 0) from error
    return plans


def ensure_cache(
    cache_dir: Path,
    name: str,
    source: Path,
    slices: pd.DataFrame,
    spec: CacheSpec,
    *,
    processes: int | None = None,
    progress: Progress | None = None,
) -> Cache:
    """Return the one cache that `spec` asks for, built as `build_caches` does."""
    plans = plan_caches(cache_dir, name, slices, [spec])
    return build_caches(source, slices, plans, processes=processes, progress=progress)[0]


def find_cache(cache_dir: Path, name: str, slices: pd.DataFrame, spec: CacheSpec) -> Cache | None:
    """Return the finished cache that `ensure_cache` would return, or None where it would have to build."""
    (plan,) = plan_caches(cache_dir, name, slices, [spec])
    return Cache(plan.folder) if plan.complete else None


def build_caches(
    source: Path,
    slices: pd.DataFrame,
    plans: Sequence[CachePlan],
    *,
    processes: int | None = None,
    progress: Progress | None = None,
) -> list[Cache]:
    """Return the caches of `slices` (a dataset's, their files under `source`), building what their `plans` miss.

    `processes` is by default one per core. `progress(done, total)` counts slices, twice over for `series` centring,
    which decodes twice. Where another process builds one of them, this waits for it and builds what is missing then.
    Raises `IchxError` when the disk is too small or full, the folder cannot be written, a file
    has changed since the dataset was added, or a worker died; shards that are finished are kept.
    """
    asked = [plan for plan in plans if not plan.complete]
    if asked:
        with _building(asked):
            _build_now(source, slices, asked, processes, progress)
    return [Cache(plan.folder) for plan in plans]


def _build_now(
    source: Path, slices: pd.DataFrame, asked: Sequence[CachePlan], processes: int | None, progress: Progress | None
) -> None:
    """Build what is missing of the caches `asked` for, which no other process builds meanwhile."""
    try:
        # Another process may have built some of it while this one waited.
        todo = [plan for plan in map(_as_it_is, asked) if not plan.complete]
    except OSError as error:
        raise _write_error(error, asked[0].folder, 0) from error
    needed = sum(plan.bytes_needed for plan in todo)
    for plan in todo:
        try:
            remove_stale(plan.folder)
            if needed > shutil.disk_usage(plan.folder).free:
                raise _no_space(plan.folder, needed)
            if read_manifest(plan.folder, BUILD_FILE) is None:
                write_atomically(plan.folder / BUILD_FILE, [json.dumps(_described(plan)).encode()])
        except OSError as error:
            raise _write_error(error, plan.folder, needed) from error
    if todo:
        folder = todo[0].folder
        try:
            _build(source, slices, todo, processes, progress)
            for plan in todo:
                folder = plan.folder
                _finish(plan)
        except OSError as error:
            raise _write_error(error, folder, needed) from error


@contextlib.contextmanager
def _building(plans: Sequence[CachePlan]) -> Iterator[None]:
    """Hold the folders of `plans` for this process alone, waiting for others; a process that dies lets go."""
    with contextlib.ExitStack() as held:
        for folder in sorted({plan.folder for plan in plans}):  # in one order, so that no two wait for each other
            try:
                folder.mkdir(parents=True, exist_ok=True)
                lock = held.enter_context((folder / LOCK_FILE).open("ab"))
                fcntl.flock(lock, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in NO_LOCKS:  # without locks, two may decode the same; shards are whole all the same
                    raise _write_error(error, folder, 0) from error
        yield


def _as_it_is(plan: CachePlan) -> CachePlan:
    """Return `plan` with what is there and what is missing at this moment. Raises `OSError`."""
    complete = _is_complete(plan.folder, plan.key)
    shards = range(0 if complete else plan.shards)
    missing = tuple(shard for shard in shards if not _is_whole(shard_path(plan.folder, shard)))
    return replace(plan, complete=complete, missing=missing)


def _is_complete(folder: Path, key: str) -> bool:
    """Whether the cache in `folder` is finished and none of its shards has gone or changed its size since."""
    manifest = read_manifest(folder)
    if manifest is None or manifest["key"] != key:
        return False
    try:
        found = [shard_path(folder, shard).stat().st_size for shard in range(len(manifest["shard_bytes"]))]
    except FileNotFoundError:
        return False
    return found == manifest["shard_bytes"] and (folder / PLACES_FILE).is_file()


def _is_whole(path: Path) -> bool:
    """Whether a shard is there and opens; one that was damaged from outside is built again."""
    try:
        read_table(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    return True


def _build(
    source: Path, slices: pd.DataFrame, plans: Sequence[CachePlan], processes: int | None, progress: Progress | None
) -> None:
    n = len(slices)
    numbers = sorted({shard for plan in plans for shard in plan.missing})
    todo = sum(len(shard_rows(shard, n)) for shard in numbers)
    if not todo:
        return
    workers = worker_count(processes, len(numbers))
    files = SourceFiles(source, slices)
    by_series = sorted({shard for plan in plans if plan.spec.centre == "series" for shard in plan.missing})
    asked = np.concatenate([np.asarray(shard_rows(shard, n)) for shard in by_series]) if by_series else np.empty(0, int)
    first_pass = series_mates(slices, asked)
    done, total = n - todo, n + len(first_pass)

    def advance(by: int) -> None:
        nonlocal done
        done += by
        if progress is not None:
            progress(done, total)

    advance(0)
    medians = series_centres(files, slices, first_pass, workers, advance)

    def job(shard: int) -> ShardJob:
        rows = shard_rows(shard, n)
        targets = [
            Target(str(shard_path(plan.folder, shard)), plan.spec.size, plan.spec.centre, plan.spec.resize)
            for plan in plans
            if shard in plan.missing
        ]
        of_series = medians[rows] if any(target.centre == "series" for target in targets) else medians[:0]
        return ShardJob(files.select(rows), tuple(targets), tuple((row, column) for row, column in of_series.tolist()))

    for built in run_jobs(build_shards, map(job, numbers), workers):
        advance(built)


def series_mates(slices: pd.DataFrame, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the rows that a centre of the series of `rows` takes: all of these series, in the shapes asked for."""
    if not len(rows):
        return np.empty(0, np.int64)
    groups = _series_groups(slices)
    return np.flatnonzero(np.isin(groups, np.unique(groups[rows])))


def series_centres(
    files: SourceFiles, slices: pd.DataFrame, rows: npt.NDArray[np.int64], workers: int, advance: Callable[[int], None]
) -> npt.NDArray[np.float64]:
    """Return the (row, column) that each slice's series is centred by, (n, 2) in pixels.

    `rows` are those of `series_mates`, and are decoded; other slices have NaN, and without any the result is empty.
    `advance` is told how many slices were decoded.
    """
    if not len(rows):
        return np.empty((0, 2))
    centres = np.full((len(slices), 2), np.nan)
    parts = [rows[start : start + SHARD_ROWS] for start in range(0, len(rows), SHARD_ROWS)]
    searches = (CentresJob(tuple(part.tolist()), files.select(part.tolist())) for part in parts)
    for searched, found in run_jobs(find_centres, searches, workers):
        centres[list(searched)] = found
        advance(len(searched))
    return pd.DataFrame(centres).groupby(_series_groups(slices)).transform("median").to_numpy()


def _series_groups(slices: pd.DataFrame) -> npt.NDArray[np.int64]:
    """Return a group number per slice, (n,): its series, and within it its shape, in whose pixels a centre is told."""
    grouped = slices.groupby(["series", "rows", "columns"], sort=False, dropna=False)
    return np.asarray(grouped.ngroup(), np.int64)


def _described(plan: CachePlan) -> dict[str, Any]:
    return {"format": FORMAT, "key": plan.key, "spec": asdict(plan.spec), "n": plan.n, "shard_rows": SHARD_ROWS}


def _finish(plan: CachePlan) -> None:
    places, defects, sizes = [np.empty((0, 3), np.int64)], {}, []
    for shard in range(plan.shards):
        path = shard_path(plan.folder, shard)
        table = read_table(path)
        places.append(table.places)
        defects.update({str(shard * SHARD_ROWS + row): reason for row, reason in table.defects.items()})
        sizes.append(path.stat().st_size)
    buffer = io.BytesIO()
    np.save(buffer, np.concatenate(places))
    write_atomically(plan.folder / PLACES_FILE, [buffer.getvalue()])
    manifest = _described(plan) | {"defects": defects, "shard_bytes": sizes}
    write_atomically(plan.folder / CACHE_FILE, [json.dumps(manifest).encode()])


def _write_error(error: OSError, folder: Path, needed: int) -> IchxError:
    if error.errno == errno.ENOSPC:
        return _no_space(folder, needed)
    return IchxError(
        f"the cache {folder} cannot be written: {error.strerror or error}",
        "make the folder writable, or set another one as `cache` in ichx.toml; what is finished is kept",
    )


def _no_space(folder: Path, needed: int) -> IchxError:
    free = shutil.disk_usage(folder).free
    return IchxError(
        f"no space for the cache {folder}: about {format_bytes(needed)} are needed, {format_bytes(free)} are free",
        "free some space, or set another folder as `cache` in ichx.toml; what is finished is kept",
    )
