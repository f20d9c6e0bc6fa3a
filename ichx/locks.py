"""A lock on a file that ends with the process that holds it, however that process ends."""

import errno
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

NO_LOCKS: Final = frozenset({errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL})
"""Errors of file systems that have no locks."""


@contextmanager
def file_lock(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold an exclusive lock on `path`, which is created if needed; yield whether the file system has locks.

    Args:
        path: The lock file. It stays afterwards.
        wait: Wait for another holder; otherwise raise `BlockingIOError`.

    Raises:
        BlockingIOError: Another process holds the lock and `wait` is False.
        OSError: The file cannot be opened.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            locked = False
        else:
            locked = True
        yield locked
