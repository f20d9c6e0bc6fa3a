"""The file of a feature table: values, manifest, and processes that are killed while they write it."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ichx.errors import ChangedDataError, CorruptFileError
from ichx.evaluation import feature_tables
from ichx.evaluation.feature_tables import FeatureSource, FeatureTable, TableWriter, manifest_path, read_table

SOURCE = FeatureSource("id", 0, "w", "r", "f", "ph", 1, "c", "identity", "fp32")
VALUES = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float16)
ROWS = np.delete(np.arange(50), [0, 17, 18, 49])
BATCH = 4


def write(path: Path, source: FeatureSource = SOURCE) -> tuple[FeatureTable, int]:
    """Write the table in batches; return it and the rows that an earlier writer had saved."""
    with TableWriter(path, source, ROWS, VALUES.shape, batch=BATCH) as writer:
        done = writer.done
        for start in range(done, len(ROWS), BATCH):
            rows = ROWS[start : start + BATCH]
            writer.add(np.array([f"s{row}" for row in rows], object), VALUES[rows])
        return writer.finish(), done


def test_values_and_manifest(tmp_path: Path) -> None:
    path = tmp_path / "features" / "t.npy"
    assert read_table(path) is None
    made, _ = write(path)
    found = read_table(path)
    assert found == made
    assert found is not None
    assert (found.slices, found.width, found.invalid, found.source) == (50, 7, (0, 17, 18, 49), SOURCE)
    np.testing.assert_array_equal(np.flatnonzero(found.valid), ROWS)
    expected = VALUES.copy()
    expected[~found.valid] = 0
    np.testing.assert_array_equal(found.open(), expected)
    np.save(tmp_path / "same.npy", expected)
    assert path.read_bytes() == (tmp_path / "same.npy").read_bytes()
    assert sorted(p.name for p in path.parent.iterdir()) == ["t.json", "t.npy"]


def test_a_writer_killed_at_any_point_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_tables, "FLUSH_BYTES", 3 * 7 * 2)  # each batch
    digest = write(tmp_path / "complete.npy")[0].digest
    complete = (tmp_path / "complete.npy").read_bytes()
    path, kills, resumed = tmp_path / "killed.npy", 0, set()
    for point in range(2, 200, 3):
        pid = os.fork()
        if pid == 0:
            calls = iter(range(point))

            def step(call: Callable[..., Any], calls: Iterator[int] = calls) -> Callable[..., Any]:
                def counted(*arguments: Any, **named: Any) -> Any:
                    if next(calls, None) is None:
                        os._exit(9)
                    return call(*arguments, **named)

                return counted

            for owner, name in ((os, "fsync"), (Path, "replace"), (Path, "unlink"), (feature_tables, "write_text")):
                setattr(owner, name, step(getattr(owner, name)))
            write(path)
            os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0:
            break
        kills += 1
        found = read_table(path)
        if found is None:
            found, done = write(path)
            resumed.add(done)
        assert path.read_bytes() == complete
        assert found.digest == digest
        path.unlink()
        manifest_path(path).unlink()
    assert kills > 10
    assert {0, 4, 8, len(ROWS)} <= resumed


def test_a_part_of_another_table_is_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "t.npy"
    with TableWriter(path, SOURCE, ROWS, VALUES.shape, batch=BATCH) as writer:
        writer.add(np.empty(10, object), VALUES[ROWS[:10]])
    assert read_table(path) is None
    for other, done in ((replace(SOURCE, weights="x"), 0), (replace(SOURCE, precision="bf16"), 0), (SOURCE, 8)):
        with TableWriter(tmp_path / "t.npy", other, ROWS, VALUES.shape, batch=BATCH) as writer:
            assert writer.done == done
            writer.add(np.empty(10 - done, object), VALUES[ROWS[done:10]])
        if other != SOURCE:  # restore the first part
            with TableWriter(path, SOURCE, ROWS, VALUES.shape, batch=BATCH) as writer:
                writer.add(np.empty(10, object), VALUES[ROWS[:10]])


@pytest.mark.parametrize("damage", ["{", "[]", '{"format": 1}'])
def test_a_damaged_manifest(tmp_path: Path, damage: str) -> None:
    write(tmp_path / "t.npy")
    (tmp_path / "t.json").write_text(damage)
    with pytest.raises(CorruptFileError, match=r"t\.json"):
        read_table(tmp_path / "t.npy")


def test_a_changed_file(tmp_path: Path) -> None:
    path = tmp_path / "t.npy"
    made, _ = write(path)
    np.save(path, np.zeros((50, 8), np.float16))
    assert read_table(path) is None
    with pytest.raises(ChangedDataError, match=r"\(50, 8\)"):
        made.open()
    path.write_bytes(b"no table")
    with pytest.raises(CorruptFileError, match=r"t\.npy"):
        made.open()
    path.unlink()
    with pytest.raises(ChangedDataError, match="missing"):
        made.open()
