"""Decodes compressed pixels in a separate process, which a damaged codestream may kill.

One such process belongs to each process that decodes. It starts when it is first needed, stays, and is replaced when it
dies, takes too long or is left in the middle of an answer; it ends when its owner does. Not for codecs
(`ichx.ct.decoding_worker`) or for what values mean (`ichx.ct.pixels`).
"""

import atexit
import fcntl
import os
import select
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ichx.ct.decoding_worker import (
    ANSWER,
    CODEC_NAMES,
    DECODED,
    FAILED,
    LONGEST_MESSAGE,
    MEMORY_LIMIT,
    NO_CODEC,
    NO_MEMORY,
    READY,
    REQUEST,
    SECONDS_LIMIT,
    SLOW_SECONDS,
)
from ichx.ct.defects import DicomDefectError
from ichx.errors import IchxError, ProcessError, ResourceError

_TICK: Final = 100
"""Milliseconds of one wait. Time is counted in waits: a process that was stopped meanwhile has not waited."""

_START_SECONDS: Final = 120
"""Time to start in, on a machine that is busy and a disk that is slow."""

_RESTART_SECONDS: Final = 1
"""What the death of a worker costs: the start of the next one."""

_PIPE_BYTES: Final = 2**20
"""Capacity of the pipes, if the system allows it: a complete slice, so that neither side waits for the other."""


@dataclass(frozen=True)
class Decoded:
    """Decoded `values` `(rows, columns)`, signed if the codestream declares it; `precision` is its number of bits."""

    values: npt.NDArray[Any]
    precision: int


def decode(
    codec: str, codestream: bytes, rows: int, columns: int, itemsize: int, frame: tuple[str, int] | None = None
) -> Decoded:
    """Return the values of one frame's `codestream`.

    Args:
        codec: One of `CODEC_NAMES`.
        codestream: The compressed bytes.
        rows: Rows of the frame.
        columns: Columns of the frame.
        itemsize: The header's bytes per value.
        frame: The id of a file with several frames, and the number of the frame.

    Raises:
        DicomDefectError: It cannot be decoded within `SECONDS_LIMIT` and `MEMORY_LIMIT`, or kills the decoder, or slow
            frames of the file took `SECONDS_LIMIT` before.
        ProcessError: Something else has killed the decoder twice.
        IchxError: No decoder can be started.
    """
    request = REQUEST.pack(CODEC_NAMES.index(codec), itemsize, rows, columns, len(codestream))
    with _LOCK:
        allowed = SECONDS_LIMIT - _spent_on_others(frame)
        if allowed <= 0:
            raise DicomDefectError("undecodable", f"other frames of the file took longer than {SECONDS_LIMIT} s")
        try:
            answer, seconds = _answer(request, codestream, (rows, columns), allowed, frame)
        except _KilledError:
            try:
                answer, seconds = _answer(request, codestream, (rows, columns), allowed, frame)
            except _KilledError as error:
                raise ProcessError(
                    "The decoder of compressed pixels was killed twice (SIGKILL); memory may have run out.",
                    "Give ichx more memory or use fewer processes, and rerun the command.",
                ) from error
        _charge(frame, seconds)
    if isinstance(answer, DicomDefectError):
        raise answer
    return answer


def _answer(
    request: bytes, codestream: bytes, shape: tuple[int, int], allowed: float, frame: tuple[str, int] | None
) -> tuple[Decoded | DicomDefectError, float]:
    """Return the answer of the running worker and the seconds it took; end the worker if there is none."""
    worker, budget = _running_worker(), _Budget(allowed)
    try:
        return _ask(worker, request, codestream, shape, budget)
    except _KilledError:
        _end(worker)
        raise
    except _DiedError as error:
        _end(worker)
        _charge(frame, budget.spent + _RESTART_SECONDS)
        raise DicomDefectError("undecodable", f"the decoder died ({error})") from error
    except _TimeoutError as error:
        _end(worker)
        _charge(frame, budget.spent)
        raise DicomDefectError("undecodable", f"took longer than {round(allowed, 1):g} s") from error
    except BaseException:
        _end(worker)  # interrupted: its answer would be taken for the next one's
        raise


class _DiedError(Exception):
    """The worker is gone."""


class _KilledError(_DiedError):
    """Something else has killed the worker, e.g. because memory ran out: the codestream may be valid."""


class _TimeoutError(Exception):
    """The worker has not answered in time."""


class _Worker:
    """A started worker and the ends of its pipes."""

    def __init__(self) -> None:
        # The worker finds what this process finds, and nothing in the current directory.
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        command = [sys.executable, "-P", "-m", "ichx.ct.decoding_worker"]
        self.process = subprocess.Popen(
            command,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            process_group=0,  # Ctrl-C is for the owner
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.requests, self.answers = self.process.stdin.fileno(), self.process.stdout.fileno()
        for pipe in (self.requests, self.answers):
            os.set_blocking(pipe, False)
            _enlarge(pipe)

    def send(self, content: bytes, budget: "_Budget") -> None:
        """Write `content`, or raise `_DiedError` or `_TimeoutError`."""
        view = memoryview(content)
        while view:
            try:
                view = view[os.write(self.requests, view) :]
            except BlockingIOError:
                budget.wait(self.requests, select.POLLOUT)
            except BrokenPipeError:
                raise self._death() from None

    def receive(self, length: int, budget: "_Budget") -> npt.NDArray[np.uint8]:
        """Return the next `length` bytes, or raise `_DiedError` or `_TimeoutError`."""
        content = np.empty(length, np.uint8)
        view = content.data
        while view:
            try:
                count = os.readv(self.answers, [view])
            except BlockingIOError:
                budget.wait(self.answers, select.POLLIN)
                continue
            if not count:
                raise self._death()
            view = view[count:]
        return content

    def _death(self) -> _DiedError:
        code = self.process.wait()
        if code == -signal.SIGKILL:
            return _KilledError("SIGKILL")
        return _DiedError(f"signal {-code}" if code < 0 else f"exit code {code}")


class _Budget:
    """The waits that are left for one answer."""

    def __init__(self, seconds: float) -> None:
        self._all = self._left = max(1, round(1000 * seconds / _TICK))

    @property
    def spent(self) -> float:
        """Seconds waited."""
        return (self._all - self._left) * _TICK / 1000

    def wait(self, descriptor: int, event: int) -> None:
        poll = select.poll()
        poll.register(descriptor, event)
        while not poll.poll(_TICK):
            self._left -= 1
            if self._left <= 0:
                raise _TimeoutError


_LOCK = threading.Lock()
_worker: _Worker | None = None

_slow_frames: dict[str, dict[int, float]] = {}
"""Seconds that slow frames took, by file and frame. Reading a frame again adds nothing."""


def _spent_on_others(frame: tuple[str, int] | None) -> float:
    if frame is None:
        return 0
    return sum(seconds for number, seconds in _slow_frames.get(frame[0], {}).items() if number != frame[1])


def _charge(frame: tuple[str, int] | None, seconds: float) -> None:
    if frame is not None and seconds > SLOW_SECONDS:
        _slow_frames.setdefault(frame[0], {})[frame[1]] = seconds


def _running_worker() -> _Worker:
    """Return the worker; start a new one if there is none or it has died while idle."""
    global _worker
    if _worker is not None and _worker.process.poll() is not None:
        _end(_worker)
    if _worker is None:
        try:
            worker = _Worker()
        except OSError as error:
            raise ResourceError(
                f"Cannot start the decoder of compressed pixels: {error.strerror or error}.",
                "Use fewer processes, or allow more of them (`ulimit -u`; Docker: `--pids-limit`).",
            ) from error
        try:
            if worker.receive(len(READY), _Budget(_START_SECONDS)).tobytes() != READY:
                raise _DiedError("it answered something else")
        except (_DiedError, _TimeoutError) as error:
            _end(worker)
            raise IchxError(
                f"the decoder of compressed pixels does not start ({error})",
                f"run `{sys.executable} -m ichx.ct.decoding_worker` to see why",
            ) from error
        except BaseException:
            _end(worker)
            raise
        _worker = worker
    return _worker


def _ask(
    worker: _Worker, request: bytes, codestream: bytes, shape: tuple[int, int], budget: _Budget
) -> tuple[Decoded | DicomDefectError, float]:
    """Return the worker's answer, values or a defect, and the seconds that it took."""
    worker.send(request + codestream, budget)
    state, kind, itemsize, precision, length, seconds = ANSWER.unpack(worker.receive(ANSWER.size, budget).tobytes())
    values_follow = state == DECODED and kind in b"iu" and length == shape[0] * shape[1] * itemsize
    if not values_follow and (state not in (FAILED, NO_MEMORY, NO_CODEC) or length > LONGEST_MESSAGE):
        raise _DiedError("it answers nonsense")  # a codec has written into memory that is not its own
    payload = worker.receive(length, budget)
    if values_follow:
        return Decoded(payload.view(f"{kind.decode()}{itemsize}").reshape(shape), precision), seconds
    if state == NO_MEMORY:
        return DicomDefectError("undecodable", f"needed more than {MEMORY_LIMIT // 2**20} MiB"), seconds
    message = payload.tobytes().decode(errors="replace")
    if state == NO_CODEC:
        return DicomDefectError("unsupported_syntax", f"needs an imagecodecs with that codec: {message}"), seconds
    return DicomDefectError("undecodable", message), seconds


def _enlarge(pipe: int) -> None:
    resize = getattr(fcntl, "F_SETPIPE_SZ", None)
    if resize is not None:
        try:
            fcntl.fcntl(pipe, resize, _PIPE_BYTES)
        except OSError:
            pass  # the system allows less: the slice goes over in parts


def _end(worker: _Worker) -> None:
    """Kill the worker and forget it."""
    global _worker
    worker.process.kill()
    worker.process.wait()
    _close(worker)
    if worker is _worker:
        _worker = None


def _close(worker: _Worker) -> None:
    for pipe in (worker.process.stdin, worker.process.stdout):
        if pipe is not None:
            pipe.close()


@atexit.register
def _end_at_exit() -> None:
    if _worker is not None:
        _end(_worker)


def _forget_in_child() -> None:
    """Leave the worker to the parent: two processes would take each other's answers."""
    global _LOCK, _worker
    _LOCK = threading.Lock()
    if _worker is not None:
        _worker.process.returncode = 0  # it is not a child of this process
        _close(_worker)
        _worker = None


os.register_at_fork(after_in_child=_forget_in_child)
