"""Writing files atomically. A file is complete or absent, whatever ends the process that writes it."""

import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from ichx.errors import InvalidInputError, StorageError

DRAFT_PATTERN: Final = ".*.tmp*"
"""Matches the names of files that are being written, or that a killed process has left."""

REMEDY: Final = "Free some space or make the folder writable, then run the command again."


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path` with the same suffix; rename it to `path` after the block succeeds.

    The content is flushed to disk before the rename, and the folder after it. The file gets the permissions of a newly
    created one. If the block raises, the temporary file is removed and `path` stays as it was.

    Raises:
        OSError: The file cannot be written.
    """
    draft = path.with_name(f".{path.stem}.{os.getpid()}-{secrets.token_hex(4)}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        with draft.open("rb+") as handle:
            os.fsync(handle.fileno())
        apply_umask(draft)
        draft.replace(path)
        flush_folder(path.parent)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def atomic_write(path: Path, what: str, *, remedy: str = REMEDY) -> Iterator[Path]:
    """Yield a temporary path as `atomic_path` does, and report failures to the user.

    Args:
        path: The file to write.
        what: What the file is, e.g. "the catalog"; used in the message.
        remedy: What the user can do.

    Raises:
        StorageError: The file cannot be written.
    """
    try:
        with atomic_path(path) as draft:
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
    return StorageError(f"Cannot write {what} to {path}: {error.strerror or error}.", remedy)


def remove_drafts(folder: Path) -> None:
    """Remove temporary files that killed processes have left in `folder`; call it only while nobody writes there."""
    for path in folder.glob(DRAFT_PATTERN):
        path.unlink(missing_ok=True)


def apply_umask(path: Path) -> None:
    """Give a file the permissions of a newly created one: some libraries create files for their owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def flush_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power failure."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
