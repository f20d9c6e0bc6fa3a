"""Memory of batches is used again, but never while someone reads it: a tensor, a view of one, an array."""

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from small_dicom import head, write_catalog

from ichx.cache.build import ensure_cache
from ichx.cache.hu_cache import Cache, CacheSpec
from ichx.loading.batch_reader import BatchMemory
from ichx.loading.loader import Batch, SliceLoader
from ichx.loading.sampling import EpochAddress
from ichx.recipe import AugmentationRecipe, InputRecipe, ModelRecipe, Recipe, StageRecipe
from ichx.training.slice_feed import SliceFeed

COUNT = 12
RECIPE = Recipe(
    plugin="tiny",
    model=ModelRecipe("none"),
    input=InputRecipe(size=32, crop=32),
    stage=(StageRecipe("only", "all", 1, 1e-3),),
    batch=4,
    augmentation=AugmentationRecipe(probability=0.0),
)
ADDRESS = EpochAddress(seed=5, fold=1, stage=0, epoch=2)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def slices(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    source = tmp_path_factory.mktemp("memory") / "source"
    catalog = write_catalog(source, [head(centre=(26 + at % 5, 30 + at % 7), seed=at) for at in range(COUNT)])
    catalog.attrs["source"] = str(source)
    return catalog


@pytest.fixture(scope="module")
def cache(slices: pd.DataFrame) -> Cache:
    source = Path(slices.attrs["source"])
    return ensure_cache(source.parent, "d", source, slices, CacheSpec(32, "none", "bilinear"))


def same(held: Any, cache: Cache, rows: list[int]) -> bool:
    """Return whether `held`, `(n, 32, 32)`, still has the first of `rows`."""
    return all(np.array_equal(one, cache.read(row)) for one, row in zip(np.asarray(held), rows, strict=False))


HOLD: dict[str, Callable[[Batch], Any]] = {
    "tensor": lambda batch: batch.hu,
    "view": lambda batch: batch.hu[:1].view(1, 32, 32),
    "same device": lambda batch: batch.hu.to(CPU, non_blocking=True)[:2],
    "array": lambda batch: batch.hu.numpy()[:2],
    "detached": lambda batch: batch.hu.detach().unflatten(0, (1, -1))[0, :3],
    "shared storage": lambda batch: torch.empty(0, dtype=torch.int16).set_(batch.hu.untyped_storage(), 0, (1, 32, 32)),
}


@pytest.mark.parametrize("hold", HOLD)
def test_what_a_model_keeps_of_a_batch_is_not_overwritten(cache: Cache, slices: pd.DataFrame, hold: str) -> None:
    loader = SliceLoader(cache, slices, RECIPE)
    held: list[tuple[Any, list[int]]] = []
    for epoch in range(3):
        rows = np.random.default_rng(epoch).permutation(COUNT)
        for number, batch in enumerate(loader.training_batches(rows, ADDRESS._replace(epoch=epoch))):
            if number % 2 == 0:
                held.append((HOLD[hold](batch), batch.rows.tolist()))
            del batch
        for batch in loader.inference_batches(rows[:7], batch=5):
            held.append((HOLD[hold](batch), batch.rows.tolist()))
    assert len(held) == 12
    assert all(same(one, cache, rows) for one, rows in held)


@pytest.mark.parametrize("neighbours", [0, 2])
def test_batches_of_a_training_outlive_a_validation_meanwhile(
    cache: Cache, slices: pd.DataFrame, neighbours: int
) -> None:
    recipe = dataclasses.replace(RECIPE, input=dataclasses.replace(RECIPE.input, neighbours=neighbours))
    feed = SliceFeed(cache, slices, recipe)
    loader = feed._loader
    expected = {
        int(row): hu.clone()
        for batch in SliceLoader(cache, slices, recipe).inference_batches(np.arange(COUNT), batch=1)
        for row, hu in zip(batch.rows, batch.hu, strict=True)
    }

    def is_right(batch: Batch) -> bool:
        return all(torch.equal(hu, expected[int(row)]) for row, hu in zip(batch.rows, batch.hu, strict=True))

    training = loader.training_batches(np.arange(COUNT), ADDRESS)
    first = next(training)  # its thread has begun to read the second one
    inputs = feed.inputs(first, CPU)
    images = inputs.images.clone()
    for size in (3, 4, 5):
        assert all(is_right(batch) for batch in feed.inference_batches(np.arange(COUNT), batch=size))
    assert is_right(first)
    assert torch.equal(inputs.images, images)
    assert all(is_right(batch) for batch in training)


def test_slow_consumers_in_several_threads_read_what_was_read_for_them(cache: Cache, slices: pd.DataFrame) -> None:
    loader = SliceLoader(cache, slices, RECIPE)
    start = threading.Barrier(4)

    def consume(seed: int) -> int:
        random, seen = np.random.default_rng(seed), 0
        start.wait()
        for _ in range(4):
            rows = random.permutation(COUNT)
            batches: Iterator[Batch] = loader.inference_batches(rows, batch=3 + seed)
            for batch in batches:
                hu, of = batch.hu[1:], batch.rows.tolist()[1:]
                del batch
                time.sleep(random.uniform(0, 0.01))
                assert same(hu, cache, of)
                seen += len(of) + 1
        return seen

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(consume, range(4))) == [4 * COUNT] * 4


def test_memory_is_given_again_only_without_any_reference() -> None:
    memory = BatchMemory()
    first = memory.take((4, 1, 8, 8))
    address = first.ctypes.data
    view = first[2:, 0].T
    del first
    assert memory.take((4, 1, 8, 8)).ctypes.data != address
    view[...] = 7
    taken = [memory.take((3, 1, 8, 8)) for _ in range(5)]
    for one in taken:
        one[...] = 1
    assert (view == 7).all()
    del view
    assert memory.take((4, 1, 8, 8)).ctypes.data == address
