from pathlib import Path

import pytest
from small_dicom import head, write_catalog

from ichx.cache.build import build_caches, ensure_cache, plan_caches
from ichx.cache.hu_cache import PLACES_FILE, Cache, CacheSpec, shard_path, slices_digest
from ichx.cache.shards import read_table
from ichx.cache.verify import VerifiedCache, find_caches, raise_if_damaged, verify_caches
from ichx.errors import CorruptFileError

SPEC = CacheSpec(48, "none", "bilinear")


@pytest.mark.parametrize("part", ["chunk", "table", "index", "end"])
def test_damage_is_found_removed_and_rebuilt(tmp_path, part):
    source = tmp_path / "source"
    slices = write_catalog(source, [head(seed=seed) for seed in range(8)], copies=95)
    cache = ensure_cache(tmp_path, "d", source, slices, SPEC, processes=1)
    path = cache.folder / PLACES_FILE if part == "index" else shard_path(cache.folder, 1)
    original = {file: file.read_bytes() for file in cache.folder.iterdir()}
    written = {file: file.stat().st_mtime_ns for file in cache.folder.glob("*.shard")}

    def verify() -> VerifiedCache:
        (verified,) = verify_caches(find_caches(tmp_path, "d", slices_digest(slices)), processes=1)
        return verified

    assert (verify().shards, verify().damaged) == (3, {})
    raise_if_damaged("d", [verify()])
    content = bytearray(original[path])
    offset, length, _ = read_table(shard_path(cache.folder, 1)).places[2].tolist()
    content[{"chunk": offset + length - 5, "table": -40, "index": -4, "end": 0}[part]] ^= 1
    path.write_bytes(content[:-1] if part == "end" else content)
    if part == "chunk":
        with pytest.raises(CorruptFileError, match=r"258 .* 00001\.shard") as caught:
            Cache(cache.folder).read(258)
        assert "`ichx data cache d --verify`" in caught.value.remedy
    found = verify()
    assert list(found.damaged) == [path.name]
    if part == "chunk":
        assert found.damaged[path.name].startswith("1 of 256 ")
    with pytest.raises(CorruptFileError, match=path.name) as caught:
        raise_if_damaged("d", [found])
    assert "ichx data cache d --size 48 --centre none --resize bilinear" in caught.value.remedy
    (plan,) = plan_caches(tmp_path, "d", slices, [SPEC])
    assert not plan.complete
    assert plan.missing == (() if part == "index" else (1,))
    build_caches(source, slices, [plan], processes=1)
    assert {file: file.read_bytes() for file in cache.folder.iterdir()} == original
    rewritten = {file.name for file, when in written.items() if file.stat().st_mtime_ns != when}
    assert rewritten == (set() if part == "index" else {path.name})
    assert verify().damaged == {}


def test_caches_are_listed_by_size_with_their_state(tmp_path: Path) -> None:
    source = tmp_path / "source"
    slices = write_catalog(source, [head(seed=seed) for seed in range(4)])
    large = ensure_cache(tmp_path, "d", source, slices, CacheSpec(64, "none", "area"), processes=1)
    small = ensure_cache(tmp_path, "d", source, slices, SPEC, processes=1)
    ensure_cache(tmp_path, "d-2", source, slices, SPEC, processes=1)
    shard_path(large.folder, 0).unlink()
    found = find_caches(tmp_path, "d", slices_digest(slices))
    assert [(c.folder, c.complete, c.shards, c.of_shards) for c in found] == [
        (small.folder, True, 1, 1),
        (large.folder, False, 0, 1),
    ]
    assert all(c.current for c in found)
    assert not any(c.current for c in find_caches(tmp_path, "d", slices_digest(slices[:3])))
