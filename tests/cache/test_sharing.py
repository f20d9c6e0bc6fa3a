"""Several builders of one cache: they share the work, and survive each other."""

import errno
import fcntl
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
from small_dicom import head, write_catalog

from ichx.cache import build as build_module
from ichx.cache import sharing
from ichx.cache.build import CachePlan, build_caches, build_part, ensure_cache, plan_caches
from ichx.cache.hu_cache import Cache, CacheSpec, shard_path, slices_digest
from ichx.cache.parts import Part
from ichx.cache.sharing import claim
from ichx.cache.verify import find_caches, verify_caches
from ichx.errors import InvalidInputError

PLAIN = CacheSpec(32, "none", "bilinear")
SERIES = CacheSpec(32, "series", "bilinear")


@pytest.fixture
def slices(tmp_path: Path) -> pd.DataFrame:
    """Return the catalog of a cache of four shards."""
    images = [head(centre=(26 + 2 * index, 34 - index), seed=index) for index in range(8)]
    return write_catalog(tmp_path / "source", images, copies=32 * 4 - 1)


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _shards(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("[0-9]*.shard")}


def _alone(tmp_path: Path, slices: pd.DataFrame, spec: CacheSpec) -> dict[str, bytes]:
    cache = ensure_cache(tmp_path / "alone", "d", tmp_path / "source", slices, spec, processes=1)
    return _contents(cache.folder)


def _wait_for(condition: Callable[[], object]) -> None:
    until = time.monotonic() + 900
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def _without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(file: object, operation: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    def link(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(os, "link", link)


def test_a_builder_skips_what_another_builds_and_then_waits_for_it(tmp_path: Path, slices: pd.DataFrame) -> None:
    (plan,) = plan_caches(tmp_path, "d", slices, [PLAIN])
    calls: list[tuple[int, int]] = []
    with ThreadPoolExecutor(1) as other:
        with claim(shard_path(plan.folder, 2)) as claimed:
            assert claimed
            builder = other.submit(
                build_caches, tmp_path / "source", slices, [plan], processes=1, progress=lambda *at: calls.append(at)
            )
            _wait_for(lambda: builder.done() or len(_shards(plan.folder)) == 3)
            time.sleep(2 * sharing.POLL_SECONDS)
            assert not builder.done()
            assert _shards(plan.folder) == {"00000.shard", "00001.shard", "00003.shard"}
        (cache,) = builder.result(timeout=900)  # the other builder has died without the shard
    assert calls[-1] == (1016, 1016)
    assert _contents(cache.folder) == _alone(tmp_path, slices, PLAIN)


def test_a_claim_is_ignored_when_nothing_happens_for_long(
    tmp_path: Path, slices: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some servers keep the locks of a machine that is gone."""
    (plan,) = plan_caches(tmp_path, "d", slices, [SERIES])
    monkeypatch.setattr(sharing, "STALE_SECONDS", 0.0)
    held = [shard_path(plan.folder, 2), plan.folder / "centres-00001.npy", plan.folder / "cache.json"]
    with claim(held[0]), claim(held[1]), claim(held[2]):
        (cache,) = build_caches(tmp_path / "source", slices, [plan], processes=1)
    assert _contents(cache.folder) == _alone(tmp_path, slices, SERIES)


@pytest.mark.parametrize("spec", [PLAIN, SERIES])
@pytest.mark.parametrize("locks", [True, False])
def test_builders_share_the_work(
    tmp_path: Path, slices: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, spec: CacheSpec, locks: bool
) -> None:
    if not locks:
        _without_locks(monkeypatch)
    (plan,) = plan_caches(tmp_path, "d", slices, [spec])
    with ThreadPoolExecutor(3) as pool:
        builders = [pool.submit(build_caches, tmp_path / "source", slices, [plan], processes=1) for _ in range(3)]
        (folder,) = {builder.result(timeout=900)[0].folder for builder in builders}
    assert _contents(folder) == _alone(tmp_path, slices, spec)


def test_every_shard_and_every_centre_is_built_once(
    tmp_path: Path, slices: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []
    rename = Path.replace

    def record(path: Path, target: Path) -> Path:
        written.append(target)
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", record)
    plans = plan_caches(tmp_path, "d", slices, [PLAIN, SERIES])
    with ThreadPoolExecutor(2) as pool:
        several = pool.submit(build_caches, tmp_path / "source", slices, plans, processes=1)
        single = pool.submit(build_caches, tmp_path / "source", slices, plans[1:], processes=1)
        assert len(several.result(timeout=900)) == 2
        assert len(single.result(timeout=900)) == 1
    files = [path.name for path in written if path.suffix == ".shard" or path.name.startswith("centres")]
    assert len(files) == len(set(written) - {p for p in written if p.suffix == ".json" or p.name == "places.npy"})


BUILDER = """
import sys, time
from pathlib import Path
import pandas as pd
from ichx.cache import {module} as module
from ichx.cache.build import ensure_cache
from ichx.cache.hu_cache import CacheSpec

def hang(*_):
    print("holds a claim", flush=True)
    time.sleep(3600)

if sys.argv[1] == "hangs":
    module.{function} = hang
root = Path({root!r})
slices = pd.read_pickle(root / "slices.pickle")
ensure_cache(root, "d", root / "source", slices, CacheSpec(32, {centre!r}, "bilinear"), processes=1)
"""


@pytest.mark.slow
@pytest.mark.parametrize("others", [1, 2])
@pytest.mark.parametrize(
    ("centre", "module", "function"),
    [
        ("none", "shard_jobs", "write_shard"),
        ("series", "shard_jobs", "write_shard"),
        ("series", "series_centres", "find_centres"),
        ("none", "build", "_write_index"),
    ],
)
def test_others_take_over_from_a_killed_builder(
    tmp_path: Path, slices: pd.DataFrame, others: int, centre: str, module: str, function: str
) -> None:
    slices.to_pickle(tmp_path / "slices.pickle")
    script = tmp_path / "builder.py"
    script.write_text(
        textwrap.dedent(BUILDER.format(root=str(tmp_path), centre=centre, module=module, function=function))
    )

    def start(how: str) -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, str(script), how], stdout=subprocess.PIPE, text=True)

    victim = start("hangs")
    assert victim.stdout is not None
    assert victim.stdout.readline() == "holds a claim\n"
    survivors = [start("works") for _ in range(others)]
    spec = CacheSpec(32, centre, "bilinear")
    (plan,) = plan_caches(tmp_path, "d", slices, [spec])
    if function != "find_centres":
        _wait_for(lambda: len(_shards(plan.folder)) >= 3)
    assert [process.poll() for process in survivors] == [None] * others
    victim.kill()
    victim.wait()
    assert [process.wait(timeout=900) for process in survivors] == [0] * others
    assert _contents(plan.folder) == _alone(tmp_path, slices, spec)
    (verified,) = verify_caches(find_caches(tmp_path, "d", slices_digest(slices)), processes=1)
    assert (verified.shards, verified.damaged) == (4, {})


def test_a_shard_that_is_removed_during_the_build_is_built_again(tmp_path: Path, slices: pd.DataFrame) -> None:
    """As by `ichx data cache --verify`."""
    (plan,) = plan_caches(tmp_path, "d", slices, [PLAIN])
    removed: list[Path] = []

    def remove_once(done: int, total: int) -> None:
        if done == total and not removed:
            removed.append(shard_path(plan.folder, 1))
            removed[0].unlink()

    (cache,) = build_caches(tmp_path / "source", slices, [plan], processes=1, progress=remove_once)
    assert removed
    assert _contents(cache.folder) == _alone(tmp_path, slices, PLAIN)


def _build_parts(tmp_path: Path, slices: pd.DataFrame, plans: Sequence[CachePlan], of: int) -> list[set[str]]:
    """Build the parts one after another; return the shards that each has added."""
    added = []
    for number in range(1, of + 1):
        before = {shard for plan in plans for shard in _shards(plan.folder)}
        build_part(tmp_path / "source", slices, plans, Part(number, of), processes=1)
        added.append({shard for plan in plans for shard in _shards(plan.folder)} - before)
    return added


@pytest.mark.parametrize("locks", [True, False])
def test_parts_are_equal_and_the_last_one_finishes_the_cache(
    tmp_path: Path, slices: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, locks: bool
) -> None:
    slices = pd.concat([slices, slices.assign(slice_id="x" + slices["slice_id"])], ignore_index=True)  # eight shards
    first = ensure_cache(tmp_path, "d", tmp_path / "source", slices, SERIES, processes=1)
    expected = _contents(first.folder)
    for path in first.folder.iterdir():
        if path.name not in {"00000.shard", "00002.shard"}:
            path.unlink()
    if not locks:
        _without_locks(monkeypatch)
    added = _build_parts(tmp_path, slices, plan_caches(tmp_path, "d", slices, [SERIES]), 3)
    assert [len(shards) for shards in added] == [2, 2, 2]
    assert _contents(first.folder) == expected


def test_parts_of_several_sizes(tmp_path: Path, slices: pd.DataFrame) -> None:
    plans = plan_caches(tmp_path, "d", slices, [PLAIN, CacheSpec(48, "slice", "area")])
    added = _build_parts(tmp_path, slices, plans, 2)
    assert [len(shards) for shards in added] == [2, 2]
    assert [plan.complete for plan in plan_caches(tmp_path, "d", slices, [plan.spec for plan in plans])] == [True, True]


def test_a_failed_part_is_completed_by_itself_or_by_a_build_of_everything(tmp_path: Path, slices: pd.DataFrame) -> None:
    for rerun in ("part", "everything"):
        (plan,) = plan_caches(tmp_path / rerun, "d", slices, [PLAIN])
        build_part(tmp_path / "source", slices, [plan], Part(1, 2), processes=1)
        assert len(_shards(plan.folder)) == 2
        assert not plan_caches(tmp_path / rerun, "d", slices, [PLAIN])[0].complete
        if rerun == "part":
            build_part(tmp_path / "source", slices, [plan], Part(2, 2), processes=1)
        else:
            build_caches(tmp_path / "source", slices, [plan], processes=1)
        assert _contents(plan.folder) == _alone(tmp_path, slices, PLAIN)


def test_a_shard_that_is_damaged_after_the_parts_were_listed_has_a_part(tmp_path: Path, slices: pd.DataFrame) -> None:
    first = ensure_cache(tmp_path, "d", tmp_path / "source", slices, PLAIN, processes=1)
    for name in ("cache.json", "00001.shard", "00003.shard"):
        (first.folder / name).unlink()
    build_part(tmp_path / "source", slices, plan_caches(tmp_path, "d", slices, [PLAIN]), Part(1, 2), processes=1)
    (first.folder / "00000.shard").write_bytes(b"damaged")
    for number in (1, 2):
        plans = plan_caches(tmp_path, "d", slices, [PLAIN])
        build_part(tmp_path / "source", slices, plans, Part(number, 2), processes=1)
    assert Cache(first.folder).n == len(slices)


def test_more_parts_than_shards(tmp_path: Path, slices: pd.DataFrame) -> None:
    added = _build_parts(tmp_path, slices, plan_caches(tmp_path, "d", slices, [PLAIN]), 6)
    assert [len(shards) for shards in added] == [1, 1, 1, 1, 0, 0]


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/", "/3", "a/b", "-1/3", "1/3/5", "1.5/3", ""])
def test_an_invalid_part_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        Part.parse(text)
    assert repr(text) in caught.value.problem


def test_the_first_builder_on_a_machine_uses_all_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ichx.worker_pool.core_count", lambda: 3)
    share = build_module._fair_share
    with share(tmp_path, 2, 9) as limited, share(tmp_path, None, 1000) as first, share(tmp_path, None, 1000) as second:
        assert (limited, first, second) == (2, 3, 1)
    assert not list(tmp_path.iterdir())


def test_the_temporary_file_of_a_living_builder_stays(tmp_path: Path, slices: pd.DataFrame) -> None:
    from ichx.files import atomic_path

    (plan,) = plan_caches(tmp_path, "d", slices, [PLAIN])
    with atomic_path(shard_path(plan.folder, 7)) as draft:
        draft.write_bytes(b"half")
        build_caches(tmp_path / "source", slices, [plan], processes=1)
        assert draft.read_bytes() == b"half"


def test_no_claim_stays_when_builders_look_for_it_while_it_ends(tmp_path: Path) -> None:
    target = tmp_path / "00000.shard"

    def claim_often() -> None:
        for _ in range(3000):
            with claim(target):
                pass

    with ThreadPoolExecutor(1) as pool:
        claiming = pool.submit(claim_often)
        while not claiming.done():
            sharing._is_claimed(target)
        claiming.result()
    assert list(tmp_path.iterdir()) == []
