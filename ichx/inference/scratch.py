"""Folders for the time of one command: removed at its end, and where it was killed, by the next one."""

import contextlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ichx.errors import IchxError
from ichx.store.process import host_name, is_process_alive, process_identity

PREFIX: Final = ".scratch-"
OWNER_FILE: Final = "owner.json"
ABANDONED_SECONDS: Final = 7 * 86400.0
"""A folder whose owner cannot be asked for (another machine's, or of another boot) is left by the dead after a week."""


@contextlib.contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """Yield a new folder in `parent`, which is gone afterwards; those of processes that died are removed first.

    Raises `IchxError` where it cannot be made.
    """
    folder = parent / f"{PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
    owner = {"host": host_name(), "pid": os.getpid(), "mark": process_identity(os.getpid())}
    try:
        remove_abandoned(parent)
        folder.mkdir(parents=True)
        (folder / OWNER_FILE).write_text(json.dumps(owner), encoding="utf-8")
    except OSError as error:
        raise IchxError(
            f"cannot write to {parent}: {error.strerror or error}",
            "make the folder writable, or set another one as `cache` in ichx.toml",
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned(parent: Path) -> None:
    """Remove the folders in `parent` whose processes have died; those of living ones stay."""
    for folder in parent.glob(f"{PREFIX}*"):
        if _abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _abandoned(folder: Path) -> bool:
    lives = None
    try:
        owner = json.loads((folder / OWNER_FILE).read_text(encoding="utf-8"))
        if owner["host"] == host_name():
            lives = is_process_alive(owner["pid"], owner["mark"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass  # killed before it had written down whose it is: its age decides
    if lives is not None:
        return not lives
    try:
        return time.time() - folder.stat().st_mtime > ABANDONED_SECONDS
    except FileNotFoundError:
        return False  # its owner has removed it in between
