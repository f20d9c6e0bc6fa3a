"""Perceptual hashes of the slices of a cache, computed once and stored in its folder.

The name of the file has the version of the hash: hashes of another version are computed again.
"""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from ichx.cache.hu_cache import Cache
from ichx.cache.image_hash import LENGTH, VERSION, hash_slice
from ichx.datasets.ingest import ProgressCallback
from ichx.files import write_with
from ichx.worker_pool import map_in_processes, worker_count

_FILE: Final = "image-hashes-{version}.npy"
CHUNK = 512
"""Slices per job."""
PARALLEL_FROM = 4_000
"""Number of slices from which worker processes are faster."""


@dataclass(frozen=True)
class HashJob:
    """Compute the hashes of consecutive rows of a cache."""

    cache: Cache
    rows: range


def image_hashes(
    cache: Cache, *, processes: int | None = None, progress: ProgressCallback | None = None
) -> npt.NDArray[np.int8]:
    """Return the hash of each slice of `cache`, (n, LENGTH) int8; zeros for slices without one.

    Args:
        cache: A complete cache.
        processes: Worker processes; one per core when None.
        progress: Receives (done, total) slices, unless the hashes are stored already.

    Raises:
        CorruptFileError: The cache is damaged.
        StorageError: The hashes cannot be written.
    """
    path = cache.folder / _FILE.format(version=VERSION)
    stored = _stored(path, cache.n)
    if stored is not None:
        return stored
    found = np.zeros((cache.n, LENGTH), np.int8)
    jobs = [HashJob(cache, range(start, min(start + CHUNK, cache.n))) for start in range(0, cache.n, CHUNK)]
    workers = worker_count(processes or (None if cache.n >= PARALLEL_FROM else 1), len(jobs))
    done = 0
    for start, hashes in map_in_processes(hash_rows, jobs, workers):
        found[start : start + len(hashes)] = hashes
        done += len(hashes)
        if progress is not None:
            progress(done, cache.n)
    write_with(path, lambda draft: np.save(draft, found), "the hashes of images")
    for outdated in (cache.folder / _FILE.format(version=version) for version in range(1, VERSION)):
        with suppress(OSError):  # a waste of space, nothing else
            outdated.unlink()
    return found


def hash_rows(job: HashJob) -> tuple[int, npt.NDArray[np.int8]]:
    """Return the first row of a job and its hashes."""
    found = np.zeros((len(job.rows), LENGTH), np.int8)
    for place, row in enumerate(job.rows):
        if job.cache.valid[row] and (hashed := hash_slice(job.cache.read(row))) is not None:
            found[place] = hashed
    return job.rows.start, found


def _stored(path: Path, n: int) -> npt.NDArray[np.int8] | None:
    """Return the hashes in a file; None if it is missing or damaged."""
    try:
        found: npt.NDArray[np.int8] = np.load(path)
    except (OSError, ValueError, EOFError):
        return None
    return found if found.shape == (n, LENGTH) and found.dtype == np.int8 else None
