"""What a loader process executes: it reads the batches that its parent requests, and sends them back.

Batches are sent in anonymous memory, so that the size of /dev/shm (64 MB in a Docker container) does not limit them.
Where the system has none (macOS), they are sent through the connection.

A loader process imports neither torch nor pandas, whose imports take most of the time and memory of a start.
"""

import mmap
import os
import pickle
import traceback
from dataclasses import dataclass
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from ichx.errors import IchxError, ResourceError
from ichx.loading.batch_reader import Arrays, BatchReader, Item
from ichx.signals import ignore_stop_signals
from ichx.text import format_bytes

REMEDY: Final = "Use fewer loader processes (`--workers 0` uses none), or give the container more memory ({option})."
ANONYMOUS_MEMORY: Final = hasattr(os, "memfd_create")
"""Whether batches are sent in memory that sender and receiver share."""


@dataclass(frozen=True)
class ArraysInFile:
    """The reply to a request: arrays whose bytes follow, in this order, in a memory file or in one message."""

    arrays: tuple[tuple[str, tuple[int, ...]] | None, ...]
    """Data type and shape of each array."""
    in_memory_file: bool


@dataclass(frozen=True)
class Failure:
    """The reply to a request that failed."""

    error: Exception
    trace: str
    """The traceback of the loader process."""


class WorkerTracebackError(Exception):
    """Shows the traceback of a loader process as the cause of its error."""

    def __str__(self) -> str:
        """Return the traceback."""
        return f"\n{self.args[0]}"


def serve(connection: "Connection[Any, Any]", anonymous_memory: bool) -> None:
    """Read batches as requested through `connection`, until the parent closes it or ends.

    A pickled `BatchReader` is the reader of all later requests; an `Item` is a request and has one reply. Batches are
    sent in `anonymous_memory` or through the connection.
    """
    ignore_stop_signals()
    cv2.setNumThreads(1)
    reader: BatchReader | Failure | None = None
    try:
        while True:
            content = connection.recv_bytes()
            try:
                request = pickle.loads(content)  # from the parent
            except Exception as error:  # a plugin may be unable to load, for any reason
                request = _failure(error)
            if isinstance(request, BatchReader | Failure):
                if isinstance(request, BatchReader) and isinstance(reader, BatchReader):
                    request.buffers = reader.buffers
                reader = request
                continue
            _send(connection, _reply(reader, request, anonymous_memory))
            del request
    except (EOFError, OSError):  # the parent has ended
        return


def receive(connection: "Connection[Any, Any]") -> Arrays | Failure:
    """Return the next reply of a loader process; arrays are writable.

    Raises:
        OSError, EOFError, RuntimeError: The process has died, or a batch cannot be received.
    """
    reply = connection.recv()
    if isinstance(reply, Failure):
        return reply
    sizes = [0 if array is None else _nbytes(*array) for array in reply.arrays]
    content: Any
    if not reply.in_memory_file:
        content = bytearray(connection.recv_bytes())
    else:
        file = reduction.recv_handle(connection)
        try:
            content = mmap.mmap(file, sum(sizes)) if sum(sizes) else bytearray()
        finally:
            os.close(file)
    found: list[npt.NDArray[Any] | None] = []
    for array, size, end in zip(reply.arrays, sizes, np.cumsum(sizes).tolist(), strict=True):
        if array is None:
            found.append(None)
        else:
            dtype, shape = array
            found.append(np.frombuffer(content, dtype, size // np.dtype(dtype).itemsize, end - size).reshape(shape))
    return tuple(found)


def out_of_memory(error: MemoryError) -> ResourceError:
    """Return the user's error for a batch that does not fit into memory."""
    return ResourceError(
        f"Not enough memory to read a batch: {str(error) or 'out of memory'}.",
        REMEDY.format(option="Docker: `--memory`"),
    )


def _reply(
    reader: BatchReader | Failure | None, item: Item, anonymous_memory: bool
) -> tuple[ArraysInFile | Failure, Any]:
    """Return the reply to a request, and the memory file or the bytes that follow it."""
    if isinstance(reader, Failure):
        return reader, None
    try:
        assert reader is not None  # the parent sends it first
        return _packed(reader.read(item), anonymous_memory)
    except MemoryError as error:
        return Failure(out_of_memory(error), ""), None
    except Exception as error:  # of an augmentation that a plugin brings; the parent raises it
        return _failure(error), None


def _packed(arrays: Arrays, anonymous_memory: bool) -> tuple[ArraysInFile, Any]:
    """Return the description of `arrays`, and a new memory file with their bytes, or these bytes."""
    contents = [np.ascontiguousarray(array).reshape(-1).view(np.uint8).data for array in arrays if array is not None]
    described = tuple(None if array is None else (array.dtype.str, array.shape) for array in arrays)
    if not anonymous_memory:
        return ArraysInFile(described, False), b"".join(contents)
    size = sum(content.nbytes for content in contents)
    file = -1
    try:
        file = os.memfd_create("ichx-batch")
        for content in contents:
            while content:
                content = content[os.write(file, content) :]
    except OSError as error:
        if file >= 0:
            os.close(file)
        raise ResourceError(
            f"No shared memory for a batch of {format_bytes(size)}: {error}.",
            REMEDY.format(option="Docker: `--memory`"),
        ) from error
    return ArraysInFile(described, True), file


def _send(connection: "Connection[Any, Any]", packed: tuple[ArraysInFile | Failure, Any]) -> None:
    reply, content = packed
    if isinstance(reply, Failure):
        connection.send(reply)
    elif not reply.in_memory_file:
        connection.send(reply)
        connection.send_bytes(content)
    else:
        try:
            connection.send(reply)
            reduction.send_handle(connection, content, os.getppid())
        finally:
            os.close(content)


def _failure(error: Exception) -> Failure:
    trace = "" if isinstance(error, IchxError) else "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))  # its own: can the parent load it?
    except Exception:  # pickling calls code of the exception
        error = RuntimeError(f"{type(error).__name__}: {error}")
    return Failure(error, trace)


def _nbytes(dtype: str, shape: tuple[int, ...]) -> int:
    return int(np.dtype(dtype).itemsize * np.prod(shape, dtype=np.int64))
