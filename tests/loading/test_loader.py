import dataclasses
import gc
import pickle
import subprocess
import sys
import textwrap
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from small_dicom import head, write_catalog

from ichx.cache.build import ensure_cache
from ichx.cache.hu_cache import Cache, CacheSpec, shard_path
from ichx.cache.resize import fit_square
from ichx.ct.dicom import read_slice
from ichx.ct.geometry import head_centre, shift_to_centre
from ichx.datasets.add import AddRequest, add_dataset
from ichx.datasets.dataset import load_dataset
from ichx.errors import IchxError
from ichx.labels import LABELS
from ichx.loading.loader import Batch, centre_crop, inference_batches, training_batches
from ichx.loading.sampling import epoch_rows
from ichx.project import Project
from ichx.recipe import AugmentationRecipe, InputRecipe, ModelRecipe, Recipe, StageRecipe
from ichx.store import open_store
from ichx.workspace import init_workspace

RECIPE = Recipe(
    plugin="tiny",
    model=ModelRecipe("none"),
    input=InputRecipe(size=48, crop=40),
    stage=(StageRecipe("only", "all", 1, 1e-3),),
    batch=4,
    seed=5,
    augmentation=AugmentationRecipe(probability=0.9, elastic_alpha=60.0, window_shift=10.0, window_scale=0.2),
)
PLAIN = dataclasses.replace(RECIPE, augmentation=AugmentationRecipe(probability=0.0))
EPOCH = {"fold": 1, "stage": 0, "epoch": 2}
ROWS = np.array([9, 3, 17, 0, 12, 5, 1, 16, 2, 8, 7, 13, 4, 6], np.int64)


@pytest.fixture(scope="module")
def slices(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    source = tmp_path_factory.mktemp("loader") / "source"
    images = [head(centre=(26 + index % 5, 30 + index % 7), seed=index) for index in range(18)]
    catalog = write_catalog(source, images)
    catalog.attrs["source"] = str(source)
    return catalog


@pytest.fixture(scope="module")
def cache(slices: pd.DataFrame) -> Cache:
    source = Path(slices.attrs["source"])
    return ensure_cache(source.parent, "d", source, slices, CacheSpec(48, "slice", "bilinear"))


def _same(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) and all(
        all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("hu", "windows", "labels", "rows"))
        and (b.jitter is None if a.jitter is None else b.jitter is not None and torch.equal(a.jitter, b.jitter))
        for a, b in zip(first, second, strict=True)
    )


def test_inference_gives_every_row_once_in_order_and_cropped(cache, slices):
    batches = list(inference_batches(cache, slices, ROWS, RECIPE, workers=0))
    assert [len(batch.rows) for batch in batches] == [4, 4, 4, 2]
    assert torch.cat([batch.rows for batch in batches]).tolist() == ROWS.tolist()
    hu = torch.cat([batch.hu for batch in batches])
    assert hu.dtype == torch.int16
    assert hu.shape == (14, 40, 40)
    for image, row in zip(hu.numpy(), ROWS, strict=True):
        assert np.array_equal(image, cache.read(row)[4:44, 4:44])


def test_inference_takes_a_batch_size_of_its_own(cache, slices):
    sizes = [len(batch.rows) for batch in inference_batches(cache, slices, ROWS, RECIPE, batch=10, workers=0)]
    assert sizes == [10, 4]


def test_windows_and_labels_belong_to_their_rows(cache, slices):
    for batch in training_batches(cache, slices, ROWS, RECIPE, workers=0, **EPOCH):
        for row, window, labels in zip(batch.rows.tolist(), batch.windows, batch.labels, strict=True):
            assert window.tolist() == [40.0 + row, 80.0]
            assert labels.tolist() == slices.loc[row, list(LABELS)].tolist()
        assert (batch.windows.dtype, batch.labels.dtype, batch.rows.dtype) == (
            torch.float32,
            torch.float32,
            torch.int64,
        )


def test_labels_are_nan_where_the_dataset_has_none(cache, slices):
    unlabelled = slices.assign(**dict.fromkeys(LABELS, np.nan))
    for batch in inference_batches(cache, unlabelled, ROWS, RECIPE, workers=0):
        assert batch.labels.shape == (len(batch.rows), 6)
        assert batch.labels.isnan().all()


def test_real_slices_come_from_their_files_to_their_batches(tmp_path, shared_data):
    workspace = init_workspace(tmp_path)
    mini = shared_data / "rsna_mini"
    with open_store(workspace) as store:
        add_dataset(
            Project(workspace, store),
            AddRequest("rsna", mini / "stage_2_train", labels=mini / "stage_2_train.csv", folds=2),
        )
        data = load_dataset(Project(workspace, store), "rsna")
    spec = CacheSpec(48, "slice", "bilinear")
    cache = ensure_cache(workspace.cache_dir, "rsna", data.source, data.slices, spec, processes=1)
    rows = epoch_rows(np.zeros(20, bool), np.arange(20), "all", seed=0, **EPOCH)
    batches = list(training_batches(cache, data.slices, rows, PLAIN, workers=0, **EPOCH))
    assert torch.cat([batch.rows for batch in batches]).tolist() == rows.tolist()
    assert not torch.cat([batch.labels for batch in batches]).any()  # all twenty are labelled negative
    for image, row in zip(torch.cat([batch.hu for batch in batches]).numpy(), rows, strict=True):
        hu = read_slice(data.source / data.slices.loc[row, "file"]).hu
        expected = fit_square(shift_to_centre(hu, head_centre(hu)), 48, "bilinear")
        assert np.array_equal(image, expected[4:44, 4:44])


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_do_not_depend_on_the_number_of_workers(cache, slices, workers):
    alone = list(training_batches(cache, slices, ROWS, RECIPE, workers=0, **EPOCH))
    assert _same(list(training_batches(cache, slices, ROWS, RECIPE, workers=workers, **EPOCH)), alone)
    plain = list(inference_batches(cache, slices, ROWS, RECIPE, workers=0))
    assert _same(list(inference_batches(cache, slices, ROWS, RECIPE, workers=workers)), plain)


def test_a_sample_depends_on_its_address_and_not_on_its_place(cache, slices):
    def images(rows: np.ndarray, recipe: Recipe = RECIPE, **changed: int) -> dict[int, np.ndarray]:
        batches = list(training_batches(cache, slices, rows, recipe, workers=0, **{**EPOCH, **changed}))
        return {row: hu for batch in batches for row, hu in zip(batch.rows.tolist(), batch.hu.numpy(), strict=True)}

    first = images(ROWS[:12])
    assert all(np.array_equal(hu, first[row]) for row, hu in images(ROWS[:12][::-1]).items())
    for changed in ({"fold": 2}, {"stage": 1}, {"epoch": 3}):
        other = images(ROWS[:12], **changed)
        assert sum(np.array_equal(hu, first[row]) for row, hu in other.items()) < 6
    reseeded = images(ROWS[:12], dataclasses.replace(RECIPE, seed=6))
    assert sum(np.array_equal(hu, first[row]) for row, hu in reseeded.items()) < 6


def test_windows_jitter_per_sample_and_window_within_their_reach(cache, slices):
    def jitter(epoch: int, rows: np.ndarray = ROWS[:12], recipe: Recipe = RECIPE) -> dict[int, np.ndarray]:
        batches = training_batches(cache, slices, rows, recipe, workers=0, fold=0, stage=0, epoch=epoch)
        return {row: j for batch in batches for row, j in zip(batch.rows.tolist(), batch.jitter.numpy(), strict=True)}

    draws = np.array([list(jitter(epoch).values()) for epoch in range(60)])
    assert draws.shape == (60, 12, 3, 2)
    assert draws.dtype == np.float32
    shift, scale = draws[..., 0], draws[..., 1]
    assert (shift.min(), shift.max()) == pytest.approx((-10, 10), abs=0.1)
    assert (scale.min(), scale.max()) == pytest.approx((0.8, 1.2), abs=0.002)
    assert abs(shift.mean()) < 0.5  # 4 standard deviations
    assert abs(np.corrcoef(shift.reshape(-1, 3).T)[0, 1]) < 0.15
    turned = jitter(7, ROWS[:12][::-1])
    assert all(np.array_equal(j, turned[row]) for row, j in jitter(7).items())
    for still in (PLAIN, dataclasses.replace(RECIPE, augmentation=AugmentationRecipe())):
        assert all(b.jitter is None for b in training_batches(cache, slices, ROWS, still, workers=0, **EPOCH))
    assert all(batch.jitter is None for batch in inference_batches(cache, slices, ROWS, RECIPE, workers=0))


def test_memory_is_used_again_but_never_under_a_batch_that_is_held(cache, slices):
    rows = np.tile(np.arange(18), 4)
    held: list[tuple[Batch, torch.Tensor]] = []
    addresses = set()
    for number, batch in enumerate(inference_batches(cache, slices, rows, RECIPE, batch=6, workers=0)):
        addresses.add(batch.hu.data_ptr())
        if number % 3 == 0:
            held.append((batch, batch.hu.clone()))
        del batch
    assert len(addresses) < 12
    assert all(torch.equal(batch.hu, copy) for batch, copy in held)
    assert len({batch.hu.data_ptr() for batch, _ in held}) == len(held) == 4


def test_nothing_is_left_behind_by_an_epoch(cache, slices):
    def epochs(count: int) -> tuple[int, int]:
        for epoch in range(count):
            for _ in training_batches(cache, slices, ROWS, RECIPE, workers=0, fold=0, stage=0, epoch=epoch):
                pass
        gc.collect()
        return tracemalloc.get_traced_memory()[0], len(list(Path("/dev/fd").iterdir()))

    tracemalloc.start()
    try:
        before, open_before = epochs(3)
        after, open_after = epochs(40)
    finally:
        tracemalloc.stop()
    assert after - before < 40 * 48 * 48 * 2  # less than a slice per epoch
    assert open_after == open_before


def test_training_drops_a_ragged_last_batch_unless_it_is_the_only_one(cache, slices):
    def sizes(count: int) -> list[int]:
        return [len(batch.rows) for batch in training_batches(cache, slices, ROWS[:count], RECIPE, workers=0, **EPOCH)]

    assert [sizes(count) for count in (0, 3, 4, 7, 8, 14)] == [[], [3], [4], [4], [4, 4], [4, 4, 4]]


@pytest.mark.parametrize("start", [0, 1, 2, 3])
def test_an_epoch_resumed_in_the_middle_goes_on_exactly(cache, slices, start):
    whole = list(training_batches(cache, slices, ROWS, RECIPE, workers=0, **EPOCH))
    assert _same(list(training_batches(cache, slices, ROWS, RECIPE, workers=0, start=start, **EPOCH)), whole[start:])


@pytest.mark.parametrize("of", [2, 3])
def test_the_parts_of_a_batch_are_the_whole_of_it(cache, slices, of):
    """A batch is dealt as evenly as can be; what a slice becomes does not depend on which part it is in."""
    whole = list(training_batches(cache, slices, ROWS, RECIPE, workers=0, start=1, **EPOCH))
    parts = [
        list(training_batches(cache, slices, ROWS, RECIPE, workers=0, start=1, part=(k, of), **EPOCH))
        for k in range(of)
    ]
    for batch, *dealt in zip(whole, *parts, strict=True):
        sizes = [len(part.rows) for part in dealt]
        assert max(sizes) - min(sizes) <= 1
        for name in ("hu", "windows", "labels", "rows"):
            assert torch.equal(torch.cat([getattr(part, name) for part in dealt]), getattr(batch, name))


def test_without_augmentation_training_sees_the_cache(cache, slices):
    for batch in training_batches(cache, slices, ROWS, PLAIN, workers=0, **EPOCH):
        for row, image in zip(batch.rows.tolist(), batch.hu.numpy(), strict=True):
            assert np.array_equal(image, centre_crop(cache.read(row), 40))


@pytest.mark.parametrize(("size", "edge", "first"), [(256, 224, 16), (5, 3, 1), (6, 3, 1), (4, 4, 0)])
def test_the_crop_is_in_the_middle(size, edge, first):
    image = np.arange(size * size).reshape(size, size)
    cropped = centre_crop(image, edge)
    assert cropped.shape == (edge, edge)
    assert cropped[0, 0] == first * size + first
    assert centre_crop(image[None], edge).shape == (1, edge, edge)


@pytest.fixture
def damaged(tmp_path: Path) -> tuple[Cache, pd.DataFrame]:
    source = tmp_path / "source"
    slices = write_catalog(source, [head(seed=seed) for seed in range(6)])
    file = source / "2.dcm"
    file.write_bytes(file.read_bytes()[:-300])
    slices.loc[2, ["bytes", "mtime_ns"]] = [file.stat().st_size, file.stat().st_mtime_ns]
    return ensure_cache(tmp_path, "d", source, slices, CacheSpec(48, "none", "bilinear")), slices


def test_a_defect_is_never_loaded(damaged):
    cache, slices = damaged
    for load in (
        lambda rows: training_batches(cache, slices, rows, RECIPE, workers=0, **EPOCH),
        lambda rows: inference_batches(cache, slices, rows, RECIPE, workers=0),
    ):
        with pytest.raises(ValueError, match=r"rows \[2\] are defects"):
            load(np.arange(6))
        assert sum(len(batch.rows) for batch in load(np.flatnonzero(cache.valid))) >= 4


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_cache_is_told_by_its_own_error(damaged, workers):
    cache, slices = damaged
    shard_path(cache.folder, 0).unlink()
    with pytest.raises(IchxError, match="cannot be read") as caught:
        list(inference_batches(cache, slices, np.array([0, 1]), RECIPE, workers=workers))
    assert "00000.shard: No such file" in caught.value.problem
    assert "ichx data cache d --verify" in caught.value.remedy


def test_what_does_not_fit_is_refused_at_once(cache, slices):
    with pytest.raises(ValueError, match="18 slices"):
        inference_batches(cache, slices.iloc[:5], ROWS[:2], RECIPE, workers=0)
    for other in (InputRecipe(size=64, crop=40), InputRecipe(size=40)):
        with pytest.raises(ValueError, match="does not fit"):
            training_batches(cache, slices, ROWS, dataclasses.replace(RECIPE, input=other), workers=0, **EPOCH)


def test_an_abandoned_epoch_ends_quietly_with_its_process(cache, slices, tmp_path):
    (tmp_path / "arguments.pickle").write_bytes(pickle.dumps((cache, slices, RECIPE)))
    script = tmp_path / "abandon.py"
    script.write_text(
        textwrap.dedent(f"""
            import pickle
            from pathlib import Path
            import numpy as np
            from ichx.loading.loader import inference_batches

            if __name__ == "__main__":
                cache, slices, recipe = pickle.loads(Path({str(tmp_path / "arguments.pickle")!r}).read_bytes())
                next(iter(inference_batches(cache, slices, np.arange(16), recipe, workers=2)))
                print("done")
        """)
    )
    ended = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout) == (0, "done\n")
    assert "Traceback" not in ended.stderr
