"""Centres of the heads of series: a first pass over their slices, which `series` centring needs.

Builders of a cache share it: the centres of each block of slices are saved in the folder of the cache until it is
finished. A file there is written atomically.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.cache.hu_cache import CACHE_FILE, shard_rows, shards_of
from ichx.cache.shards import SHARD_ROWS
from ichx.cache.sharing import SharedWork, claim, share
from ichx.ct.dicom import DicomDefectError
from ichx.ct.geometry import head_centre
from ichx.datasets.sources import SourceFile, SourceFiles, read_source_slice
from ichx.files import atomic_path
from ichx.worker_pool import map_in_processes

CENTRES_PATTERN: Final = "centres-*.npy"
"""Matches the files of saved centres."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CentresJob:
    """Find the centre of the head in each of `files`, the files of `rows`."""

    rows: tuple[int, ...]
    files: tuple[SourceFile, ...]


@dataclass(frozen=True)
class SavedCentresJob:
    """Save the centres of block `number` at `path`."""

    number: int
    path: Path
    files: tuple[SourceFile, ...]
    ignore_claims: bool


def rows_of_same_series(slices: pd.DataFrame, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return all rows of the series of `rows`, of the same image shapes: the rows that determine their centres."""
    if not len(rows):
        return np.empty(0, np.int64)
    groups = _series_groups(slices)
    return np.flatnonzero(np.isin(groups, np.unique(groups[rows])))


def series_centres(
    files: SourceFiles, slices: pd.DataFrame, rows: npt.NDArray[np.int64], workers: int, advance: Callable[[int], None]
) -> Floats:
    """Return the median head centre of the series of each slice.

    Args:
        files: The files of `slices`.
        slices: Rows of the dataset.
        rows: Result of `rows_of_same_series`; these slices are decoded.
        workers: Processes.
        advance: Receives the number of slices decoded since its last call.

    Returns:
        Row and column in pixels, (n, 2), NaN for other series.
    """
    return _medians(slice_centres(files, slices, rows, workers, advance), slices)


def slice_centres(
    files: SourceFiles, slices: pd.DataFrame, rows: npt.NDArray[np.int64], workers: int, advance: Callable[[int], None]
) -> Floats:
    """Return the head centre of each of `rows`, row and column in pixels, `(n, 2)`; NaN for others.

    The arguments are those of `series_centres`.
    """
    centres = np.full((len(slices), 2), np.nan)
    parts = [rows[start : start + SHARD_ROWS] for start in range(0, len(rows), SHARD_ROWS)]
    jobs = (CentresJob(tuple(part.tolist()), files.select(part.tolist())) for part in parts)
    for decoded, found in map_in_processes(find_centres, jobs, workers):
        centres[list(decoded)] = found
        advance(len(decoded))
    return centres


def missing_blocks(folder: Path, rows: npt.NDArray[np.int64]) -> list[int]:
    """Return the blocks of `rows`, as those of shards, whose centres are not saved in `folder`."""
    return [block for block in shards_of(rows) if not _block_file(folder, block).exists()]


def shared_series_centres(
    folder: Path,
    files: SourceFiles,
    slices: pd.DataFrame,
    rows: npt.NDArray[np.int64],
    workers: int,
    advance: Callable[[Collection[int]], None],
) -> Floats | None:
    """Return the result of `series_centres`, found together with the other builders of the cache in `folder`.

    Args:
        folder: The folder of the cache.
        files: The files of `slices`.
        slices: Rows of the dataset.
        rows: Result of `rows_of_same_series`.
        workers: Processes.
        advance: Receives the blocks that are missing, whenever some are finished.

    Returns:
        The centres; None if another builder has finished the cache in `folder` meanwhile, and removed the files.
    """
    n = len(slices)
    paths = {block: _block_file(folder, block) for block in shards_of(rows)}
    before = _last_change(folder / CACHE_FILE)  # a finished cache may have lost a shard

    def is_built(path: Path) -> bool:
        return path.exists() or _last_change(folder / CACHE_FILE) != before

    def job(block: int, _: Collection[Path], ignore: bool) -> SavedCentresJob:
        return SavedCentresJob(block, paths[block], files.select(shard_rows(block, n)), ignore)

    work = SharedWork({block: (path,) for block, path in paths.items()}, is_built, job, save_centres)
    share(work, workers, advance)
    centres = np.full((n, 2), np.nan)
    try:
        for block, path in paths.items():
            centres[shard_rows(block, n)] = np.load(path)
    except FileNotFoundError:
        return None
    return _medians(centres, slices)


def save_centres(job: SavedCentresJob) -> tuple[int, bool]:
    """Save the centres of `job` unless another process does; return its number and whether they are saved."""
    with claim(job.path, ignore=job.ignore_claims) as claimed:
        if claimed and not job.path.exists():
            _, centres = find_centres(CentresJob((), job.files))
            with atomic_path(job.path) as draft:
                np.save(draft, centres)
    return job.number, claimed


def find_centres(job: CentresJob) -> tuple[tuple[int, ...], Floats]:
    """Return the rows of `job` and their head centres (k, 2), row and column in pixels; NaN if decoding fails."""
    centres = np.full((len(job.files), 2), np.nan)
    for index, file in enumerate(job.files):
        try:
            centres[index] = head_centre(read_source_slice(file).hu)
        except DicomDefectError:
            continue  # the shard records the defect
    return job.rows, centres


def _block_file(folder: Path, block: int) -> Path:
    return folder / f"centres-{block:05d}.npy"


def _last_change(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


def _medians(centres: Floats, slices: pd.DataFrame) -> Floats:
    return pd.DataFrame(centres).groupby(_series_groups(slices)).transform("median").to_numpy()


def _series_groups(slices: pd.DataFrame) -> npt.NDArray[np.int64]:
    """Return a group number per slice, (n,): series and image shape, because a centre is in pixels."""
    grouped = slices.groupby(["study", "series", "rows", "columns"], sort=False, dropna=False)
    return np.asarray(grouped.ngroup(), np.int64)
