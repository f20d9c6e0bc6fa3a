"""A lock on a file that ends with the process that holds it, however that process ends.

File systems without locks (Lustre and NFS by their mount options) have symbolic links, which are created atomically:
there a link that names its owner is the lock.
"""

import contextlib
import errno
import fcntl
import os
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ichx.mounts import has_local_locks
from ichx.process_identity import host_name, is_process_alive, process_identity

NO_LOCKS: Final = frozenset({errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL})
"""Errors of file systems that have no locks."""

LINK_SUFFIX: Final = ".owner"
"""Suffix of the links that replace locks."""

REFRESH_SECONDS: Final = 10.0
"""Time between two changes of a link, which show machines that cannot check its owner that it is alive."""

STALE_SECONDS: Final = 90.0
"""Time without a change after which the owner of a link is dead, if it cannot be checked."""

_TICK_SECONDS: Final = 0.1

_watched: dict[Path, tuple[tuple[str, int], float]] = {}
"""Owner and time of change of each foreign link, and since when this process has seen them, by its own clock."""


@contextmanager
def file_lock(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold an exclusive lock on `path`, which is created if needed.

    Args:
        path: The lock file. It stays afterwards.
        wait: Wait for another holder; otherwise raise `BlockingIOError`.

    Raises:
        BlockingIOError: Another process holds the lock and `wait` is False. Its `filename` is the link that is the lock
            if the file system has no locks.
        OSError: The file cannot be opened, or the file system has neither locks nor symbolic links.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not has_local_locks(path):
        with path.open("ab") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
            else:
                yield
                return
    with _link_lock(path.with_name(path.name + LINK_SUFFIX), wait=wait):
        yield


@contextmanager
def _link_lock(link: Path, *, wait: bool) -> Iterator[None]:
    owner = "|".join([host_name(), str(os.getpid()), process_identity(os.getpid()) or "", secrets.token_hex(4)])
    while not _create(link, owner):
        if not wait:
            raise BlockingIOError(errno.EWOULDBLOCK, "another process holds the lock", str(link))
        time.sleep(_TICK_SECONDS)
    ended = threading.Event()

    def refresh() -> None:
        while not ended.wait(REFRESH_SECONDS):
            with contextlib.suppress(OSError):
                os.utime(link, follow_symlinks=False)

    refreshing = threading.Thread(target=refresh, name="ichx-lock", daemon=True)
    refreshing.start()
    try:
        yield
    finally:
        ended.set()
        refreshing.join()
        with contextlib.suppress(OSError):
            if str(link.readlink()) == owner:
                link.unlink()


def _create(link: Path, owner: str) -> bool:
    """Create a link unless a live process owns it; remove that of a dead one."""
    for _ in range(2):
        try:
            link.symlink_to(owner)
            return True
        except FileExistsError:
            pass
        try:
            state = (str(link.readlink()), link.lstat().st_mtime_ns)
        except FileNotFoundError:
            continue  # just released
        if not _is_dead(link, state):
            break
        _remove(link, state[0])
    return False


def _is_dead(link: Path, state: tuple[str, int]) -> bool:
    host, pid, identity, _ = (*state[0].split("|"), "", "", "")[:4]
    alive = is_process_alive(int(pid), identity or None) if host == host_name() and pid.isdecimal() else None
    if alive is not None:
        return not alive
    before, since = _watched.get(link, (None, 0.0))
    if before != state:
        _watched[link] = (state, time.monotonic())
        return False
    return time.monotonic() - since > STALE_SECONDS


def _remove(link: Path, owner: str) -> None:
    """Remove a link if it is still that of `owner`; of several processes one does this at a time."""
    guard = link.with_name(link.name + ".removal")
    try:
        guard.mkdir()
    except FileExistsError:
        with contextlib.suppress(OSError):
            if _is_dead(guard, ("", guard.lstat().st_mtime_ns)):  # its process was killed
                guard.rmdir()
        return
    try:
        with contextlib.suppress(FileNotFoundError):
            if str(link.readlink()) == owner:
                link.unlink()
    finally:
        guard.rmdir()
