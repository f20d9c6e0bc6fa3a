"""Atomic writes, files of the user, and paths as text."""

import errno
import os
import re
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from permissions import permissions_enforced

from ichx import mounts
from ichx.errors import InvalidInputError, StorageError
from ichx.files import (
    DRAFT_PATTERN,
    absolute_path,
    atomic_path,
    atomic_write,
    check_suffix,
    check_writable,
    is_announced_file,
    open_file,
    path_of,
    printable_path,
    read_announced,
    read_input,
    read_text,
    remove_drafts,
    write_text,
)


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


def test_files_that_cannot_be_written_are_found_before_the_work(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "folder" / "table.csv", "the table")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InvalidInputError, match=str(tmp_path)):
        check_writable(tmp_path, "the table")
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "closed").mkdir(0o555)
    for name in ("file", "loop", "closed", "closed/deeper"):
        path = tmp_path / name / "table.csv"
        with permissions_enforced(), pytest.raises(StorageError, match=str(path)):
            check_writable(path, "the table")
    check_writable(tmp_path / "file", "the table")


def test_a_folder_in_the_place_of_a_file_is_named_with_its_remedy(tmp_path: Path) -> None:
    (tmp_path / "table.csv").mkdir()
    with pytest.raises(StorageError, match=str(tmp_path / "table.csv")) as caught:
        write_text(tmp_path / "table.csv", "a", "the table")
    assert "folder" in caught.value.remedy
    assert "space" not in caught.value.remedy


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


def test_a_file_system_without_permissions_and_folder_flushes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As exFAT and SMB."""

    def chmod(path: Path, mode: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    flush = os.fsync

    def fsync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        flush(handle)

    monkeypatch.setattr(Path, "chmod", chmod)
    monkeypatch.setattr(os, "fsync", fsync)
    write_text(tmp_path / "a.txt", "a", "the text")
    assert (tmp_path / "a.txt").read_text() == "a"


def test_pipes_sockets_and_devices_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.path.relpath(tmp_path / "socket"))
        for path in (tmp_path / "pipe", tmp_path / "socket", Path("/dev/zero"), tmp_path):
            for read in (open_file, read_input, read_text):
                with pytest.raises(OSError, match=re.escape(str(path))):
                    read(path)


def test_small_files_are_read_where_memory_is_limited(tmp_path: Path) -> None:
    """Clusters limit the address space of a job (`ulimit -v`) to less than the maximum size of an input file."""
    (tmp_path / "a.txt").write_text("a")
    code = (
        "import pathlib, resource, sys; from ichx.files import read_text; "
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)); print(read_text(pathlib.Path(sys.argv[1])))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.txt")], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("a\n", "")


def test_a_pipe_with_a_writer_is_read_to_its_end(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    content = b"ID,Label\n" * 100_000  # more than a pipe holds
    writer = threading.Thread(target=pipe.write_bytes, args=(content,))
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)  # lets the writer open the pipe
    writer.start()
    try:
        while not (first := _read_available(reader)):
            pass
        assert first + read_input(pipe) == content
    finally:
        os.close(reader)
        writer.join()


def _read_available(handle: int) -> bytes:
    try:
        return os.read(handle, 1)
    except BlockingIOError:
        return b""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le-bom", "utf-16-be-bom"])
def test_text_of_windows(tmp_path: Path, encoding: str) -> None:
    text = 'name = "Schädel"\nsize = 3\n'
    raw = text.replace("\n", "\r\n")
    plain = encoding.removesuffix("-bom")
    (tmp_path / "a.toml").write_bytes(("\ufeff" * (plain != encoding) + raw).encode(plain))
    assert read_text(tmp_path / "a.toml") == text


def test_text_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes("Schädel".encode("latin-1"))
    with pytest.raises(UnicodeDecodeError):
        read_text(tmp_path / "a.toml")


@pytest.mark.parametrize("name", [b"Sch\xe4del.dcm", "Schädel.dcm".encode(), b"plain", rb"has\xe4 text", b"\xff\xfe"])
def test_a_path_as_text(tmp_path: Path, name: bytes) -> None:
    path = tmp_path / os.fsdecode(name)
    path.write_text("a")
    text = printable_path(path)
    text.encode()
    assert path_of(text) == path
    if name.decode("utf-8", "ignore").encode() == name:
        assert text == str(path)


def test_a_private_file_is_never_readable_by_others(tmp_path: Path) -> None:
    path = tmp_path / "ids.csv"
    with atomic_path(path, private=True) as draft:
        assert stat.S_IMODE(draft.stat().st_mode) == 0o600
        draft.write_text("secret")
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("secret", 0o600)


def test_paths_that_cannot_be_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert absolute_path(Path("~/a/../b")) == tmp_path.resolve() / "b"
    with pytest.raises(InvalidInputError, match="~nobody-of-this-name/x"):
        absolute_path(Path("~nobody-of-this-name/x"))
    (tmp_path / "loop").symlink_to("loop")
    assert absolute_path(tmp_path / "loop" / "x").name == "x"


@pytest.mark.parametrize("code", [errno.EDQUOT, errno.ENOSPC, errno.EIO])
def test_a_write_error_that_only_earlier_handles_report_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """As on NFS for a writer that ignores the error of its close, e.g. safetensors."""
    target = tmp_path / "weights.bin"
    target.write_text("old")
    failed: list[bool] = []
    earlier: set[int] = set()
    real_open, real_sync = os.open, os.fsync

    def open_(path: str, flags: int, mode: int = 0o777, **more: int) -> int:
        handle = real_open(path, flags, mode, **more)
        if not failed:
            earlier.add(handle)
        return handle

    def fsync(handle: int) -> None:
        if failed and handle in earlier:
            raise OSError(code, os.strerror(code))
        real_sync(handle)

    monkeypatch.setattr(os, "open", open_)
    monkeypatch.setattr(os, "fsync", fsync)

    def write() -> None:
        with atomic_write(target, "the weights") as draft:
            draft.write_text("new")
            failed.append(True)

    with pytest.raises(StorageError, match=os.strerror(code)) as caught:
        write()
    assert str(target) in caught.value.problem
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.fixture
def on_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `tmp_path` be on NFS."""
    file = tmp_path / "mountinfo"
    file.write_text(f"1 0 0:1 / / rw - ext4 /dev/sda1 rw\n2 1 0:2 / {tmp_path} rw - nfs4 server:/home rw\n")
    monkeypatch.setattr(mounts, "MOUNTS", file)


@pytest.mark.usefixtures("on_network")
def test_an_announced_file_that_appears_late_on_a_network_file_system_is_read(tmp_path: Path) -> None:
    path = tmp_path / "late.txt"
    errors = iter([FileNotFoundError("of a library, without a number"), OSError(errno.ESTALE, "stale file handle")])

    def read() -> str:
        for error in errors:
            raise error
        path.write_text("complete")
        return path.read_text()

    assert read_announced(path, read) == "complete"
    assert is_announced_file(path)
    assert not is_announced_file(tmp_path / "never")
    assert not is_announced_file(tmp_path)


def test_a_missing_file_on_a_local_disk_is_not_waited_for(tmp_path: Path) -> None:
    calls = []

    def read() -> None:
        calls.append(1)
        raise FileNotFoundError(errno.ENOENT, "missing")

    with pytest.raises(FileNotFoundError):
        read_announced(tmp_path / "missing", read)
    assert len(calls) == 1


@pytest.mark.usefixtures("on_network")
def test_another_error_is_raised_at_once(tmp_path: Path) -> None:
    calls = []

    def read() -> None:
        calls.append(1)
        raise PermissionError(errno.EACCES, "denied")

    with pytest.raises(PermissionError):
        read_announced(tmp_path / "file", read)
    assert len(calls) == 1
