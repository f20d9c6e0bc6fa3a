"""Stacks of adjacent slices: their order, the ends of a series, defects, and their augmentation."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from small_dicom import head, write_catalog

from ichx.cache.build import ensure_cache
from ichx.cache.hu_cache import Cache, CacheSpec
from ichx.datasets.dataset import load_dataset
from ichx.loading.batch_reader import centre_crop
from ichx.loading.loader import Batch, SliceLoader
from ichx.loading.sampling import EpochAddress
from ichx.project import Project
from ichx.recipe import AugmentationRecipe, InputRecipe, ModelRecipe, Recipe, StageRecipe
from ichx.store import open_store
from ichx.workspace import open_workspace

RECIPE = Recipe(
    plugin="tiny",
    model=ModelRecipe("none"),
    input=InputRecipe(size=48, crop=40, windows=((40.0, 80.0),), centre="series", neighbours=1),
    stage=(StageRecipe("only", "all", 1, 1e-3),),
    batch=4,
    seed=5,
    augmentation=AugmentationRecipe(probability=1.0, elastic_alpha=60.0, window_shift=10.0, window_scale=0.2),
)
ADDRESS = EpochAddress(seed=5, fold=1, stage=0, epoch=2)


@pytest.fixture(scope="module")
def phantom_data(dataset_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Cache, pd.DataFrame]:
    """Return the slices of eight phantom patients and their cache."""
    workspace = open_workspace(dataset_root)
    with open_store(workspace) as store:
        data = load_dataset(Project(workspace, store), "ph")
    folder = tmp_path_factory.mktemp("stacks")
    return ensure_cache(folder, "ph", data.source, data.slices, CacheSpec(48, "series", "bilinear")), data.slices


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cache, pd.DataFrame]:
    """Return twenty series of three identical slices each."""
    source = tmp_path_factory.mktemp("twins") / "source"
    images = [head(centre=(26 + seed % 5, 30), seed=seed) for seed in range(20) for _ in range(3)]
    slices = write_catalog(source, images)
    slices["series"] = [f"series{index // 3:02d}" for index in range(60)]
    return ensure_cache(source.parent, "d", source, slices, CacheSpec(48, "series", "bilinear")), slices


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cache, pd.DataFrame]:
    """Return one series of seven slices, of which rows 3 and 6 cannot be decoded."""
    source = tmp_path_factory.mktemp("damaged") / "source"
    slices = write_catalog(source, [head(seed=seed) for seed in range(7)])
    for row in (3, 6):
        file = source / f"{row}.dcm"
        file.write_bytes(file.read_bytes()[:-300])
        slices.loc[row, ["bytes", "mtime_ns"]] = [file.stat().st_size, file.stat().st_mtime_ns]
    cache = ensure_cache(source.parent, "d", source, slices, CacheSpec(48, "none", "bilinear"))
    assert sorted(cache.defects) == [3, 6]
    return cache, slices


def stacked(batches: list[Batch]) -> dict[int, np.ndarray]:
    """Return the stack of each row."""
    return {row: hu for batch in batches for row, hu in zip(batch.rows.tolist(), batch.hu.numpy().copy(), strict=True)}


@pytest.mark.parametrize(("neighbours", "crop"), [(1, 40), (1, 0), (2, 40), (3, 0)])
def test_stack_has_the_order_of_the_series(phantom_data, neighbours: int, crop: int) -> None:
    cache, slices = phantom_data
    recipe = dataclasses.replace(RECIPE, input=dataclasses.replace(RECIPE.input, neighbours=neighbours, crop=crop))
    rows = np.random.default_rng(0).permutation(len(slices))
    edge = crop or 48
    batches = list(SliceLoader(cache, slices, recipe).inference_batches(rows, batch=32))
    assert torch.cat([batch.rows for batch in batches]).tolist() == rows.tolist()
    found = stacked(batches)
    for _, series in slices.groupby("series"):
        positions = series["position"].to_numpy()
        assert (np.diff(positions) > 0).all()
        of_series = series.index.to_numpy()
        assert len(of_series) > 6
        for place, row in enumerate(of_series):
            for channel, offset in enumerate(range(-neighbours, neighbours + 1)):
                neighbour = of_series[min(max(place + offset, 0), len(of_series) - 1)]
                assert np.array_equal(found[row][channel], centre_crop(cache.read(int(neighbour)), edge))


def test_outermost_slice_is_repeated_at_the_ends_of_a_series(phantom_data) -> None:
    cache, slices = phantom_data
    found = stacked(list(SliceLoader(cache, slices, RECIPE).inference_batches(np.arange(len(slices)))))
    first, last = np.flatnonzero(slices["previous"] < 0), np.flatnonzero(slices["next"] < 0)
    assert len(first) == len(last) == slices["series"].nunique()
    for row in first:
        assert np.array_equal(found[row][0], found[row][1])
        assert not np.array_equal(found[row][1], found[row][2])
    for row in last:
        assert np.array_equal(found[row][1], found[row][2])
        assert not np.array_equal(found[row][0], found[row][1])


@pytest.mark.parametrize("neighbours", [1, 4])
def test_slices_beyond_the_ends_can_be_air(phantom_data, neighbours: int) -> None:
    cache, slices = phantom_data
    image = dataclasses.replace(RECIPE.input, neighbours=neighbours, ends="air")
    loader = SliceLoader(cache, slices, dataclasses.replace(RECIPE, input=image))
    for batches in (
        loader.inference_batches(np.arange(len(slices))),
        loader.training_batches(np.arange(len(slices)), ADDRESS),
    ):
        found = stacked(list(batches))
        for _, series in slices.groupby("series"):
            of_series = series.index.to_numpy()
            for place, row in enumerate(of_series):
                for channel, offset in enumerate(range(-neighbours, neighbours + 1)):
                    outside = not 0 <= place + offset < len(of_series)
                    if row in found:  # training drops an incomplete last batch
                        assert (found[row][channel] == -1024).all() == outside


def test_the_order_of_slices_is_reversed_and_the_middle_stays(phantom_data) -> None:
    cache, slices = phantom_data
    off = AugmentationRecipe(
        probability=1.0, hflip=False, shift=0.0, scale=0.0, rotate=0.0, grid_limit=0.0, anchors=0.0, policy="each"
    )
    rows = np.arange(len(slices))
    plain, turned, half = (
        stacked(
            list(
                SliceLoader(cache, slices, dataclasses.replace(RECIPE, augmentation=augmentation)).training_batches(
                    rows, ADDRESS
                )
            )
        )
        for augmentation in (
            off,
            dataclasses.replace(off, reverse=True, reverse_probability=1.0),
            dataclasses.replace(off, reverse=True, reverse_probability=0.5),
        )
    )
    assert all(np.array_equal(stack, plain[row][::-1]) for row, stack in turned.items())
    differ = [row for row in plain if not np.array_equal(plain[row], turned[row])]
    reversed_rows = [row for row in differ if np.array_equal(half[row], turned[row])]
    assert all(np.array_equal(half[row], plain[row]) or row in reversed_rows for row in differ)
    assert 0.25 < len(reversed_rows) / len(differ) < 0.75


def test_defect_is_replaced_by_the_next_readable_slice(damaged) -> None:
    cache, slices = damaged
    found = stacked(list(SliceLoader(cache, slices, RECIPE).inference_batches(np.flatnonzero(cache.valid))))
    stacks = {0: (0, 0, 1), 1: (0, 1, 2), 2: (1, 2, 4), 4: (2, 4, 5), 5: (4, 5, 5)}
    assert set(found) == set(stacks)
    for row, rows in stacks.items():
        assert np.array_equal(found[row], [centre_crop(cache.read(other), 40) for other in rows])


@pytest.mark.parametrize(
    "on", ["all", "hflip", "affine", "grid", "anchors", "elastic"], ids=lambda name: name.replace("_", "-")
)
def test_all_slices_of_a_sample_get_the_same_transform(twins, on: str) -> None:
    """Identical slices stay identical."""
    cache, slices = twins
    off = {"hflip": False, "shift": 0.0, "scale": 0.0, "rotate": 0.0, "grid_limit": 0.0, "anchors": 0.0}
    one = {
        "all": {"elastic_alpha": 60.0, "hflip": True, "rotate": 25.0, "grid_limit": 0.25, "anchors": 5.0},
        "hflip": {"hflip": True},
        "affine": {"shift": 0.05, "scale": 0.075, "rotate": 25.0},
        "grid": {"grid_limit": 0.25},
        "anchors": {"anchors": 5.0},
        "elastic": {"elastic_alpha": 60.0},
    }[on]
    augmentation = AugmentationRecipe(**{**off, "probability": 1.0, **one})
    recipe = dataclasses.replace(RECIPE, augmentation=augmentation)
    rows = np.arange(60)
    batches = list(SliceLoader(cache, slices, recipe).training_batches(rows, ADDRESS))
    for row, stack in stacked(batches).items():
        assert np.array_equal(stack[0], stack[1])
        assert np.array_equal(stack[1], stack[2])
        assert not np.array_equal(stack[1], centre_crop(cache.read(row), 40))


def test_middle_slice_equals_that_of_a_recipe_without_neighbours(phantom_data) -> None:
    """Neighbours do not change the draws."""
    cache, slices = phantom_data
    alone = dataclasses.replace(RECIPE, input=dataclasses.replace(RECIPE.input, neighbours=0))
    rows = np.random.default_rng(1).permutation(len(slices))[:40]
    for one, three in zip(
        SliceLoader(cache, slices, alone).training_batches(rows, ADDRESS),
        SliceLoader(cache, slices, RECIPE).training_batches(rows, ADDRESS),
        strict=True,
    ):
        assert one.hu.shape == (4, 40, 40)
        assert three.hu.shape == (4, 3, 40, 40)
        assert torch.equal(three.hu[:, 1], one.hu)
        assert one.jitter is not None
        assert three.jitter is not None
        assert torch.equal(one.jitter, three.jitter)
        assert torch.equal(one.windows, three.windows)
        assert torch.equal(one.labels, three.labels)


@pytest.mark.parametrize("workers", [1, 2])
def test_stacks_do_not_depend_on_workers_or_batch_size(phantom_data, workers: int) -> None:
    cache, slices = phantom_data
    rows = np.random.default_rng(2).permutation(len(slices))[:30]
    for load in (
        lambda count: SliceLoader(cache, slices, RECIPE, workers=count).training_batches(rows, ADDRESS),
        lambda count: SliceLoader(cache, slices, RECIPE, workers=count).inference_batches(rows),
    ):
        for alone, shared in zip(load(0), load(workers), strict=True):
            assert torch.equal(alone.hu, shared.hu)
            assert torch.equal(alone.rows, shared.rows)
    complete = torch.cat([b.hu for b in SliceLoader(cache, slices, RECIPE).inference_batches(rows, batch=30)])
    parts = torch.cat([b.hu for b in SliceLoader(cache, slices, RECIPE).inference_batches(rows, batch=7)])
    assert torch.equal(complete, parts)


@pytest.mark.parametrize("start", [1, 3])
def test_epoch_of_stacks_resumes_in_the_middle(phantom_data, start: int) -> None:
    cache, slices = phantom_data
    rows = np.random.default_rng(3).permutation(len(slices))[:20]
    complete = list(SliceLoader(cache, slices, RECIPE).training_batches(rows, ADDRESS))
    rest = list(SliceLoader(cache, slices, RECIPE).training_batches(rows, ADDRESS, start=start))
    assert [batch.rows.tolist() for batch in rest] == [batch.rows.tolist() for batch in complete[start:]]
    assert all(torch.equal(a.hu, b.hu) for a, b in zip(rest, complete[start:], strict=True))


def test_slices_of_a_batch_are_decoded_once_in_inference(phantom_data, monkeypatch) -> None:
    cache, slices = phantom_data
    read: list[int] = []
    original = Cache.read
    monkeypatch.setattr(Cache, "read", lambda self, row, out=None: read.append(row) or original(self, row, out))
    batches = list(SliceLoader(cache, slices, RECIPE).inference_batches(np.arange(20), batch=20))
    assert len(batches) == 1
    assert read == list(range(21))
