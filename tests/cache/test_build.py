import errno
import math
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from small_dicom import head, write_catalog

from ichx.cache import build as build_module
from ichx.cache import hu_cache as cache_module
from ichx.cache.build import build_caches, ensure_cache, find_cache, plan_caches
from ichx.cache.hu_cache import (
    BUILD_FILE,
    CACHE_FILE,
    Cache,
    CacheSpec,
    cache_folder,
    cache_key,
    estimated_bytes,
    shard_path,
    slices_digest,
)
from ichx.cache.resize import fit_square
from ichx.cache.verify import find_caches, verify_caches
from ichx.ct.dicom import read_slice
from ichx.ct.geometry import head_centre, shift_to_centre
from ichx.errors import ChangedDataError, CorruptFileError, ProcessError, StorageError
from ichx.worker_pool import map_in_processes

PLAIN = CacheSpec(48, "none", "bilinear")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "source"


def _heads(count: int = 4) -> list[np.ndarray]:
    return [head(centre=(26 + 2 * index, 34 - index), seed=index) for index in range(count)]


def _folder(tmp_path: Path, slices: pd.DataFrame, spec: CacheSpec = PLAIN) -> Path:
    return cache_folder(tmp_path, "d", spec, _key(slices, spec))


def _key(slices: pd.DataFrame, spec: CacheSpec) -> str:
    return cache_key(slices_digest(slices), spec)


def _damaged(tmp_path: Path, slices: pd.DataFrame) -> dict[str, str]:
    (verified,) = verify_caches(find_caches(tmp_path, "d", slices_digest(slices)), processes=1)
    return verified.damaged


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("[0-9]*.shard"))  # without temporary files


def test_a_folder_in_the_place_of_the_manifest_is_named(tmp_path: Path, source: Path) -> None:
    slices = write_catalog(source, _heads())
    manifest = _folder(tmp_path, slices) / "cache.json"
    manifest.mkdir(parents=True)
    assert find_cache(tmp_path, "d", slices, PLAIN) is None
    with pytest.raises(StorageError, match=str(manifest)) as caught:
        ensure_cache(tmp_path, "d", source, slices, PLAIN)
    assert "folder" in caught.value.remedy


@pytest.mark.parametrize("resize", ["bilinear", "area"])
@pytest.mark.parametrize("size", [32, 48, 64, 100])
def test_cached_slice_is_resized_file(tmp_path, source, resize, size):
    slices = write_catalog(source, _heads())
    cache = ensure_cache(tmp_path, "d", source, slices, CacheSpec(size, "none", resize))
    method = cv2.INTER_LINEAR if resize == "bilinear" else cv2.INTER_AREA
    for row, hu in enumerate(_heads()):
        exact = cv2.resize(hu.astype(np.float32), (size, size), interpolation=method)
        assert np.abs(cache.read(row) - exact).max() <= 0.51
    assert cache.n == 4
    assert cache.valid.all()


def test_slice_centring_moves_head_before_resizing(tmp_path, source):
    slices = write_catalog(source, _heads())
    cache = ensure_cache(tmp_path, "d", source, slices, CacheSpec(64, "slice", "bilinear"))
    for row, hu in enumerate(_heads()):
        assert np.array_equal(cache.read(row), shift_to_centre(hu, head_centre(hu)))
        assert head_centre(cache.read(row)) == pytest.approx((31.5, 31.5), abs=0.6)


def test_series_centring_uses_median_of_series(tmp_path, source):
    images = [*_heads(3), head(centre=(20, 20), seed=9)]
    slices = write_catalog(source, images)
    slices["series"] = ["a", "a", "a", "b"]
    cache = ensure_cache(tmp_path, "d", source, slices, CacheSpec(64, "series", "bilinear"))
    centres = np.array([head_centre(hu) for hu in images])
    median = tuple(np.median(centres[:3], axis=0))
    for row in range(3):
        assert np.array_equal(cache.read(row), shift_to_centre(images[row], median))
    assert np.array_equal(cache.read(3), shift_to_centre(images[3], tuple(centres[3])))


def test_series_centring_with_defect_and_series_in_several_shards(tmp_path, source, monkeypatch):
    images = _heads(7)
    slices = write_catalog(source, images)
    _truncate(source / "2.dcm", slices, 2)
    one = ensure_cache(tmp_path, "one", source, slices, CacheSpec(64, "series", "bilinear"))
    monkeypatch.setattr(cache_module, "SHARD_ROWS", 3)
    monkeypatch.setattr(build_module, "SHARD_ROWS", 3)
    several = ensure_cache(tmp_path, "several", source, slices, CacheSpec(64, "series", "bilinear"), processes=1)
    assert len(_shards(several.folder)) == 3
    assert all(np.array_equal(one.read(row), several.read(row)) for row in range(7))
    assert dict(several.defects) == dict(one.defects) == {2: "truncated"}


@pytest.mark.parametrize("shape", [(40, 64), (64, 40), (63, 64)])
def test_non_square_slice_is_padded_with_air(shape):
    out = fit_square(np.zeros(shape, np.int16), 64, "bilinear")
    assert out.shape == (64, 64)
    assert (out == 0).sum() == shape[0] * shape[1]
    assert set(np.unique(out)) == {-1024, 0}
    rows, columns = np.nonzero(out == 0)
    assert rows.min() == (64 - shape[0]) // 2
    assert columns.min() == (64 - shape[1]) // 2


def _truncate(path: Path, slices: pd.DataFrame, row: int) -> None:
    path.write_bytes(path.read_bytes()[:-500])
    slices.loc[row, "bytes"] = path.stat().st_size
    slices.loc[row, "mtime_ns"] = path.stat().st_mtime_ns


def test_caches_built_together_equal_caches_built_alone(tmp_path, source):
    slices = write_catalog(source, [*_heads(5), head(64, 40, (30, 20))], copies=50)
    _truncate(source / "2.dcm", slices, 2)
    same = slices["file"] == "2.dcm"
    slices.loc[same, ["bytes", "mtime_ns"]] = slices.loc[2, ["bytes", "mtime_ns"]].tolist()
    specs = [
        CacheSpec(48, "none", "bilinear"),
        CacheSpec(64, "slice", "bilinear"),
        CacheSpec(64, "series", "area"),
        CacheSpec(40, "slice", "area"),
    ]
    alone = [ensure_cache(tmp_path / "alone", "d", source, slices, spec, processes=1) for spec in specs]
    first = ensure_cache(tmp_path, "d", source, slices, specs[1], processes=1)
    shard_path(first.folder, 1).unlink()
    plans = plan_caches(tmp_path, "d", slices, [*specs, specs[0]])
    assert [plan.missing for plan in plans] == [(0, 1), (1,), (0, 1), (0, 1)]
    assert plans[1].bytes_needed == estimated_bytes(300 - 256, 64)
    calls: list[tuple[int, int]] = []
    together = build_caches(source, slices, plans, processes=2, progress=lambda *at: calls.append(at))
    assert calls[-1] == (600, 600)  # series centring decodes twice
    for one, other in zip(alone, together, strict=True):
        names = sorted(path.name for path in one.folder.iterdir())
        assert names == sorted(path.name for path in other.folder.iterdir())
        assert all((one.folder / name).read_bytes() == (other.folder / name).read_bytes() for name in names)


def test_undecodable_slice_is_a_defect_and_reads_as_air(tmp_path, source):
    slices = write_catalog(source, _heads())
    _truncate(source / "1.dcm", slices, 1)
    for _ in range(2):
        cache = ensure_cache(tmp_path, "d", source, slices, PLAIN)
        assert dict(cache.defects) == {1: "truncated"}
        assert cache.valid.tolist() == [True, False, True, True]
        assert (cache.read(1) == -1024).all()


def test_cache_of_real_slices(tmp_path, shared_data):
    folder = shared_data / "rsna_mini" / "stage_2_test"
    files = sorted(folder.glob("*.dcm"))
    slices = pd.DataFrame(
        {
            "slice_id": [file.stem for file in files],
            "file": [file.name for file in files],
            "bytes": [file.stat().st_size for file in files],
            "mtime_ns": [file.stat().st_mtime_ns for file in files],
            "study": "one",
            "series": "one",
            "rows": 512,
            "columns": 512,
        }
    )
    calls: list[tuple[int, int]] = []
    spec = CacheSpec(378, "slice", "bilinear")
    cache = ensure_cache(tmp_path, "rsna", folder, slices, spec, progress=lambda *at: calls.append(at))
    hu = read_slice(files[5]).hu
    expected = cv2.resize(shift_to_centre(hu, head_centre(hu)), (378, 378), interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(cache.read(5), expected)
    assert cache.valid.all()
    assert cache.nbytes < estimated_bytes(32, 378)
    assert calls[0] == (0, 32)
    assert calls[-1] == (32, 32)


def test_key_covers_order_fingerprints_and_spec_but_not_labels_or_paths(source):
    slices = write_catalog(source, _heads())
    key = _key(slices, PLAIN)
    same = slices.assign(any=0.0, file="elsewhere/" + slices["file"], series="x")
    assert _key(same, PLAIN) == key
    others = [
        _key(slices.assign(bytes=slices["bytes"] + 1), PLAIN),
        _key(slices.assign(mtime_ns=slices["mtime_ns"] + 1), PLAIN),
        _key(slices.iloc[::-1], PLAIN),
        _key(slices.iloc[:3], PLAIN),
        _key(slices, CacheSpec(49, "none", "bilinear")),
        _key(slices, CacheSpec(48, "slice", "bilinear")),
        _key(slices, CacheSpec(48, "none", "area")),
    ]
    assert len({key, *others}) == 8


def _large(source: Path, shards: int = 4) -> pd.DataFrame:
    """Return the catalog of a cache with `shards` shards, the last one partial. Its rows share eight files."""
    return write_catalog(source, _heads(8), copies=32 * shards - 1)


def test_number_of_processes_does_not_change_the_files(tmp_path, source):
    slices = _large(source)
    one = ensure_cache(tmp_path, "one", source, slices, PLAIN, processes=1)
    two = ensure_cache(tmp_path, "two", source, slices, PLAIN, processes=2)
    names = sorted(path.name for path in one.folder.iterdir())
    assert names == sorted(path.name for path in two.folder.iterdir())
    assert "00003.shard" in names
    assert all((one.folder / name).read_bytes() == (two.folder / name).read_bytes() for name in names)


def test_only_missing_and_damaged_shards_are_rebuilt(tmp_path, source):
    slices = _large(source)
    _truncate(source / "3.dcm", slices, 3)
    found = (source / "3.dcm").stat()
    same = slices["file"] == "3.dcm"
    slices.loc[same, ["bytes", "mtime_ns"]] = [found.st_size, found.st_mtime_ns]
    first = ensure_cache(tmp_path, "d", source, slices, PLAIN, processes=1)
    images = [first.read(row) for row in range(first.n)]
    (first.folder / CACHE_FILE).unlink()
    shard_path(first.folder, 1).unlink()
    shard_path(first.folder, 2).write_bytes(b"not a shard")
    inodes = [shard_path(first.folder, shard).stat().st_ino for shard in (0, 3)]
    calls: list[tuple[int, int]] = []
    rebuilt = ensure_cache(tmp_path, "d", source, slices, PLAIN, processes=1, progress=lambda *at: calls.append(at))
    assert [shard_path(rebuilt.folder, shard).stat().st_ino for shard in (0, 3)] == inodes
    assert calls == [(504, 1016), (760, 1016), (1016, 1016)]
    assert all(np.array_equal(rebuilt.read(row), image) for row, image in enumerate(images))
    assert set(rebuilt.defects) == set(np.flatnonzero(same).tolist())


@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_finished_cache_with_bad_shard_is_rebuilt(tmp_path, source, damage):
    slices = _large(source, 2)
    cache = ensure_cache(tmp_path, "d", source, slices, PLAIN, processes=1)
    path = shard_path(cache.folder, 0)
    original = path.read_bytes()
    path.unlink() if damage == "missing" else path.write_bytes(original[: len(original) // 2])
    with pytest.raises(CorruptFileError, match=r"255 .* 00000\.shard"):
        cache.read(255)
    rebuilt = ensure_cache(tmp_path, "d", source, slices, PLAIN, processes=1)
    assert path.read_bytes() == original
    assert not _damaged(tmp_path, slices)
    assert np.array_equal(rebuilt.read(255), fit_square(_heads(8)[7], 48, "bilinear"))


def test_cache_is_read_by_row_and_pickled(tmp_path, source):
    cache = ensure_cache(tmp_path, "d", source, write_catalog(source, _heads()), PLAIN)
    out = np.empty((48, 48), np.int16)
    assert cache.read(2, out) is out
    other = pickle.loads(pickle.dumps(cache))
    assert isinstance(other, Cache)
    assert np.array_equal(other.read(2), out)
    assert (other.n, other.spec, other.key, len(other)) == (4, PLAIN, cache.key, 4)
    assert other.nbytes == shard_path(cache.folder, 0).stat().st_size
    for row in (-1, 4):
        with pytest.raises(IndexError):
            cache.read(row)
    for wrong in (np.empty((48, 47), np.int16), np.empty((48, 48), np.int32), np.empty((48, 96), np.int16)[:, ::2]):
        with pytest.raises(ValueError, match="out must be"):
            cache.read(0, wrong)


@pytest.mark.parametrize("change", ["missing", "longer"])
@pytest.mark.parametrize("processes", [1, 2])
def test_missing_or_changed_source_file_stops_the_build(tmp_path, source, change, processes):
    slices = _large(source, 2)
    file = source / "5.dcm"
    file.unlink() if change == "missing" else file.write_bytes(file.read_bytes() + b"\0\0")
    with pytest.raises(ChangedDataError, match=r"5\.dcm") as caught:
        ensure_cache(tmp_path, "d", source, slices, PLAIN, processes=processes)
    assert "ichx data add" in caught.value.remedy
    assert {path.name for path in _folder(tmp_path, slices).iterdir()} == {BUILD_FILE}


def test_full_disk_error_has_needed_space(tmp_path, source, monkeypatch):
    slices = _large(source, 3)
    flushed = []

    def full(descriptor: int) -> None:
        flushed.append(descriptor)
        if len(flushed) == 7:  # build.json and the first shard, each with two handles and its folder, come first
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match=r"1\.8 MB"):
            ensure_cache(tmp_path, "d", source, slices, PLAIN, processes=1)
    folder = _folder(tmp_path, slices)
    (shard,) = (path.name for path in _shards(folder))
    assert sorted(path.name for path in folder.iterdir()) == [shard, BUILD_FILE]
    assert ensure_cache(tmp_path, "d", source, slices, PLAIN, processes=1).n == len(slices)


def test_too_little_space_is_an_error_before_decoding(tmp_path, source):
    slices = write_catalog(source, _heads())
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    spec = CacheSpec(2 * math.isqrt(free), "none", "bilinear")
    with pytest.raises(StorageError, match=_folder(tmp_path, slices, spec).name):
        ensure_cache(tmp_path, "d", source, slices, spec)
    assert not list(_folder(tmp_path, slices, spec).iterdir())


def test_folder_that_is_a_file_is_an_error(tmp_path, source):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=str(tmp_path / "file")):
        ensure_cache(tmp_path / "file", "d", source, write_catalog(source, _heads()), PLAIN)


def test_worker_that_raises_or_dies_is_an_error():
    with pytest.raises(ValueError, match="invalid literal"):
        list(map_in_processes(int, ["1", "x", "2"], 2))
    with pytest.raises(ProcessError):
        list(map_in_processes(os._exit, [3, 3, 3], 2))
    assert sorted(map_in_processes(int, ["3", "1", "2"], 2)) == [1, 2, 3]


def test_concurrent_builds_give_one_intact_cache(tmp_path, source):
    slices = _large(source, 3)
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        arguments = (tmp_path, "d", source, slices, PLAIN)
        both = [pool.apply_async(ensure_cache, arguments, {"processes": 1}) for _ in range(2)]
        first, second = (result.get(timeout=900) for result in both)
    assert first.folder == second.folder
    assert not _damaged(tmp_path, slices)
    assert not list(first.folder.glob(".*"))
    alone = ensure_cache(tmp_path, "alone", source, slices, PLAIN, processes=1)
    assert all(np.array_equal(first.read(row), alone.read(row)) for row in range(alone.n))


def _start_build(tmp_path: Path, source: Path, slices: pd.DataFrame) -> subprocess.Popen[str]:
    """Start a build with two workers in a new process group; return when the first shard exists."""
    slices.to_pickle(tmp_path / "slices.pickle")
    script = tmp_path / "build.py"
    script.write_text(
        textwrap.dedent(f"""
            import time
            from pathlib import Path
            import pandas as pd
            from ichx.cache.hu_cache import CacheSpec
            from ichx.cache.build import ensure_cache

            if __name__ == "__main__":
                slices = pd.read_pickle({str(tmp_path / "slices.pickle")!r})
                spec = CacheSpec(48, "none", "bilinear")

                def wait(done, total):
                    if done:  # without more work the processes finish few shards
                        time.sleep(3600)

                ensure_cache(
                    Path({str(tmp_path)!r}), "d", Path({str(source)!r}), slices, spec, processes=2, progress=wait
                )
        """)
    )
    build = subprocess.Popen([sys.executable, str(script)], start_new_session=True, stderr=subprocess.PIPE, text=True)
    folder = _folder(tmp_path, slices)
    until = time.monotonic() + 900
    while not _shards(folder):
        assert build.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    return build


def _wait_until_gone(group: int) -> None:
    until = time.monotonic() + 900
    while time.monotonic() < until:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("workers outlived the build")


@pytest.mark.parametrize("kill", ["SIGINT", "SIGKILL"])
def test_interrupted_build_leaves_complete_shards_and_resumes(tmp_path, source, kill):
    slices = _large(source, 20)
    build = _start_build(tmp_path, source, slices)
    folder = _folder(tmp_path, slices)
    if kill == "SIGINT":
        os.killpg(build.pid, signal.SIGINT)
    else:
        build.kill()
    _, errors = build.communicate(timeout=900)
    assert build.returncode != 0
    _wait_until_gone(build.pid)
    finished = {path: path.stat().st_ino for path in _shards(folder)}
    assert 1 <= len(finished) < 20
    assert not (folder / CACHE_FILE).exists()
    if kill == "SIGINT":
        assert errors.count("Traceback") == 1
        assert not list(folder.glob(".*"))
    cache = ensure_cache(tmp_path, "d", source, slices, PLAIN, processes=1)
    assert {path: path.stat().st_ino for path in finished} == finished
    assert cache.n == len(slices)
    assert not _damaged(tmp_path, slices)


def test_temporary_files_of_a_killed_build_are_removed(tmp_path, source):
    slices = write_catalog(source, _heads())
    draft = _folder(tmp_path, slices) / ".00000.old.tmp.shard"
    draft.parent.mkdir()
    draft.write_text("half")
    os.utime(draft, (0, 0))
    ensure_cache(tmp_path, "d", source, slices, PLAIN)
    assert not draft.exists()
