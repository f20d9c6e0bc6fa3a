"""A pool of worker processes. Workers leave signals to their parent and end with it."""

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing.connection import wait as wait_for_objects
from multiprocessing.process import BaseProcess
from typing import Any, Final, TypeVar

from ichx.child_processes import end_with_parent
from ichx.errors import ProcessError, ResourceError
from ichx.signals import block_stop_signals, ignore_stop_signals
from ichx.text import format_bytes

PROCESS_BYTES: Final = 150_000_000
"""Memory of a worker process before it works."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def core_count() -> int:
    """Return how many CPU cores this process may use.

    Under Slurm they are those of the job: sites without cpusets show a process all cores of the node.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # macOS has none
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    of_job = os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get("SLURM_CPUS_ON_NODE", "")
    return min(cores, int(of_job)) if of_job.isdecimal() and int(of_job) else cores


def worker_count(processes: int | None, items: int) -> int:
    """Return the number of processes for `items`: at most `processes`, or one per core if that is None.

    Raises:
        ResourceError: The requested processes take more memory than this machine has.
    """
    count = max(1, min(processes or core_count(), items))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if count > core_count() and count * PROCESS_BYTES > memory:
        raise ResourceError(
            f"{count:,} processes take about {format_bytes(count * PROCESS_BYTES)} of memory; this machine has "
            f"{format_bytes(memory)}.",
            f"Use fewer processes: it has {core_count()} cores.",
        )
    return count


def map_in_processes(work: Callable[[Item], Result], items: Iterable[Item], processes: int) -> Iterator[Result]:
    """Yield `work(item)` of all items in the order in which they finish.

    Items that have started are finished, even after Ctrl-C; a second Ctrl-C kills their processes.

    Args:
        work: A function that can be pickled. It may run twice for an item when the program is rerun.
        items: Arguments that can be pickled.
        processes: Number of processes; 1 works in this process.

    Raises:
        ProcessError: A worker has died.
        ResourceError: The processes cannot start. Exceptions of `work` are raised unchanged.
    """
    if processes == 1:
        yield from map(work, items)
        return
    # spawn, because a fork would copy the locks of torch's threads
    context = multiprocessing.get_context("spawn")
    with _starting(processes):
        pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_prepare_worker)
    try:
        waiting = iter(items)
        # Few at a time: all items of a large dataset would need a copy of all its paths.
        running: set[Future[Result]] = set()
        for item in islice(waiting, 2 * processes):
            with block_stop_signals(), _starting(processes), without_script(work):
                running.add(pool.submit(work, item))
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                for item in islice(waiting, 1):
                    with block_stop_signals(), _starting(processes), without_script(work):
                        running.add(pool.submit(work, item))
                yield future.result()
    except BrokenProcessPool as error:
        raise ProcessError(
            "A worker process died: it ran out of memory, or a decoder crashed.",
            "Rerun the command; finished work is saved. If it happens repeatedly, use fewer processes or more memory.",
        ) from error
    finally:
        workers = list((pool._processes or {}).values())
        threading.Thread(target=_kill_after_death, args=(workers,), daemon=True).start()
        try:
            pool.shutdown(wait=True, cancel_futures=True)
        except KeyboardInterrupt:  # a second one: the first had ended the loop
            for worker in workers:
                worker.kill()
            raise


@contextmanager
def _starting(processes: int) -> Iterator[None]:
    """Raise `ResourceError` if this block cannot start its processes."""
    try:
        yield
    except OSError as error:
        raise ResourceError(
            f"Cannot start {processes} worker processes: {error.strerror or error}.",
            "Use fewer processes, or allow more processes and shared memory (Docker: `--pids-limit`, `--shm-size=1g`).",
        ) from error


@contextmanager
def without_script(work: Callable[..., Any] | None) -> Iterator[None]:
    """Let processes that start in this block not execute the script of this program, unless `work` is defined in it.

    Without `if __name__ == "__main__"` it would start from the beginning in each of them, e.g. wait for a lock that
    this process holds.
    """
    main = sys.modules["__main__"]
    if getattr(work, "__module__", None) == "__main__":
        yield
        return
    hidden: dict[str, Any] = {name: vars(main)[name] for name in ("__file__", "__spec__") if name in vars(main)}
    vars(main).update(dict.fromkeys(hidden))
    try:
        yield
    finally:
        vars(main).update(hidden)


def _kill_after_death(workers: Sequence[BaseProcess]) -> None:
    """Return when all workers have ended; if one dies, kill the others, which may wait for a lock that it held."""
    while alive := [worker for worker in workers if worker.exitcode is None]:
        wait_for_objects([worker.sentinel for worker in alive])
        if any(worker.exitcode for worker in workers):
            for worker in alive:
                worker.kill()


def _prepare_worker() -> None:
    """Leave signals to the parent, use one thread, and end when the parent has ended."""
    import cv2

    ignore_stop_signals()
    cv2.setNumThreads(1)
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        end_with_parent(parent.pid, grace=None)
