"""`ichx exp new --seeds` and what `ichx exp diff` concludes from the spread of seeds."""

import json
import statistics
from pathlib import Path

import pytest
from conftest import SHORT, Program

from ichx.recipe_text import from_toml
from ichx.store import open_store
from ichx.workspace import open_workspace

NEW = ("exp", "new", "--plugin", "tiny_efficientnet", "--size", 32)
SETTINGS = tuple(word for setting in SHORT for word in ("--set", setting))


def test_seeds_register_siblings(dataset_copy: Path, ichx: Program) -> None:
    done = ichx(*NEW, "--set", "seed=7", "--seeds", 3, "--name", "mine", "--json", cwd=dataset_copy)
    assert done.code == 0, done.err
    assert [e["name"] for e in json.loads(done.out)] == ["mine-seed7", "mine-seed8", "mine-seed9"]
    assert "ichx run 1 2 3" in done.err
    with open_store(open_workspace(dataset_copy)) as store:
        assert [from_toml(store.experiment(number).recipe).seed for number in (1, 2, 3)] == [7, 8, 9]


@pytest.mark.parametrize("words", [("--seeds", 0), ("--seeds", 101), ("--seeds", 2, "--members", "1")])
def test_invalid_seeds_register_nothing(dataset_copy: Path, ichx: Program, words: tuple[object, ...]) -> None:
    done = ichx(*NEW, *words, "--json", cwd=dataset_copy)
    assert done.code in (1, 2)
    with open_store(open_workspace(dataset_copy)) as store:
        assert store.experiments() == []


def test_a_difference_is_compared_with_the_spread_of_seeds(dataset_copy: Path, ichx: Program) -> None:
    ichx(*NEW, *SETTINGS, "--seeds", 2, cwd=dataset_copy)
    ichx(*NEW, *SETTINGS, "--set", "batch=8", cwd=dataset_copy)
    assert ichx("run", 1, 2, 3, "--device", "cpu", cwd=dataset_copy).code == 0
    found = json.loads(ichx("exp", "diff", 1, 3, "--json", cwd=dataset_copy).out)
    with open_store(open_workspace(dataset_copy)) as store:
        scores = [store.experiment(number).score for number in (1, 2, 3)]
    assert found["seeds"]["groups"] == [[1, 2]]
    deviation = statistics.stdev(scores[:2])
    assert found["seeds"]["deviation"] == pytest.approx(deviation, rel=1e-12)
    text = ichx("exp", "diff", 1, 3, cwd=dataset_copy).err
    small = abs(scores[0] - scores[2]) <= 1.96 * 2**0.5 * deviation
    assert ("may be noise" in text) == small
    assert ("is larger" in text) == (not small)


def test_without_siblings_no_spread_is_known(trained_copy: Path, ichx: Program) -> None:
    found = json.loads(ichx("exp", "diff", 2, 3, "--json", cwd=trained_copy).out)
    assert found["seeds"] is None
