"""The work of building a cache, a shard at a time, in worker processes: decode, centre, resize, pack.

A job has plain arguments and may run twice. Not for deciding which shards are missing (`ichx.data.cache`).
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from ichx.ct.dicom import AIR, DicomDefectError
from ichx.ct.geometry import head_centre, shift_to_centre
from ichx.data.resize import fit_square
from ichx.data.shards import write_shard
from ichx.data.sources import SourceFile, read_known
from ichx.errors import IchxError

Job = TypeVar("Job")
Result = TypeVar("Result")

Centre = tuple[float, float]


@dataclass(frozen=True)
class ShardJob:
    """Build the shard at `path` from `files`. `centres` are given for `series` centring, one per file; NaN for none."""

    path: str
    files: tuple[SourceFile, ...]
    size: int
    centre: str
    resize: str
    centres: tuple[Centre, ...] = ()


@dataclass(frozen=True)
class CentresJob:
    """Find the head's centre in each of `files`, which are the catalog's `rows`."""

    rows: tuple[int, ...]
    files: tuple[SourceFile, ...]


def build_shard(job: ShardJob) -> int:
    """Write the shard of `job`; return its number of slices. What cannot be decoded is air, and noted as a defect."""
    images: list[npt.NDArray[np.int16]] = []
    defects: dict[int, str] = {}
    for row, file in enumerate(job.files):
        try:
            hu = read_known(file).hu
        except DicomDefectError as defect:
            defects[row] = defect.reason
            images.append(np.full((job.size, job.size), AIR, np.int16))
            continue
        if job.centre == "slice":
            hu = shift_to_centre(hu, head_centre(hu))
        elif job.centre == "series":
            hu = shift_to_centre(hu, job.centres[row])
        images.append(fit_square(hu, job.size, job.resize))
    write_shard(Path(job.path), images, defects)
    return len(images)


def find_centres(job: CentresJob) -> tuple[tuple[int, ...], npt.NDArray[np.float64]]:
    """Return the rows of `job` and their head centres (k, 2), (row, column) in pixels; NaN where decoding fails."""
    centres = np.full((len(job.files), 2), np.nan)
    for index, file in enumerate(job.files):
        try:
            centres[index] = head_centre(read_known(file).hu)
        except DicomDefectError:
            continue  # the shard names it
    return job.rows, centres


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
        running: set[Future[Result]] = {pool.submit(work, job) for job in islice(waiting, 2 * processes)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                running |= {pool.submit(work, job) for job in islice(waiting, 1)}
                yield future.result()
    except BrokenProcessPool as error:
        raise IchxError(
            "a worker process died while slices were decoded (out of memory, or a decoder crashed)",
            "run the command again: finished shards are kept; if it dies again, use fewer processes",
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


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
