"""Loader processes: how they start, how they send batches to their parent, and what happens when one of them dies.

Batches are sent in anonymous memory, so that the size of /dev/shm (64 MB in a Docker container) does not limit them.
"""

import mmap
import multiprocessing
import os
import signal
import warnings
from collections.abc import Iterator
from multiprocessing import connection, forkserver, reduction
from typing import Any, Final

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ichx.errors import ProcessError, ResourceError
from ichx.signals import block_stop_signals, ignore_stop_signals
from ichx.text import format_bytes

REMEDY: Final = "Use fewer loader processes (`--workers 0` uses none), or give the container more memory ({option})."


# More processes than cores are what the user asked for.
warnings.filterwarnings("ignore", message="This DataLoader will create")


def start_worker_server() -> None:
    """Start the process that forks loader processes; it imports torch while the caller prepares a network.

    Otherwise the first batch waits for that import. Nothing happens if it runs already.
    """
    if worker_context().get_start_method() == "forkserver":
        with block_stop_signals():  # a terminal and some schedulers send them to all processes of a command
            forkserver.ensure_running()


def worker_context() -> Any:
    """Return how workers start: forked from a clean server process that has imported the loader once.

    A fork of this process would copy the locks of torch's and CUDA's threads. A spawn would import torch per worker.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ichx.loading.loader"])
    return context


def prepare_worker(worker: int) -> None:
    """Leave stop signals to the parent, and use one thread per worker."""
    ignore_stop_signals()
    cv2.setNumThreads(1)


def read_batches(loader: "DataLoader[Any]") -> Iterator[Any]:
    """Yield the batches of a `loader` that has processes.

    Raises:
        ResourceError: The processes cannot start.
        ProcessError: A process has died, or a batch cannot be received. Exceptions of the code that runs in the
            processes are raised unchanged.
    """
    try:
        with block_stop_signals():
            # The locks of the queues: torch prints a traceback of its own if it cannot create them.
            locks = [worker_context().Lock() for _ in range(3 * loader.num_workers + 8)]
            del locks
            batches = iter(loader)
    except (OSError, EOFError) as error:
        raise ResourceError(
            f"Cannot start {loader.num_workers} loader processes: {error}.",
            REMEDY.format(option="Docker: `--shm-size=1g`, `--pids-limit`"),
        ) from error
    while True:
        read = []
        try:
            read.append(next(batches))
        except StopIteration:
            return
        except (RuntimeError, OSError, EOFError, IndexError) as error:  # the last: a file that was not sent completely
            if str(error).startswith("Caught ") and "in pin memory thread" not in str(error):
                raise  # by the code that reads a batch, with the traceback of its process
            raise _death(batches, error) from error
        yield read.pop()  # without a reference, so that the consumer can release it


def _death(batches: Any, error: BaseException) -> ProcessError:
    """Return the error for a batch that does not arrive, and end all processes: they may wait for one that has died."""
    workers = getattr(batches, "_workers", ())
    connection.wait([worker.sentinel for worker in workers], timeout=1.0)  # the exit code follows the death
    codes = [worker.exitcode for worker in workers if worker.exitcode is not None]
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join(timeout=1.0)
    ends = [signal.Signals(-code).name if code < 0 else f"exit code {code}" for code in codes]
    if ends:
        problem = f"A loader process died ({', '.join(dict.fromkeys(ends))}). Memory may have run out."
    else:  # e.g. CUDA fails in the thread that pins batches
        problem = f"Cannot receive a batch from the loader processes: {str(error).strip() or type(error).__name__}."
    return ProcessError(
        problem,
        REMEDY.format(option="Docker: `--memory`, `--shm-size`") + " Rerun the command to resume.",
    )


def out_of_memory(error: MemoryError) -> ResourceError:
    """Return the user's error for a batch that does not fit into memory."""
    return ResourceError(
        f"Not enough memory to read a batch: {str(error) or 'out of memory'}.",
        REMEDY.format(option="Docker: `--memory`"),
    )


def share(tensor: Tensor) -> Any:
    """Return a contiguous CPU `tensor` as an object that arrives in the parent as a tensor.

    The memory is allocated here: an error while torch allocates it in its thread would be printed, and the parent
    would wait for the batch forever.

    Raises:
        ResourceError: There is not enough memory.
    """
    try:
        if hasattr(os, "memfd_create"):
            return _AnonymousTensor(tensor)
        return tensor.share_memory_()  # type: ignore[no-untyped-call]
    except (OSError, RuntimeError) as error:
        raise ResourceError(
            f"No shared memory for a batch of {format_bytes(tensor.nbytes)}: {error}.",
            REMEDY.format(option="Docker: `--shm-size=1g`"),
        ) from error


class _AnonymousTensor:
    """A tensor in a memory file without a name; pickled, it becomes a tensor of the receiving process."""

    def __init__(self, tensor: Tensor) -> None:
        values = tensor.numpy()
        self._description = values.nbytes, values.dtype.str, values.shape
        file = os.memfd_create("ichx-batch")
        try:
            content = values.reshape(-1).view(np.uint8).data
            while content:
                content = content[os.write(file, content) :]
            self._file = reduction.DupFd(file)
        finally:
            os.close(file)

    def __reduce__(self) -> tuple[Any, ...]:
        return _open, (self._file, *self._description)


def _open(sent: Any, length: int, dtype: str, shape: tuple[int, ...]) -> Tensor:
    """Return the tensor of a memory file that another process has sent."""
    file = sent.detach()
    try:
        content = mmap.mmap(file, length) if length else bytearray()
    finally:
        os.close(file)
    return torch.from_numpy(np.frombuffer(content, dtype).reshape(shape))
