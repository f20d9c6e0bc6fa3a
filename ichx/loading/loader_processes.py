"""The loader processes of a run, from the side of their parent: how they start, and what happens when one of them dies.

They live until their loader does: a pass over the data (an epoch, a validation) finds those of the pass before.
"""

import multiprocessing
import pickle
import signal
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing import connection, forkserver
from multiprocessing.process import BaseProcess
from typing import Any, Final

from ichx.errors import IchxError, ProcessError, ResourceError
from ichx.loading.batch_reader import Arrays, BatchReader, Item
from ichx.loading.worker_process import ANONYMOUS_MEMORY, REMEDY, Failure, WorkerTracebackError, receive, serve
from ichx.signals import block_stop_signals
from ichx.worker_pool import without_script

AHEAD: Final = 2 if ANONYMOUS_MEMORY else 1
"""Batches that a process has been asked for at once. Through a connection one: both sides could wait for each other."""


@dataclass
class _Worker:
    process: BaseProcess
    connection: "connection.Connection[Any, Any]"
    requested: deque[int] = field(default_factory=deque)
    """Numbers of the requests without a reply."""


class LoaderProcesses:
    """Processes that read batches for one pass after another. They start with the first one."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._idle = list[list[_Worker]]()
        self._started = list[_Worker]()
        weakref.finalize(self, _kill, self._started)

    def read(self, reader: BatchReader, items: Iterable[Item]) -> Iterator[Arrays]:
        """Yield what `reader` reads for `items`, in their order; which process reads an item changes nothing.

        Raises:
            ResourceError: The processes cannot start.
            ProcessError: A process has died, or a batch cannot be received. Exceptions of the code that runs in the
                processes are raised unchanged.
        """
        workers = self._take(reader)
        content = pickle.dumps(reader)
        replies: dict[int, Arrays | Failure] = {}
        waiting, requested, number = enumerate(items), 0, 0
        complete = False
        try:
            for worker in workers:
                worker.connection.send_bytes(content)
            while True:
                while requested - number < AHEAD * len(workers):
                    worker = min(workers, key=lambda worker: len(worker.requested))
                    if (following := next(waiting, None)) is None:
                        break
                    worker.connection.send_bytes(pickle.dumps(following[1]))
                    worker.requested.append(following[0])
                    requested += 1
                if number == requested:
                    complete = True
                    return
                while number not in replies:
                    _receive_some(workers, replies)
                reply = replies.pop(number)
                if isinstance(reply, Failure):
                    raise _raised(reply)
                number += 1
                yield reply
                del reply  # so that the consumer can release it
        except (OSError, EOFError, RuntimeError) as error:
            if isinstance(error.__cause__, WorkerTracebackError):
                raise  # of the code that reads a batch
            raise _death(workers, error) from error
        finally:
            if complete:
                self._idle.append(workers)
            else:
                self._forget(workers)

    def _take(self, reader: BatchReader) -> list[_Worker]:
        """Return processes that no other pass uses: those of an earlier pass, or new ones."""
        while self._idle:
            workers = self._idle.pop()
            if all(worker.process.is_alive() for worker in workers):
                return workers
            self._forget(workers)
        return self._start(reader)

    def _start(self, reader: BatchReader) -> list[_Worker]:
        context, workers = worker_context(), list[_Worker]()
        try:
            with block_stop_signals(), without_script(reader.build):
                for _ in range(self.count):
                    own, other = context.Pipe()
                    process = context.Process(
                        target=serve, args=(other, ANONYMOUS_MEMORY), name="ichx-loader", daemon=True
                    )
                    workers.append(_Worker(process, own))
                    process.start()
                    self._started.append(workers[-1])
                    other.close()  # so that the end of the process closes the connection
        except (OSError, EOFError) as error:
            self._forget(workers)
            raise ResourceError(
                f"Cannot start {self.count} loader processes: {error}.",
                REMEDY.format(option="Docker: `--memory`, `--pids-limit`"),
            ) from error
        return workers

    def _forget(self, workers: list[_Worker]) -> None:
        """End `workers`."""
        started = [worker for worker in workers if worker in self._started]
        _kill(started)
        self._started[:] = [worker for worker in self._started if worker not in started]
        for worker in workers:
            worker.connection.close()


def start_worker_server() -> None:
    """Start the process that forks loader processes; it imports their code while the caller prepares a network.

    Nothing happens if it runs already.
    """
    if worker_context().get_start_method() == "forkserver":
        with block_stop_signals():  # a terminal and some schedulers send them to all processes of a command
            forkserver.ensure_running()


def worker_context() -> Any:
    """Return how workers start: forked from a clean server process that has imported their code once.

    A fork of this process would copy the locks of torch's and CUDA's threads.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ichx.loading.worker_process"])
    return context


def _receive_some(workers: list[_Worker], replies: dict[int, Arrays | Failure]) -> None:
    """Wait until some process replies, and add what has arrived to `replies`.

    Raises:
        OSError, EOFError: A process has died.
    """
    by_connection = {worker.connection: worker for worker in workers}
    sentinels = [worker.process.sentinel for worker in workers]
    ready = connection.wait([*by_connection, *sentinels])
    arrived = [by_connection[each] for each in ready if each in by_connection]
    if not arrived:
        raise EOFError
    for worker in arrived:
        reply = receive(worker.connection)
        replies[worker.requested.popleft()] = reply


def _raised(failure: Failure) -> Exception:
    """Return the exception to raise for `failure`."""
    if not isinstance(failure.error, IchxError):
        failure.error.__cause__ = WorkerTracebackError(failure.trace)
    return failure.error


def _death(workers: list[_Worker], error: BaseException) -> ProcessError:
    """Return the error for a batch that does not arrive."""
    # The exit code follows the death.
    connection.wait([worker.process.sentinel for worker in workers], timeout=1.0)
    codes = [worker.process.exitcode for worker in workers if worker.process.exitcode is not None]
    ends = [signal.Signals(-code).name if code < 0 else f"exit code {code}" for code in codes]
    if ends:
        problem = f"A loader process died ({', '.join(dict.fromkeys(ends))}). Memory may have run out."
    else:
        problem = f"Cannot receive a batch from the loader processes: {str(error).strip() or type(error).__name__}."
    return ProcessError(problem, REMEDY.format(option="Docker: `--memory`") + " Rerun the command to resume.")


def _kill(workers: list[_Worker]) -> None:
    """End `workers` at once: they hold nothing that is not elsewhere."""
    for worker in workers:
        worker.process.kill()
    for worker in workers:
        worker.process.join(timeout=1.0)
