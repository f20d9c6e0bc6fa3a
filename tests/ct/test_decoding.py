"""The process that decodes: it may die, hang and run out of memory, and nothing else does."""

import array
import fcntl
import multiprocessing
import os
import resource
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import imagecodecs
import numpy as np
import pytest

from ichx.ct import decoding
from ichx.ct.decoding import decode
from ichx.ct.defects import DicomDefectError
from ichx.errors import ProcessError

IMAGE = np.arange(4096, dtype=np.uint16).reshape(64, 64)
CODESTREAM = imagecodecs.jpegls_encode(IMAGE)


def works(codestream: bytes = CODESTREAM) -> bool:
    return bool((decode("jpegls", codestream, 64, 64, 2).values == IMAGE).all())


def worker_pid() -> int:
    """Return the pid of the worker of this process."""
    assert works()
    assert decoding._worker is not None
    return decoding._worker.process.pid


def stopped_worker() -> int:
    """Stop the worker and return its pid."""
    pid = worker_pid()
    os.kill(pid, signal.SIGSTOP)
    while Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "T":
        time.sleep(0.01)
    return pid


def abort(pid: int) -> None:
    """End a stopped process as a failed assertion in native code does."""
    os.kill(pid, signal.SIGABRT)
    os.kill(pid, signal.SIGCONT)


def once_asked(action: Callable[[], None]) -> None:
    """Do `action` as soon as the worker, which is stopped, has a request before it."""
    assert decoding._worker is not None
    requests = decoding._worker.requests

    def wait() -> None:
        waiting = array.array("i", [0])
        while not waiting[0]:
            time.sleep(0.01)
            fcntl.ioctl(requests, termios.FIONREAD, waiting)
        action()

    threading.Thread(target=wait, daemon=True).start()


def ended(pid: int) -> bool:
    """Whether a process ends."""
    for _ in range(9000):
        try:
            state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.1)
    return False


def failure(codestream: bytes = CODESTREAM, rows: int = 64) -> str:
    with pytest.raises(DicomDefectError) as caught:
        decode("jpegls", codestream, rows, rows, 2)
    assert caught.value.reason == "undecodable"
    return caught.value.detail


def test_one_process_stays_for_all_slices_and_damaged_ones() -> None:
    pid = worker_pid()
    assert failure(b"no codestream")
    assert failure(CODESTREAM, 65) == "decoded to (64, 64), not to (65, 65)"
    assert failure(b"")
    assert worker_pid() == pid


def test_values_have_the_type_and_precision_of_the_codestream() -> None:
    signed = imagecodecs.jpeg2k_encode(
        IMAGE.astype(np.int16) - 2048, codecformat="j2k", reversible=True, level=0, bitspersample=13
    )
    decoded = decode("jpeg2k", signed, 64, 64, 2)
    assert (decoded.values.dtype, decoded.precision) == (np.int16, 13)
    assert (decoded.values == IMAGE.astype(int) - 2048).all()
    assert decode("jpegls", CODESTREAM, 64, 64, 2).precision in (12, 16)


@pytest.mark.parametrize("places", [(2, 64, 2**31), (2, 9000, 9100), (2, 100, 64), (2, 0, 64), (1, 64, 0), (9, 64, 64)])
def test_offsets_outside_an_rle_codestream_are_refused(places: tuple) -> None:
    pid = worker_pid()
    count, *starts = places
    codestream = struct.pack("<16L", count, *starts, *(0,) * 13) + b"\x81\0" * 64
    with pytest.raises(DicomDefectError, match="RLE segments"):
        decode("rle", codestream, 64, 64, 2)
    assert worker_pid() == pid


def test_a_process_that_dies_is_named_and_replaced() -> None:
    pid = stopped_worker()
    once_asked(lambda: abort(pid))
    assert failure() == "the decoder died (signal 6)"
    assert worker_pid() != pid


@pytest.mark.parametrize("kills", [1, 2])
def test_process_that_something_else_kills_makes_no_defect(kills: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory killer ends it, not the codestream: another one decodes the slice, once."""
    pid, send, killed = worker_pid(), decoding._Worker.send, []

    def kill_and_send(worker: decoding._Worker, *arguments: object) -> None:
        if len(killed) < kills:
            killed.append(worker.process.pid)
            os.kill(worker.process.pid, signal.SIGKILL)
        send(worker, *arguments)

    monkeypatch.setattr(decoding._Worker, "send", kill_and_send)
    if kills == 1:
        assert works()
    else:
        with pytest.raises(ProcessError, match="SIGKILL"):
            works()
    assert (len(killed), killed[0]) == (kills, pid)
    assert works()


def test_an_idle_worker_that_died_fails_no_slice() -> None:
    pid = worker_pid()
    os.kill(pid, signal.SIGKILL)
    assert ended(pid)
    assert worker_pid() != pid


def test_a_process_that_takes_too_long_is_named_and_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    pid = stopped_worker()
    monkeypatch.setattr(decoding, "SECONDS_LIMIT", 0.3)
    assert failure() == "took longer than 0.3 s"
    assert ended(pid)
    monkeypatch.undo()
    assert worker_pid() != pid


def slow(seconds: float, frame: int, monkeypatch: pytest.MonkeyPatch, file: str = "uid") -> str:
    """Return the defect of a frame of a file that keeps the decoder for `seconds`, which exceeds the limit."""
    stopped_worker()
    monkeypatch.setattr(decoding, "SECONDS_LIMIT", seconds)
    with pytest.raises(DicomDefectError) as caught:
        decode("jpegls", CODESTREAM, 64, 64, 2, (file, frame))
    return caught.value.detail


def test_slow_frames_of_a_file_share_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_slow_frames", {})
    monkeypatch.setattr(decoding, "SLOW_SECONDS", 0.1)
    assert slow(0.3, 1, monkeypatch) == "took longer than 0.3 s"
    assert slow(0.5, 2, monkeypatch) == "took longer than 0.2 s"  # the rest of what the file has
    with pytest.raises(DicomDefectError, match=r"other frames .* 0\.5 s"):
        decode("jpegls", CODESTREAM, 64, 64, 2, ("uid", 3))
    assert decoding._worker is None, "no worker was asked"
    monkeypatch.setattr(decoding, "SECONDS_LIMIT", 60)  # a busy machine may need more than the one above
    assert decode("jpegls", CODESTREAM, 64, 64, 2, ("another", 3)).values.shape == (64, 64)
    assert works()  # so are files with one frame


def test_frames_that_kill_the_decoder_share_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_slow_frames", {})
    monkeypatch.setattr(decoding, "SECONDS_LIMIT", 2)
    for frame in (1, 2):
        pid = stopped_worker()
        once_asked(lambda pid=pid: abort(pid))
        with pytest.raises(DicomDefectError, match="signal 6"):
            decode("jpegls", CODESTREAM, 64, 64, 2, ("uid", frame))
    with pytest.raises(DicomDefectError, match="other frames"):
        decode("jpegls", CODESTREAM, 64, 64, 2, ("uid", 3))


def test_a_slow_frame_counts_once_however_often_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_slow_frames", {})
    monkeypatch.setattr(decoding, "SLOW_SECONDS", -1)  # each frame is slow
    for _ in range(3):
        for frame in (1, 2):
            decode("jpegls", CODESTREAM, 64, 64, 2, ("uid", frame))
    with pytest.raises(DicomDefectError):
        decode("jpegls", b"no codestream", 64, 64, 2, ("uid", 3))
    assert decoding._slow_frames["uid"].keys() == {1, 2, 3}
    assert all(0 <= seconds < 1 for seconds in decoding._slow_frames["uid"].values())


def test_memory_is_limited_beyond_what_the_process_starts_with() -> None:
    pid = worker_pid()
    soft, _ = resource.prlimit(pid, resource.RLIMIT_AS)
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[0])
    assert soft - pages * resource.getpagesize() <= 512 * 2**20
    large = imagecodecs.jpegls_encode(np.zeros((4096, 4096), np.uint16))
    assert decode("jpegls", large, 4096, 4096, 2).values.shape == (4096, 4096)
    lowered = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize() + 2**22
    resource.prlimit(pid, resource.RLIMIT_AS, (lowered, lowered))
    assert failure(large, 4096) == "needed more than 512 MiB"
    assert worker_pid() == pid


def test_interrupts_reach_the_owner_only() -> None:
    pid = worker_pid()
    os.kill(pid, signal.SIGINT)
    assert works()
    assert worker_pid() == pid
    assert os.getpgid(pid) != os.getpgid(0)


def test_an_interrupted_slice_does_not_affect_the_next() -> None:
    pid = stopped_worker()
    once_asked(lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        decode("jpegls", imagecodecs.jpegls_encode(IMAGE[::-1].copy()), 64, 64, 2)
    assert worker_pid() != pid


def test_threads_share_the_process_in_turn() -> None:
    images = [np.full((64, 64), value, np.uint16) for value in range(40)]
    codestreams = [imagecodecs.jpegls_encode(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        decoded = list(pool.map(lambda codestream: decode("jpegls", codestream, 64, 64, 2).values, codestreams))
    assert all((values == image).all() for values, image in zip(decoded, images, strict=True))


def test_a_forked_process_has_its_worker() -> None:
    pid = worker_pid()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.write(write, f"{worker_pid()}".encode())
            decoding._end_at_exit()
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    assert os.waitpid(child, 0)[1] == 0
    assert int(os.read(read, 20)) != pid
    os.close(read)
    assert worker_pid() == pid


def test_it_works_in_spawned_and_daemonic_processes() -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        assert pool.submit(_try).result(timeout=900)
    with context.Pool(1) as daemons:
        assert daemons.apply(_try)


def _try() -> bool:
    return bool((decode("jpegls", CODESTREAM, 64, 64, 2).values == IMAGE).all())


OWNER = """
import sys, time
import imagecodecs, numpy
from ichx.ct import decoding
decoding.decode("jpegls", imagecodecs.jpegls_encode(numpy.ones((64, 64), "u2")), 64, 64, 2)
print(decoding._worker.process.pid, flush=True)
if sys.argv[1] == "wait":
    time.sleep(600)
"""


@pytest.mark.parametrize("end", ["exit", "wait"])
def test_it_ends_with_its_owner(end: str) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    owner = subprocess.Popen([sys.executable, "-c", OWNER, end], stdout=subprocess.PIPE, env=environment)
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())
    if end == "wait":
        owner.kill()
    owner.wait()
    owner.stdout.close()
    assert ended(pid)


def test_it_imports_no_more_than_it_needs() -> None:
    needless = ("pydicom", "cv2", "torch", "pandas", "scipy")
    code = f"import sys, ichx.ct.decoding_worker; print([name for name in {needless} if name in sys.modules])"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
