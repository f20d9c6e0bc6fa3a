"""Copies of a cache on a disk of the machine."""

import errno
import os
import pickle
import shutil
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_dicom import head, write_catalog

from ichx.cache import local_copy, sharing
from ichx.cache.build import ensure_cache
from ichx.cache.hu_cache import Cache, CacheSpec
from ichx.cache.local_copy import local_folder, with_local_copy
from ichx.cache.sharing import claim
from ichx.workspace import Workspace, init_workspace, open_workspace

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """Return a cache of four shards, the last with 248 slices."""
    images = [head(centre=(26 + 2 * index, 34 - index), seed=index) for index in range(8)]
    slices: pd.DataFrame = write_catalog(tmp_path / "source", images, copies=32 * 4 - 1)
    return ensure_cache(
        tmp_path / "cache", "d", tmp_path / "source", slices, CacheSpec(32, "none", "bilinear"), processes=1
    )


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Return a workspace whose caches are copied to `node`."""
    monkeypatch.setenv("ICHX_TEST_TMPDIR", str(tmp_path / "node"))
    init_workspace(tmp_path)
    (tmp_path / "ichx.toml").write_text('cache_local = "$ICHX_TEST_TMPDIR/ichx"\n')
    return open_workspace(tmp_path)


class Copying:
    """Calls `with_local_copy` and keeps what it reports."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.notes: list[str] = []
        self.calls: list[tuple[int, int]] = []

    def __call__(self, cache: Cache, rows: range | None = None) -> Cache:
        return with_local_copy(
            self.workspace,
            cache,
            np.array(rows or range(cache.n)),
            self.notes.append,
            lambda *at: self.calls.append(at),
        )


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _check_reads(cache: Cache, original: Cache) -> None:
    assert all(np.array_equal(cache.read(row), original.read(row)) for row in range(original.n))


def _folder(tmp_path: Path, cache: Cache) -> Path:
    return tmp_path / "node" / "ichx" / cache.folder.name


def test_the_copy_is_read_and_made_once(tmp_path: Path, cache: Cache, workspace: Workspace) -> None:
    copying = Copying(workspace)
    local = copying(cache)
    folder = _folder(tmp_path, cache)
    assert (copying.notes, copying.calls[-1]) == ([], (4, 4))
    assert _names(folder) == [f"0000{shard}.shard" for shard in range(4)]
    hidden = cache.folder.rename(tmp_path / "gone")  # so that only the copies can be read
    for shard in hidden.glob("*.shard"):
        shard.rename(tmp_path / shard.name)
    hidden.rename(cache.folder)
    original = [shard.read_bytes() for shard in sorted(tmp_path.glob("*.shard"))]
    assert [(folder / f"0000{shard}.shard").read_bytes() for shard in range(4)] == original
    read = [local.read(row) for row in range(local.n)]
    copied = pickle.loads(pickle.dumps(local))
    assert all(np.array_equal(copied.read(row), image) for row, image in enumerate(read))
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    copying.calls.clear()
    copying(cache)
    assert copying.calls == []
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_only_the_needed_shards_are_copied(tmp_path: Path, cache: Cache, workspace: Workspace) -> None:
    local = Copying(workspace)(cache, range(300, 310))
    assert _names(_folder(tmp_path, cache)) == ["00001.shard"]
    _check_reads(local, cache)


def test_processes_of_a_machine_copy_together(tmp_path: Path, cache: Cache, workspace: Workspace) -> None:
    with ThreadPoolExecutor(3) as pool:
        copyings = [Copying(workspace) for _ in range(3)]
        for local in [pool.submit(copying, cache) for copying in copyings]:
            _check_reads(local.result(timeout=900), cache)
    assert [copying.notes for copying in copyings] == [[], [], []]
    assert _names(_folder(tmp_path, cache)) == [f"0000{shard}.shard" for shard in range(4)]


def test_a_process_waits_for_the_shard_that_another_copies(tmp_path: Path, cache: Cache, workspace: Workspace) -> None:
    folder = _folder(tmp_path, cache)
    folder.mkdir(parents=True)
    with ThreadPoolExecutor(1) as pool:
        with claim(folder / "00002.shard"):
            copying = pool.submit(Copying(workspace), cache)
            with pytest.raises(TimeoutError):
                copying.result(timeout=3 * sharing.POLL_SECONDS)
        _check_reads(copying.result(timeout=900), cache)
    assert len(_names(folder)) == 4


def test_what_a_killed_copier_has_left_is_removed(tmp_path: Path, cache: Cache, workspace: Workspace) -> None:
    folder = _folder(tmp_path, cache)
    folder.mkdir(parents=True)
    draft = folder / ".00001.old.tmp.shard"
    draft.write_bytes(b"half")
    os.utime(draft, (0, 0))
    (folder / "00003.shard").write_bytes((cache.folder / "00003.shard").read_bytes()[:-1])
    _check_reads(Copying(workspace)(cache), cache)
    assert _names(folder) == [f"0000{shard}.shard" for shard in range(4)]
    assert (folder / "00003.shard").read_bytes() == (cache.folder / "00003.shard").read_bytes()


@pytest.mark.parametrize("damage", ["changed", "removed", "truncated"])
def test_a_copy_that_is_damaged_later_is_not_read(
    tmp_path: Path, cache: Cache, workspace: Workspace, damage: str
) -> None:
    local = Copying(workspace)(cache)
    path = _folder(tmp_path, cache) / "00001.shard"
    content = path.read_bytes()
    if damage == "removed":
        path.unlink()
    else:
        path.write_bytes(content[:100] if damage == "truncated" else bytes(len(content)))
    _check_reads(local, cache)


def test_a_transfer_that_changes_bytes_is_noticed(
    tmp_path: Path, cache: Cache, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copy(source: Path, target: Path) -> None:
        content = bytearray(source.read_bytes())
        content[50] ^= 1
        target.write_bytes(content)

    monkeypatch.setattr(shutil, "copyfile", copy)
    copying = Copying(workspace)
    _check_reads(copying(cache), cache)
    assert str(_folder(tmp_path, cache)) in copying.notes[0]
    assert _names(_folder(tmp_path, cache)) == []


def test_too_little_space_is_a_note(
    tmp_path: Path, cache: Cache, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 0, 1234))
    copying = Copying(workspace)
    _check_reads(copying(cache), cache)
    (note,) = copying.notes
    assert str(tmp_path / "node") in note
    assert "1.2 kB" in note
    assert _names(_folder(tmp_path, cache)) == []


def test_a_disk_that_fills_up_is_a_note(
    tmp_path: Path, cache: Cache, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[Path] = []
    copy = shutil.copyfile

    def full(source: Path, target: Path) -> None:
        copied.append(source)
        if len(copied) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", full)
    copying = Copying(workspace)
    _check_reads(copying(cache), cache)
    assert os.strerror(errno.ENOSPC) in copying.notes[0]
    assert len(_names(_folder(tmp_path, cache))) == 2


@pytest.mark.parametrize("problem", ["unset", "file", "empty"])
def test_a_folder_that_cannot_be_used(
    tmp_path: Path, cache: Cache, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, problem: str
) -> None:
    if problem == "unset":
        monkeypatch.delenv("ICHX_TEST_TMPDIR")
    elif problem == "file":
        (tmp_path / "node").write_text("")
    else:
        monkeypatch.setenv("ICHX_CACHE_LOCAL", "")
        workspace = open_workspace(tmp_path)
    copying = Copying(workspace)
    assert copying(cache).local is None
    named = {"unset": "ICHX_TEST_TMPDIR", "file": "ICHX_TEST_TMPDIR/ichx"}
    assert [named[problem] in note for note in copying.notes] == ([] if problem == "empty" else [True])


def test_the_environment_overrides_the_setting(
    tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert local_folder(workspace, print) == tmp_path / "node" / "ichx"
    monkeypatch.setenv("ICHX_CACHE_LOCAL", str(tmp_path / "other"))
    assert local_folder(open_workspace(tmp_path), print) == tmp_path / "other"


def test_the_folder_of_the_caches_is_not_copied_to_itself(
    tmp_path: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ICHX_CACHE_LOCAL", str(cache.folder.parent))
    init_workspace(tmp_path)
    assert Copying(open_workspace(tmp_path))(cache) is cache


@pytest.mark.parametrize("locks", [True, False])
def test_several_copiers(tmp_path: Path, cache: Cache, workspace: Workspace, monkeypatch, locks: bool) -> None:
    """Copy in two processes; also where the file system has no locks."""
    if not locks:
        monkeypatch.setattr("fcntl.flock", _no_lock)
    monkeypatch.setattr(local_copy, "SHARDS_PER_COPIER", 2)
    monkeypatch.setattr(local_copy, "core_count", lambda: 2)
    copying = Copying(workspace)
    _check_reads(copying(cache), cache)
    assert (copying.notes, len(_names(_folder(tmp_path, cache)))) == ([], 4)


def _no_lock(file: object, operation: int) -> None:
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
