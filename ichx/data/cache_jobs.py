"""The work of building caches, a shard at a time, in worker processes: decode once; centre, resize, pack per size.

A job has plain arguments and may run twice. Not for deciding which shards are missing (`ichx.data.cache_build`).
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from ichx.ct.dicom import AIR, DicomDefectError, read_slice
from ichx.ct.geometry import head_centre, shift_to_centre
from ichx.data.resize import fit_square
from ichx.data.shards import pack, write_shard
from ichx.errors import IchxError

Job = TypeVar("Job")
Result = TypeVar("Result")

Centre = tuple[float, float]


@dataclass(frozen=True)
class SourceFile:
    """A slice's file with the fingerprint that the catalog knows it by."""

    path: str
    bytes: int
    mtime_ns: int


@dataclass(frozen=True)
class Target:
    """A shard to be written to `path`, for a cache of `size` pixels, `centre` and `resize`."""

    path: str
    size: int
    centre: str
    resize: str


@dataclass(frozen=True)
class ShardJob:
    """Build the `targets` of one shard number from `files`, each decoded once.

    `centres` are given where a target has `series` centring, one per file; NaN for none.
    """

    files: tuple[SourceFile, ...]
    targets: tuple[Target, ...]
    centres: tuple[Centre, ...] = ()


@dataclass(frozen=True)
class CentresJob:
    """Find the head's centre in each of `files`, which are the catalog's `rows`."""

    rows: tuple[int, ...]
    files: tuple[SourceFile, ...]


def build_shards(job: ShardJob) -> int:
    """Write the shards of `job`; return its number of slices. What cannot be decoded is air, and noted as a defect."""
    chunks: list[list[bytes]] = [[] for _ in job.targets]
    defects: dict[int, str] = {}
    for row, file in enumerate(job.files):
        try:
            hu = _decode(file)
        except DicomDefectError as defect:
            defects[row] = defect.reason
            for target, packed in zip(job.targets, chunks, strict=True):
                packed.append(pack(np.full((target.size, target.size), AIR, np.int16)))
            continue
        centred = {"none": hu}
        for target, packed in zip(job.targets, chunks, strict=True):
            if target.centre not in centred:
                centre = head_centre(hu) if target.centre == "slice" else job.centres[row]
                centred[target.centre] = shift_to_centre(hu, centre)
            packed.append(pack(fit_square(centred[target.centre], target.size, target.resize)))
    for target, packed in zip(job.targets, chunks, strict=True):
        write_shard(Path(target.path), packed, defects)
    return len(job.files)


def find_centres(job: CentresJob) -> tuple[tuple[int, ...], npt.NDArray[np.float64]]:
    """Return the rows of `job` and their head centres (k, 2), (row, column) in pixels; NaN where decoding fails."""
    centres = np.full((len(job.files), 2), np.nan)
    for index, file in enumerate(job.files):
        try:
            centres[index] = head_centre(_decode(file))
        except DicomDefectError:
            continue  # the shard names it
    return job.rows, centres


def worker_count(processes: int | None, jobs: int) -> int:
    """Return how many processes to use: as asked, one per core when None, but none without a job."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min(processes or cores, jobs))


def run_jobs(work: Callable[[Job], Result], jobs: Iterable[Job], processes: int) -> Iterator[Result]:
    """Yield `work(job)` of all `jobs` as they finish; in this process when `processes` is 1.

    What a worker raises is raised here; a worker that dies is an `IchxError`. Jobs that have begun are finished first.
    """
    if processes == 1:
        yield from map(work, jobs)
        return
    # spawn: torch may be loaded here with its threads, and a fork would copy their locks
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_prepare_worker)
    try:
        waiting = iter(jobs)
        # Few at a time: the jobs of a large dataset together would hold all its paths once more.
        with _interrupts_held():
            running: set[Future[Result]] = {pool.submit(work, job) for job in islice(waiting, 2 * processes)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                with _interrupts_held():
                    running |= {pool.submit(work, job) for job in islice(waiting, 1)}
                yield future.result()
    except BrokenProcessPool as error:
        raise IchxError(
            "a worker process died while slices were decoded (out of memory, or a decoder crashed)",
            "run the command again: finished shards are kept; if it dies again, use fewer processes",
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back: a worker that starts meanwhile never gets it, not even before it can say so itself."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _decode(file: SourceFile) -> npt.NDArray[np.int16]:
    """Return the slice in `file`; raises `IchxError` when it is not the file that the catalog knows."""
    try:
        found = Path(file.path).stat()
    except OSError as error:
        raise _changed(file, error.strerror or str(error)) from error
    if (found.st_size, found.st_mtime_ns) != (file.bytes, file.mtime_ns):
        raise _changed(file, "it has changed since the dataset was added")
    try:
        return read_slice(Path(file.path)).hu
    except DicomDefectError as defect:
        if defect.reason == "unreadable":  # the disk's or the network's fault, which may pass
            raise _changed(file, defect.detail) from defect
        raise


def _changed(file: SourceFile, why: str) -> IchxError:
    return IchxError(
        f"{file.path} cannot be read: {why}", "bring the file back, or add the folder again with `ichx data add`"
    )


def _prepare_worker() -> None:
    """Leave Ctrl-C to the parent, use one thread, and end when the parent was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
