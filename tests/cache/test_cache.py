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
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from small_dicom import head, write_catalog

from ichx.cache import build as cache_build
from ichx.cache import hu_cache as cache_module
from ichx.cache import shards as shards_module
from ichx.cache.build import LOCK_FILE, build_caches, ensure_cache, plan_caches
from ichx.cache.hu_cache import (
    BUILD_FILE,
    CACHE_FILE,
    PLACES_FILE,
    Cache,
    CacheSpec,
    cache_folder,
    cache_key,
    estimated_bytes,
    shard_path,
    slices_digest,
)
from ichx.cache.resize import fit_square
from ichx.cache.shards import ShardFiles, pack, read_table, unpack, write_shard
from ichx.cache.verify import find_caches, verify_caches
from ichx.ct.dicom import read_slice
from ichx.ct.geometry import head_centre, shift_to_centre
from ichx.errors import IchxError
from ichx.worker_pool import run_jobs

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
    (verified,) = verify_caches(find_caches(tmp_path, "d", slices_digest(slices)))
    return verified.damaged


@pytest.mark.parametrize("resize", ["bilinear", "area"])
@pytest.mark.parametrize("size", [32, 48, 64, 100])
def test_a_cached_slice_is_the_file_resized(tmp_path, source, resize, size):
    slices = write_catalog(source, _heads())
    cache = ensure_cache(tmp_path, "d", source, slices, CacheSpec(size, "none", resize))
    method = cv2.INTER_LINEAR if resize == "bilinear" else cv2.INTER_AREA
    for row, hu in enumerate(_heads()):
        exact = cv2.resize(hu.astype(np.float32), (size, size), interpolation=method)
        assert np.abs(cache.read(row) - exact).max() <= 0.51
    assert cache.n == 4
    assert cache.valid.all()


def test_slice_centring_moves_the_head_before_resizing(tmp_path, source):
    slices = write_catalog(source, _heads())
    cache = ensure_cache(tmp_path, "d", source, slices, CacheSpec(64, "slice", "bilinear"))
    for row, hu in enumerate(_heads()):
        assert np.array_equal(cache.read(row), shift_to_centre(hu, head_centre(hu)))
        assert head_centre(cache.read(row)) == pytest.approx((31.5, 31.5), abs=0.6)


def test_series_centring_moves_a_series_by_its_median(tmp_path, source):
    images = [*_heads(3), head(centre=(20, 20), seed=9)]
    slices = write_catalog(source, images)
    slices["series"] = ["a", "a", "a", "b"]
    cache = ensure_cache(tmp_path, "d", source, slices, CacheSpec(64, "series", "bilinear"))
    centres = np.array([head_centre(hu) for hu in images])
    median = tuple(np.median(centres[:3], axis=0))
    for row in range(3):
        assert np.array_equal(cache.read(row), shift_to_centre(images[row], median))
    assert np.array_equal(cache.read(3), shift_to_centre(images[3], tuple(centres[3])))


def test_series_centring_survives_a_series_split_over_shards_and_a_defect(tmp_path, source, monkeypatch):
    images = _heads(7)
    slices = write_catalog(source, images)
    _truncate(source / "2.dcm", slices, 2)
    whole = ensure_cache(tmp_path, "whole", source, slices, CacheSpec(64, "series", "bilinear"))
    monkeypatch.setattr(cache_module, "SHARD_ROWS", 3)
    monkeypatch.setattr(cache_build, "SHARD_ROWS", 3)
    split = ensure_cache(tmp_path, "split", source, slices, CacheSpec(64, "series", "bilinear"), processes=1)
    assert len(list(split.folder.glob("*.shard"))) == 3
    assert [np.array_equal(whole.read(row), split.read(row)) for row in range(7)] == [True] * 7
    assert dict(split.defects) == dict(whole.defects) == {2: "truncated"}


@pytest.mark.parametrize("shape", [(40, 64), (64, 40), (63, 64)])
def test_non_square_slices_keep_their_aspect_between_bars_of_air(shape):
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


def test_several_caches_from_one_decoding_are_each_as_if_built_alone(tmp_path, source):
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
    seen: list[tuple[int, int]] = []
    together = build_caches(source, slices, plans, processes=2, progress=lambda *at: seen.append(at))
    assert seen[-1] == (600, 600)  # a first pass for the centres of the series
    for one, other in zip(alone, together, strict=True):
        names = sorted(path.name for path in one.folder.iterdir())
        assert names == sorted(path.name for path in other.folder.iterdir())
        assert all((one.folder / name).read_bytes() == (other.folder / name).read_bytes() for name in names)


def test_what_cannot_be_decoded_is_a_named_defect_also_when_opened_again(tmp_path, source):
    slices = write_catalog(source, _heads())
    _truncate(source / "1.dcm", slices, 1)
    for _ in range(2):
        cache = ensure_cache(tmp_path, "d", source, slices, PLAIN)
        assert dict(cache.defects) == {1: "truncated"}
        assert cache.valid.tolist() == [True, False, True, True]
        assert (cache.read(1) == -1024).all()


def test_a_real_dataset_is_cached(tmp_path, shared_data):
    folder = shared_data / "rsna_mini" / "stage_2_test"
    files = sorted(folder.glob("*.dcm"))
    slices = pd.DataFrame(
        {
            "slice_id": [file.stem for file in files],
            "file": [file.name for file in files],
            "bytes": [file.stat().st_size for file in files],
            "mtime_ns": [file.stat().st_mtime_ns for file in files],
            "series": "one",
            "rows": 512,
            "columns": 512,
        }
    )
    seen: list[tuple[int, int]] = []
    spec = CacheSpec(378, "slice", "bilinear")
    cache = ensure_cache(tmp_path, "rsna", folder, slices, spec, progress=lambda *at: seen.append(at))
    hu = read_slice(files[5]).hu
    expected = cv2.resize(shift_to_centre(hu, head_centre(hu)), (378, 378), interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(cache.read(5), expected)
    assert cache.valid.all()
    assert cache.nbytes < estimated_bytes(32, 378)
    assert seen[0] == (0, 32)
    assert seen[-1] == (32, 32)


def test_the_key_covers_order_fingerprints_and_spec_but_not_labels_or_paths(source):
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
    """Return a catalog of `shards` shards, the last one ragged: the same few files again and again."""
    return write_catalog(source, _heads(8), copies=32 * shards - 1)


def test_several_processes_build_the_same_as_one(tmp_path, source):
    slices = _large(source)
    one = ensure_cache(tmp_path, "one", source, slices, PLAIN, processes=1)
    two = ensure_cache(tmp_path, "two", source, slices, PLAIN, processes=2)
    names = sorted(path.name for path in one.folder.iterdir())
    assert names == sorted(path.name for path in two.folder.iterdir())
    assert "00003.shard" in names
    assert all((one.folder / name).read_bytes() == (two.folder / name).read_bytes() for name in names)


def test_only_what_is_missing_is_built_again(tmp_path, source):
    slices = _large(source)
    _truncate(source / "3.dcm", slices, 3)
    found = (source / "3.dcm").stat()
    same = slices["file"] == "3.dcm"
    slices.loc[same, ["bytes", "mtime_ns"]] = [found.st_size, found.st_mtime_ns]
    first = ensure_cache(tmp_path, "d", source, slices, PLAIN, processes=1)
    images = [first.read(row) for row in range(first.n)]
    (first.folder / CACHE_FILE).unlink()
    shard_path(first.folder, 1).unlink()
    shard_path(first.folder, 2).write_bytes(b"not a frame")
    kept = [shard_path(first.folder, shard).stat().st_ino for shard in (0, 3)]
    seen: list[tuple[int, int]] = []
    again = ensure_cache(tmp_path, "d", source, slices, PLAIN, processes=1, progress=lambda *at: seen.append(at))
    assert [shard_path(again.folder, shard).stat().st_ino for shard in (0, 3)] == kept
    assert seen == [(504, 1016), (760, 1016), (1016, 1016)]
    assert all(np.array_equal(again.read(row), image) for row, image in enumerate(images))
    assert set(again.defects) == set(np.flatnonzero(same).tolist())


@pytest.mark.parametrize("harm", ["cut", "gone"])
def test_a_finished_cache_that_lost_a_shard_is_mended(tmp_path, source, harm):
    slices = _large(source, 2)
    cache = ensure_cache(tmp_path, "d", source, slices, PLAIN, processes=1)
    path = shard_path(cache.folder, 0)
    whole = path.read_bytes()
    path.unlink() if harm == "gone" else path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(IchxError, match="cannot be read"):
        cache.read(255)
    mended = ensure_cache(tmp_path, "d", source, slices, PLAIN, processes=1)
    assert path.read_bytes() == whole
    assert not _damaged(tmp_path, slices)
    assert np.array_equal(mended.read(255), fit_square(_heads(8)[7], 48, "bilinear"))


@pytest.mark.parametrize("part", ["chunk", "table", "index", "cut"])
def test_any_damage_is_found_by_the_checksums_taken_out_and_built_again(tmp_path, source, part):
    slices = _large(source, 3)
    cache = ensure_cache(tmp_path, "d", source, slices, PLAIN, processes=1)
    path = cache.folder / PLACES_FILE if part == "index" else shard_path(cache.folder, 1)
    whole = {file: file.read_bytes() for file in cache.folder.iterdir()}
    written = {file: file.stat().st_mtime_ns for file in cache.folder.glob("*.shard")}
    assert _damaged(tmp_path, slices) == {}
    content = bytearray(whole[path])
    offset, length, _ = read_table(shard_path(cache.folder, 1)).places[2].tolist()
    content[{"chunk": offset + length - 5, "table": -40, "index": -4, "cut": 0}[part]] ^= 1
    path.write_bytes(content[:-1] if part == "cut" else content)
    if part == "chunk":
        with pytest.raises(IchxError, match=r"slice 258 of .* 00001\.shard: its bytes") as caught:
            Cache(cache.folder).read(258)
        assert "`ichx data cache d --verify`" in caught.value.remedy
    found = _damaged(tmp_path, slices)
    assert list(found) == [path.name]
    if part == "chunk":
        assert found[path.name] == "1 of 256 slices do not have their checksum"
    (plan,) = plan_caches(tmp_path, "d", slices, [PLAIN])
    assert not plan.complete
    assert plan.missing == (() if part == "index" else (1,))
    build_caches(source, slices, [plan], processes=1)
    assert {file: file.read_bytes() for file in cache.folder.iterdir()} == whole
    changed = {file.name for file, when in written.items() if file.stat().st_mtime_ns != when}
    assert changed == (set() if part == "index" else {path.name})
    assert _damaged(tmp_path, slices) == {}


def test_reading(tmp_path, source):
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


def test_more_shards_than_may_be_open_are_read_by_many_threads(tmp_path, monkeypatch):
    images = [np.full((16, 16), number, np.int16) for number in range(12)]
    paths = [tmp_path / f"{number}.shard" for number in range(12)]
    tables = [write_shard(path, [pack(image)], {}) for path, image in zip(paths, images, strict=True)]
    monkeypatch.setattr(shards_module, "OPEN_SHARDS", 3)
    files = ShardFiles(paths)
    opened = len(list(Path("/dev/fd").iterdir()))

    def read(number: int) -> int:
        out = np.empty((16, 16), np.int16)
        offset, length, checksum = tables[number].places[0].tolist()
        unpack(files.read(number, offset, length), checksum, out)
        return int(out[3, 3])

    with ThreadPoolExecutor(8) as pool:
        numbers = [number % 12 for number in range(600)]
        assert list(pool.map(read, numbers)) == numbers
    assert len(list(Path("/dev/fd").iterdir())) == opened + 3


@settings(deadline=None, max_examples=30)
@given(arrays(np.int16, st.tuples(st.integers(1, 4), st.just(16), st.just(16))))
def test_any_image_comes_back_exactly(tmp_path_factory, images):
    path = tmp_path_factory.mktemp("shard") / "s.shard"
    zeros = np.zeros((16, 16), np.int16)
    written = [zeros, *images, zeros]
    table = write_shard(path, [pack(image) for image in written], {0: "truncated"})
    again = read_table(path)
    assert np.array_equal(table.places, again.places)
    assert dict(again.defects) == {0: "truncated"}
    files = ShardFiles([path])
    for row, image in enumerate(written):
        out = np.empty((16, 16), np.int16)
        offset, length, checksum = table.places[row].tolist()
        unpack(files.read(0, offset, length), checksum, out)
        assert np.array_equal(out, image)


@pytest.mark.parametrize("change", ["gone", "longer"])
@pytest.mark.parametrize("processes", [1, 2])
def test_a_file_that_is_not_the_catalogs_any_more_is_an_error(tmp_path, source, change, processes):
    slices = _large(source, 2)
    file = source / "5.dcm"
    file.unlink() if change == "gone" else file.write_bytes(file.read_bytes() + b"\0\0")
    with pytest.raises(IchxError, match=r"5\.dcm cannot be read") as caught:
        ensure_cache(tmp_path, "d", source, slices, PLAIN, processes=processes)
    assert "ichx data add" in caught.value.remedy
    assert {path.name for path in _folder(tmp_path, slices).iterdir()} == {BUILD_FILE, LOCK_FILE}


def test_a_full_disk_is_told_with_the_space_that_is_needed(tmp_path, source, monkeypatch):
    slices = _large(source, 3)
    flushed = []

    def full(descriptor: int) -> None:
        flushed.append(descriptor)
        if len(flushed) == 3:  # after build.json and the first shard
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(IchxError, match=r"about 1\.8 MB are needed"):
            ensure_cache(tmp_path, "d", source, slices, PLAIN, processes=1)
    folder = _folder(tmp_path, slices)
    assert sorted(path.name for path in folder.iterdir()) == ["00000.shard", BUILD_FILE, "building.lock"]
    assert ensure_cache(tmp_path, "d", source, slices, PLAIN, processes=1).n == len(slices)


def test_too_little_space_is_told_before_anything_is_decoded(tmp_path, source):
    slices = write_catalog(source, _heads())
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    spec = CacheSpec(2 * math.isqrt(free), "none", "bilinear")
    with pytest.raises(IchxError, match="no space for the cache"):
        ensure_cache(tmp_path, "d", source, slices, spec)
    assert [path.name for path in _folder(tmp_path, slices, spec).iterdir()] == ["building.lock"]


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path, source):
    (tmp_path / "file").write_text("")
    with pytest.raises(IchxError, match="cannot be written"):
        ensure_cache(tmp_path / "file", "d", source, write_catalog(source, _heads()), PLAIN)


def test_a_worker_that_raises_or_dies_is_an_error_and_no_hang():
    with pytest.raises(ValueError, match="invalid literal"):
        list(run_jobs(int, ["1", "x", "2"], 2))
    with pytest.raises(IchxError, match="worker process died"):
        list(run_jobs(os._exit, [3, 3, 3], 2))
    assert sorted(run_jobs(int, ["3", "1", "2"], 2)) == [1, 2, 3]


def test_two_builds_at_once_do_not_disturb_each_other(tmp_path, source):
    slices = _large(source, 3)
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        arguments = (tmp_path, "d", source, slices, PLAIN)
        both = [pool.apply_async(ensure_cache, arguments, {"processes": 1}) for _ in range(2)]
        first, second = (result.get(timeout=120) for result in both)
    assert first.folder == second.folder
    assert not _damaged(tmp_path, slices)
    assert not list(first.folder.glob(".*"))
    alone = ensure_cache(tmp_path, "alone", source, slices, PLAIN, processes=1)
    assert all(np.array_equal(first.read(row), alone.read(row)) for row in range(alone.n))


@pytest.mark.parametrize("dies", [False, True])
def test_one_that_finds_another_building_waits_and_builds_only_what_is_left(tmp_path, source, dies):
    slices = _large(source, 3)
    plans = plan_caches(tmp_path, "d", slices, [PLAIN])
    calls: list[tuple[int, int]] = []
    waiting: list[Future[list[Cache]]] = []

    with ThreadPoolExecutor(1) as other:

        def told(done: int, total: int) -> None:
            if not waiting:
                waiting.append(other.submit(build_caches, source, slices, plans, processes=1, progress=count))
                with pytest.raises(TimeoutError):
                    waiting[0].result(timeout=1.0)
            if dies and done:
                raise KeyboardInterrupt

        def count(done: int, total: int) -> None:
            calls.append((done, total))

        try:
            build_caches(source, slices, plans, processes=1, progress=told)
            assert not dies
        except KeyboardInterrupt:
            assert dies
        (cache,) = waiting[0].result(timeout=120)
    assert calls == ([(n, len(slices)) for n in (256, 512, len(slices))] if dies else [])
    assert cache.n == len(slices)
    assert not _damaged(tmp_path, slices)


def _start_build(tmp_path: Path, source: Path, slices: pd.DataFrame) -> subprocess.Popen[str]:
    """Start a build in two workers in a process group of its own; return once its first shard is there."""
    slices.to_pickle(tmp_path / "slices.pickle")
    script = tmp_path / "build.py"
    script.write_text(
        textwrap.dedent(f"""
            from pathlib import Path
            import pandas as pd
            from ichx.cache.hu_cache import CacheSpec
            from ichx.cache.build import ensure_cache

            if __name__ == "__main__":
                slices = pd.read_pickle({str(tmp_path / "slices.pickle")!r})
                spec = CacheSpec(48, "none", "bilinear")
                ensure_cache(Path({str(tmp_path)!r}), "d", Path({str(source)!r}), slices, spec, processes=2)
        """)
    )
    build = subprocess.Popen([sys.executable, str(script)], start_new_session=True, stderr=subprocess.PIPE, text=True)
    folder = _folder(tmp_path, slices)
    until = time.monotonic() + 120
    while not list(folder.glob("*.shard")):
        assert build.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    return build


def _wait_until_gone(group: int) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("workers outlived the build")


@pytest.mark.parametrize("kill", ["SIGINT", "SIGKILL"])
def test_a_build_that_was_stopped_leaves_whole_shards_and_goes_on(tmp_path, source, kill):
    slices = _large(source, 20)
    build = _start_build(tmp_path, source, slices)
    folder = _folder(tmp_path, slices)
    if kill == "SIGINT":
        os.killpg(build.pid, signal.SIGINT)
    else:
        build.kill()
    _, complaint = build.communicate(timeout=60)
    assert build.returncode != 0
    _wait_until_gone(build.pid)
    finished = {path: path.stat().st_ino for path in folder.glob("*.shard")}
    assert 1 <= len(finished) < 20
    assert not (folder / CACHE_FILE).exists()
    if kill == "SIGINT":
        assert complaint.count("Traceback") == 1
        assert not list(folder.glob(".*"))
    cache = ensure_cache(tmp_path, "d", source, slices, PLAIN, processes=1)
    assert {path: path.stat().st_ino for path in finished} == finished
    assert cache.n == len(slices)
    assert not _damaged(tmp_path, slices)


def test_temporary_files_of_a_dead_build_are_removed_but_not_those_of_a_living_one(tmp_path, source):
    slices = write_catalog(source, _heads())
    folder = _folder(tmp_path, slices)
    folder.mkdir()
    old, young = folder / ".00000.shard.1-aa.tmp", folder / ".00000.shard.2-bb.tmp"
    for path in (old, young):
        path.write_text("half")
    os.utime(old, (time.time() - 7200, time.time() - 7200))
    ensure_cache(tmp_path, "d", source, slices, PLAIN)
    assert not old.exists()
    assert young.exists()
