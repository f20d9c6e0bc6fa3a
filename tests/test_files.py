"""Atomic writes and file locks."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ichx.errors import InvalidInputError, StorageError
from ichx.files import DRAFT_PATTERN, atomic_path, check_suffix, remove_drafts, write_text
from ichx.locks import file_lock


def test_a_written_file_replaces_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "new" / "table.csv"
    write_text(target, "a", "the table")
    write_text(target, "bé", "the table")
    assert target.read_text(encoding="utf-8") == "bé"
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~mask
    assert list(target.parent.iterdir()) == [target]


def test_name_of_another_format_is_an_error() -> None:
    for name in ("a.zip", "a.ZIP", "a", "folder.svg/a.zip"):
        check_suffix(Path(name), "an archive", (".zip",))
    for name in ("a.tar", "a.zip.gz"):
        with pytest.raises(InvalidInputError, match=name):
            check_suffix(Path(name), "an archive", (".zip",))


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "table.csv"
    target.write_text("old")

    def write_half() -> None:
        with atomic_path(target) as draft:
            assert draft.suffix == ".csv"
            draft.write_text("half")
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        write_half()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("a file")
    with pytest.raises(StorageError) as caught:
        write_text(tmp_path / "folder" / "table.csv", "a", "the table")
    assert caught.value.code == "storage"
    assert str(tmp_path / "folder" / "table.csv") in caught.value.problem


def test_a_killed_process_leaves_only_a_draft(tmp_path: Path) -> None:
    target = tmp_path / "weights.bin"
    code = (
        "import os, pathlib, sys; from ichx.files import atomic_path\n"
        "with atomic_path(pathlib.Path(sys.argv[1])) as draft:\n"
        "    draft.write_bytes(b'half'); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(target)], check=False).returncode == 9
    assert not target.exists()
    assert len(list(tmp_path.glob(DRAFT_PATTERN))) == 1
    remove_drafts(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_lock_is_held_by_one_process_and_ends_with_it(tmp_path: Path) -> None:
    lock = tmp_path / "a.lock"
    code = (
        "import pathlib, sys; from ichx.locks import file_lock\n"
        "with file_lock(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(BlockingIOError), file_lock(lock, wait=False):
        pass
    holder.kill()
    holder.wait()
    with file_lock(lock) as locked:
        assert locked
