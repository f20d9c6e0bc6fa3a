"""Work in worker processes, a job at a time: how many, how they start, and how they end with Ctrl-C or their parent.

A job has plain arguments and may run twice. Not for what the work is.
"""

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import TypeVar

import cv2

from ichx.child_processes import end_with_parent
from ichx.errors import IchxError
from ichx.signals import block_stop_signals, ignore_stop_signals

Job = TypeVar("Job")
Result = TypeVar("Result")


def core_count() -> int:
    """Return how many cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def worker_count(processes: int | None, jobs: int) -> int:
    """Return how many processes to use: as asked, one per core when None, but none without a job."""
    return max(1, min(processes or core_count(), jobs))


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
        with block_stop_signals():
            running: set[Future[Result]] = {pool.submit(work, job) for job in islice(waiting, 2 * processes)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                with block_stop_signals():
                    running |= {pool.submit(work, job) for job in islice(waiting, 1)}
                yield future.result()
    except BrokenProcessPool as error:
        raise IchxError(
            "a worker process died while slices were decoded (out of memory, or a decoder crashed)",
            "run the command again: what is finished is kept; if it dies again, use fewer processes",
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _prepare_worker() -> None:
    """Leave Ctrl-C and SIGTERM to the parent, use one thread, and end when the parent was killed."""
    ignore_stop_signals()
    cv2.setNumThreads(1)
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        end_with_parent(parent.pid, grace=None)
