"""File locks, on file systems with and without locks."""

import errno
import fcntl
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import clean_environment
from running_programs import race

from ichx import locks, mounts
from ichx.locks import LINK_SUFFIX, file_lock

NO_FLOCK = """
import errno, fcntl, os, pathlib, sys

def flock(file, operation):
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

if {without}:
    fcntl.flock = flock
from ichx.locks import file_lock
"""

HOLD = "with file_lock(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"

COUNT = """
sys.stdin.readline()
counter = pathlib.Path(sys.argv[1])
for _ in range(100):
    with file_lock(counter.with_suffix(".lock")):
        counter.write_text(str(int(counter.read_text()) + 1))
"""


def no_locks(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def flock(file: object, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.fixture(params=[True, False], ids=["with", "without"])
def program(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the start of a program on a file system with or without locks, on which this process is, too."""
    if not request.param:
        no_locks(monkeypatch, errno.ENOSYS)
    return NO_FLOCK.format(without=not request.param)


def test_a_lock_is_held_by_one_process_and_ends_with_it(tmp_path: Path, program: str) -> None:
    lock = tmp_path / "a.lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", program + HOLD, str(lock)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=clean_environment(),
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(BlockingIOError), file_lock(lock, wait=False):
        pass
    holder.kill()
    holder.wait()
    with file_lock(lock, wait=False), pytest.raises(BlockingIOError), file_lock(lock, wait=False):
        pass
    with file_lock(lock):
        pass
    assert not list(tmp_path.glob(f"*{LINK_SUFFIX}*"))


def test_processes_exclude_each_other(tmp_path: Path, program: str) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    race(program + COUNT, counter)
    assert counter.read_text() == "400"


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL])
def test_the_link_of_another_machine_is_taken_when_it_no_longer_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    no_locks(monkeypatch, code)
    lock, link = tmp_path / "a.lock", tmp_path / f"a.lock{LINK_SUFFIX}"
    link.symlink_to("gpu-node-7|17|boot/pid:[1]/99|abcd")
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for seconds in (0, 60, 60):
        now[0] += seconds
        os.utime(link, (now[0], now[0]), follow_symlinks=False)
        with pytest.raises(BlockingIOError) as caught, file_lock(lock, wait=False):
            pass
        assert caught.value.filename == str(link)
    now[0] += locks.STALE_SECONDS + 1
    with file_lock(lock, wait=False):
        assert str(link.readlink()).startswith(f"{socket.gethostname()}|{os.getpid()}|")
    assert not link.is_symlink()


@pytest.mark.parametrize(
    ("kind", "options", "local"),
    [
        ("lustre", "rw,localflock", True),
        ("lustre", "rw,flock", False),
        ("nfs4", "rw,vers=4.2,local_lock=none", False),
        ("nfs", "rw,vers=3,nolock,local_lock=all", True),
        ("nfs", "rw,vers=3,local_lock=flock", True),
    ],
)
def test_locks_that_other_machines_do_not_see_are_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, options: str, local: bool
) -> None:
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(f"1 0 0:1 / / rw - ext4 /dev/sda1 rw\n2 1 0:2 / {tmp_path} rw - {kind} server:/x {options}\n")
    monkeypatch.setattr(mounts, "MOUNTS", mountinfo)
    with file_lock(tmp_path / "a.lock"):
        assert (tmp_path / f"a.lock{LINK_SUFFIX}").is_symlink() == local
