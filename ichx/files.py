"""Writing files atomically, reading files of the user, and paths as text.

A written file is complete or absent, whatever ends the process that writes it.
"""

import codecs
import errno
import os
import re
import stat
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from io import BufferedReader
from pathlib import Path
from typing import Any, Final, TypeVar

from ichx.errors import InvalidInputError, StorageError
from ichx.locks import file_lock
from ichx.mounts import network_mount
from ichx.process_identity import is_process_id_used

DRAFT_PATTERN: Final = ".*.tmp*"
"""Matches the names of files that are being written, or that a killed process has left."""

ABANDONED_SECONDS: Final = 86400.0
"""Age of a temporary file after which its process is dead, wherever that ran."""

MAX_INPUT: Final = 1 << 31
"""Largest size in bytes of a file that is read at once, so that an endless pipe does not fill the memory."""

T = TypeVar("T")

_RETRY_SECONDS: Final = (0.1, 0.3, 0.6)
"""Waits between the attempts of `read_announced`."""

_BLOCK: Final = 1 << 20
"""Bytes of one read call."""

FOLDER_REMEDY: Final = "Name a folder that can be written: --out."
REMEDY: Final = "Free some space or make the folder writable, then run the command again."


@contextmanager
def atomic_path(path: Path, *, private: bool = False) -> Iterator[Path]:
    """Yield a temporary path next to `path` with the same suffix; rename it to `path` after the block succeeds.

    The content is flushed to disk before the rename, and the folder after it. The file gets the permissions of a newly
    created one; a `private` one is readable by its owner alone from the start. If the block raises, the temporary file
    is removed and `path` stays as it was.

    Raises:
        OSError: The file cannot be written.
    """
    import secrets  # only here: importing it takes longer than finding the workspace, which reads a file

    owner = f"{_process_scope()}-{os.getpid()}"
    draft = path.with_name(f".{path.stem}.{owner}-{secrets.token_hex(4)}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A network file system reports a full quota when data is flushed, and only to handles that were open before.
        # Some libraries ignore errors when they close a file.
        earlier = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666)
        try:
            yield draft
            os.fsync(earlier)
        finally:
            os.close(earlier)
        with draft.open("rb+") as handle:  # another file, if the block has replaced it
            os.fsync(handle.fileno())
        if not private:
            apply_umask(draft)
        draft.replace(path)
        flush_folder(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def create_once(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Create `path` with its complete content, unless it exists.

    Raises:
        OSError: The folder is not writable.
    """
    import secrets

    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as handle:
        handle.write(content)
        handle.flush()
        os.fsync(handle.fileno())
    try:
        os.link(draft, path)  # fails if another process was faster: then its file is used
    except FileExistsError:
        pass
    except OSError:  # exFAT, SMB and others have no hard links
        with file_lock(path.with_suffix(".lock")):
            if not path.exists():
                draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def atomic_write(path: Path, what: str, *, remedy: str = REMEDY, private: bool = False) -> Iterator[Path]:
    """Yield a temporary path as `atomic_path` does, and report failures to the user.

    Args:
        path: The file to write.
        what: What the file is, e.g. "the catalog"; used in the message.
        remedy: What the user can do.
        private: Whether only the owner may read the file.

    Raises:
        StorageError: The file cannot be written.
    """
    try:
        with atomic_path(path, private=private) as draft:
            yield draft
    except OSError as error:
        raise write_error(path, what, error, remedy=remedy) from error


def check_suffix(path: Path, what: str, suffixes: Sequence[str], remedy: str = "") -> None:
    """Raise `InvalidInputError` if the name of an output file promises another format than `suffixes`, e.g. `.svg`."""
    if path.suffix and path.suffix.lower() not in suffixes:
        raise InvalidInputError(
            f"Unsupported format of {what}: {path.suffix!r} in {path}.",
            f"Use a name that ends with {' or '.join(suffixes)}.{remedy and ' '}{remedy}",
        )


def check_writable(path: Path, what: str, *, remedy: str = REMEDY) -> None:
    """Check before long work that `what` can be written to the file `path`. Creates nothing.

    Raises:
        InvalidInputError: `path` is a folder.
        StorageError: Its folder is not writable, or cannot be created.
    """
    try:
        if path.is_dir():
            raise InvalidInputError(f"{path} is a folder.", "Use the name of a file.")
        above = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
        if not above.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), above)
        effective = (
            os.access in os.supports_effective_ids
        )  # access is that of the user by whose rights files are written
        if not os.access(above, os.W_OK | os.X_OK, effective_ids=effective):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), above)
    except OSError as error:
        raise write_error(path, what, error, remedy=remedy) from error


def write_text(path: Path, text: str, what: str, *, remedy: str = REMEDY) -> None:
    """Write `text` to `path` as UTF-8, atomically. Raises `StorageError`."""
    with atomic_write(path, what, remedy=remedy) as draft:
        draft.write_text(text, encoding="utf-8")


def write_with(path: Path, write: Callable[[Path], Any], what: str, *, remedy: str = REMEDY) -> None:
    """Let `write` fill a temporary path that becomes `path`, atomically. Raises `StorageError`."""
    with atomic_write(path, what, remedy=remedy) as draft:
        write(draft)


def write_error(path: Path, what: str, error: OSError, *, remedy: str = REMEDY) -> StorageError:
    """Return the error for `what` that could not be written to `path`."""
    if isinstance(error, IsADirectoryError):
        remedy = "Move that folder away, then run the command again."
    return StorageError(f"Cannot write {what} to {path}: {error.strerror or error}.", remedy)


def remove_drafts(folder: Path) -> None:
    """Remove temporary files that killed processes have left in `folder`.

    Those of processes on other machines may still be written, and are removed when they are a day old.
    """
    for path in folder.glob(DRAFT_PATTERN):
        with suppress(OSError):  # its process has finished; it belongs to another user
            if _is_abandoned(path):
                path.unlink()


def _is_abandoned(draft: Path) -> bool:
    age = time.time() - draft.stat().st_mtime
    owner = re.search(r"\.([0-9a-f]{8})-([0-9]+)-[0-9a-f]{8}\.tmp[^/]*$", draft.name)
    if owner is None or owner[1] != _process_scope() or age > ABANDONED_SECONDS:
        return age > ABANDONED_SECONDS
    return not is_process_id_used(int(owner[2]))


@cache
def _process_scope() -> str:
    """Return 8 hex digits for this machine, or container, in which a process id names one process."""
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        namespace = ""
    return f"{zlib.crc32(f'{os.uname().nodename} {namespace}'.encode()):08x}"


def apply_umask(path: Path) -> None:
    """Give a file the permissions of a newly created one: some libraries create files for their owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    with suppress(PermissionError, NotImplementedError):  # exFAT and SMB have no permissions to change
        path.chmod(0o666 & ~mask)


def flush_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power failure."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP):  # file systems that flush no folders
            raise
    finally:
        os.close(handle)


def read_announced(path: Path, read: Callable[[], T]) -> T:
    """Return `read()`, which reads `path`, a complete file that another process has announced, e.g. in the store.

    The client of a network file system may remember for seconds that a file does not exist, or which file has its name.
    There this reads again for about a second. What `read` raises then is raised.
    """
    for seconds in _RETRY_SECONDS:
        try:
            return read()
        except OSError as error:
            absent = isinstance(error, FileNotFoundError) or error.errno == errno.ESTALE
            if not absent or network_mount(path) is None:
                raise
        with suppress(OSError):
            list(path.parent.iterdir())  # makes a client of NFS compare the folder with the server's
        time.sleep(seconds)
    return read()


def is_announced_file(path: Path) -> bool:
    """Return whether `path` is a file; see `read_announced`."""
    try:
        return stat.S_ISREG(read_announced(path, path.stat).st_mode)
    except OSError:
        return False


def open_file(path: Path) -> BufferedReader:
    """Open a regular file for reading. Raises `OSError` for a pipe, socket or device, without waiting for it."""
    handle = _open_without_waiting(path)
    if stat.S_ISREG(os.fstat(handle.fileno()).st_mode):
        return handle
    handle.close()
    raise OSError(errno.EINVAL, "Not a regular file", str(path))


def read_input(path: Path) -> bytes:
    """Return the content of a file or of a pipe, e.g. of `<(command)` in a shell.

    Raises:
        OSError: It cannot be read, is too large, is a device, or is a pipe to which no program writes.
    """
    with _open_without_waiting(path) as handle:
        mode = os.fstat(handle.fileno()).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
            raise OSError(errno.EINVAL, "Neither a file nor a pipe", str(path))
        os.set_blocking(handle.fileno(), True)
        content = bytearray()  # grows as needed: one read call would reserve the maximum
        while len(content) <= MAX_INPUT and (part := handle.read(_BLOCK)):
            content += part
    if len(content) > MAX_INPUT:
        raise OSError(errno.EFBIG, f"More than {MAX_INPUT >> 30} GiB", str(path))
    if stat.S_ISFIFO(mode) and not content:
        raise OSError(errno.ENODATA, "No program writes to this pipe", str(path))
    return bytes(content)


def read_text(path: Path) -> str:
    """Return the text of a file or pipe of the user: UTF-8, or UTF-16 with a byte order mark.

    Raises:
        OSError: See `read_input`.
        UnicodeDecodeError: The content is not such text.
    """
    content = read_input(path)
    utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if utf_16 else "utf-8-sig").replace("\r\n", "\n")


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content, 64 hex digits."""
    import hashlib  # only here: most users of this module hash nothing

    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder; 0 if it does not exist."""
    if path.is_dir() and not path.is_symlink():
        return sum(inner.lstat().st_size for inner in path.rglob("*") if inner.is_file())
    return path.lstat().st_size if path.exists() else 0


def absolute_path(path: str | Path) -> Path:
    """Return `path` with `~` replaced and symbolic links followed; a loop of links is an error only on access.

    Raises:
        InvalidInputError: The user of `~USER` is unknown.
    """
    return Path(os.path.realpath(expand_user(path)))  # unlike Path.resolve, without RuntimeError for a loop


def expand_user(path: str | Path) -> Path:
    """Return `path` with `~` replaced; raises like `absolute_path`."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InvalidInputError(f"The home directory in {path} is unknown.", "Write the path out.") from error


def printable_path(path: str | Path) -> str:
    """Return `path` as text that can be encoded: bytes that are not UTF-8 become e.g. `\\xe4`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def path_of(text: str, folder: Path = Path()) -> Path:
    """Return the existing path in `folder` for which `printable_path` has returned `text`."""
    path = folder / text
    if "\\x" not in text or os.path.lexists(path):
        return path
    raw = re.sub(rb"\\x([89a-f][0-9a-f])", lambda found: bytes.fromhex(found[1].decode()), os.fsencode(text))
    return folder / os.fsdecode(raw)


def _open_without_waiting(path: Path) -> BufferedReader:
    """Open `path` for reading. The open call of a named pipe would otherwise wait for a program that writes to it."""
    return open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
