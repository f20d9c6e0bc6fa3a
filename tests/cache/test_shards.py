from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from open_files import open_files

from ichx.cache import shards as shards_module
from ichx.cache.shards import ShardFiles, pack, read_table, unpack, write_shard


def test_open_files_are_limited_and_shared_by_threads(tmp_path, monkeypatch):
    images = [np.full((16, 16), number, np.int16) for number in range(12)]
    paths = [tmp_path / f"{number}.shard" for number in range(12)]
    tables = [write_shard(path, [pack(image)], {}) for path, image in zip(paths, images, strict=True)]
    monkeypatch.setattr(shards_module, "OPEN_SHARDS", 3)
    files = ShardFiles(paths)
    before = open_files()

    def read(number: int) -> int:
        out = np.empty((16, 16), np.int16)
        offset, length, checksum = tables[number].places[0].tolist()
        unpack(files.read(number, offset, length), checksum, out)
        return int(out[3, 3])

    with ThreadPoolExecutor(8) as pool:
        numbers = [number % 12 for number in range(600)]
        assert list(pool.map(read, numbers)) == numbers
    assert open_files() == before + 3


@settings(deadline=None, max_examples=30)
@given(arrays(np.int16, st.tuples(st.integers(1, 4), st.just(16), st.just(16))))
def test_any_image_survives_a_round_trip(tmp_path_factory, images):
    path = tmp_path_factory.mktemp("shard") / "s.shard"
    zeros = np.zeros((16, 16), np.int16)
    written = [zeros, *images, zeros]
    table = write_shard(path, [pack(image) for image in written], {0: "truncated"})
    assert np.array_equal(table.places, read_table(path).places)
    assert dict(read_table(path).defects) == {0: "truncated"}
    files = ShardFiles([path])
    for row, image in enumerate(written):
        out = np.empty((16, 16), np.int16)
        offset, length, checksum = table.places[row].tolist()
        unpack(files.read(0, offset, length), checksum, out)
        assert np.array_equal(out, image)


def test_damage_is_detected(tmp_path):
    path = tmp_path / "s.shard"
    table = write_shard(path, [pack(np.zeros((16, 16), np.int16))], {})
    offset, length, checksum = table.places[0].tolist()
    chunk = path.read_bytes()[offset : offset + length]
    with pytest.raises(ValueError, match="checksum"):
        unpack(chunk[:-1] + bytes([chunk[-1] ^ 1]), checksum, np.empty((16, 16), np.int16))
    with pytest.raises(ValueError, match="size"):
        unpack(chunk, checksum, np.empty((16, 8), np.int16))
    content = path.read_bytes()
    for damaged in (b"", content[:-1], content[1:], content[:-30] + b"0" + content[-29:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"s\.shard"):
            read_table(path)
