"""Temporary folders of a command: removed at its end or, if it was killed, by the next command."""

import contextlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ichx.errors import StorageError
from ichx.process_identity import host_name, is_process_alive, process_identity
from ichx.text import parse_json

PREFIX: Final = ".scratch-"
OWNER_FILE: Final = "owner.json"
ABANDONED_SECONDS: Final = 7 * 86400.0
"""Age after which a folder is removed if its owner is unknown: on another machine, or before a reboot."""


@contextlib.contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """Yield a new folder in `parent` and remove it afterwards; remove those of dead processes first.

    Raises:
        StorageError: The folder cannot be created.
    """
    folder = parent / f"{PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
    owner = {"host": host_name(), "pid": os.getpid(), "mark": process_identity(os.getpid())}
    try:
        remove_abandoned(parent)
        folder.mkdir(parents=True)
        (folder / OWNER_FILE).write_text(json.dumps(owner), encoding="utf-8")
    except OSError as error:
        raise StorageError(
            f"Cannot write to {parent}: {error.strerror or error}.",
            "Make the folder writable, or set another one as `cache` in ichx.toml.",
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned(parent: Path) -> None:
    """Remove the folders in `parent` whose processes have died."""
    for folder in parent.glob(f"{PREFIX}*"):
        if _abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _abandoned(folder: Path) -> bool:
    alive = None
    try:
        owner = parse_json((folder / OWNER_FILE).read_text(encoding="utf-8"))
        if owner["host"] == host_name():
            alive = is_process_alive(owner["pid"], owner["mark"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass  # killed before it had recorded its owner: its age decides
    if alive is not None:
        return not alive
    try:
        return time.time() - folder.stat().st_mtime > ABANDONED_SECONDS
    except FileNotFoundError:
        return False  # its owner has just removed it
