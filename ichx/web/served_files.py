"""Files below a folder, opened without following links, and sent as they were when they were opened."""

import errno
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Final

from starlette.responses import StreamingResponse

CHUNK_BYTES: Final = 1 << 18


def open_inside(folder: Path, name: str) -> BinaryIO:
    """Open a regular file below `folder`.

    Each part of `name` is opened in the part before, so that a link which somebody creates meanwhile leads nowhere.

    Args:
        folder: A folder, or a link to one.
        name: Path within the folder, with slashes.

    Raises:
        OSError: It does not exist, leads out of the folder, passes a link, or is not a regular file.
    """
    *folders, last = name.split("/")
    if "\0" in name or any(part in ("", ".", "..") for part in (*folders, last)):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in folders:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=place)
            os.close(place)
            place = inner
        number = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=place)
    finally:
        os.close(place)
    if stat.S_ISREG(os.fstat(number).st_mode):
        return os.fdopen(number, "rb")
    os.close(number)
    raise OSError(errno.EINVAL, "Not a regular file", name)


class FileContent(StreamingResponse):
    """The bytes that a file had when it was opened: what is appended meanwhile, e.g. to a log, is not sent."""

    def __init__(self, handle: BinaryIO, media_type: str, headers: Mapping[str, str] | None = None) -> None:
        """Send the content of `handle`, and close it."""
        size = os.fstat(handle.fileno()).st_size
        super().__init__(_parts(handle, size), 200, {**(headers or {}), "Content-Length": str(size)}, media_type)


def _parts(handle: BinaryIO, size: int) -> Iterator[bytes]:
    """Yield `size` bytes; fewer if the file becomes shorter, which the browser reports as a failed download."""
    with handle:
        while size > 0 and (part := handle.read(min(size, CHUNK_BYTES))):
            size -= len(part)
            yield part
