import dataclasses
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
from open_files import open_files
from small_dicom import head, write_catalog

from ichx.cache.build import ensure_cache
from ichx.cache.hu_cache import Cache, CacheSpec, shard_path
from ichx.cache.resize import fit_square
from ichx.ct.dicom import read_slice
from ichx.ct.geometry import head_centre, shift_to_centre
from ichx.datasets.add import AddRequest, add_dataset
from ichx.datasets.dataset import load_dataset
from ichx.errors import CorruptFileError, InvalidInputError
from ichx.labels import LABELS
from ichx.loading.augmentation import Augmenter
from ichx.loading.batch_reader import centre_crop
from ichx.loading.loader import Batch, SliceLoader
from ichx.loading.sampling import AUGMENTATION, EpochAddress, epoch_rows, generator, id_number
from ichx.project import Project
from ichx.recipe import AugmentationRecipe, InputRecipe, ModelRecipe, Recipe, StageRecipe
from ichx.store import open_store
from ichx.training.feed import EpochPlan
from ichx.training.slice_feed import SliceFeed
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
ADDRESS = EpochAddress(seed=5, fold=1, stage=0, epoch=2)
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


def test_inference_yields_every_row_once_in_order_and_cropped(cache, slices):
    batches = list(SliceLoader(cache, slices, RECIPE).inference_batches(ROWS))
    assert [len(batch.rows) for batch in batches] == [4, 4, 4, 2]
    assert torch.cat([batch.rows for batch in batches]).tolist() == ROWS.tolist()
    hu = torch.cat([batch.hu for batch in batches])
    assert hu.dtype == torch.int16
    assert hu.shape == (14, 40, 40)
    for image, row in zip(hu.numpy(), ROWS, strict=True):
        assert np.array_equal(image, cache.read(row)[4:44, 4:44])


def test_inference_batch_size(cache, slices):
    sizes = [len(batch.rows) for batch in SliceLoader(cache, slices, RECIPE).inference_batches(ROWS, batch=10)]
    assert sizes == [10, 4]


@pytest.mark.parametrize("first", [True, False])
def test_the_order_of_crop_and_transform_is_the_recipes(cache, slices, first):
    augmentation = AugmentationRecipe(probability=1.0, hflip=False, grid_limit=0.0, anchors=0.0, crop_first=first)
    recipe = dataclasses.replace(RECIPE, augmentation=augmentation)
    augmenter = Augmenter(augmentation, 40 if first else 48)
    for batch in SliceLoader(cache, slices, recipe).training_batches(ROWS, ADDRESS):
        for image, row in zip(batch.hu.numpy(), batch.rows.tolist(), strict=True):
            number = id_number(slices.loc[row, "slice_id"])
            transform = augmenter.draw(generator(AUGMENTATION, *ADDRESS, number))
            hu = cache.read(row)
            expected = transform(centre_crop(hu, 40)) if first else centre_crop(transform(hu), 40)
            assert np.array_equal(image, np.rint(expected).astype(np.int16))


def test_windows_and_labels_belong_to_their_rows(cache, slices):
    for batch in SliceLoader(cache, slices, RECIPE).training_batches(ROWS, ADDRESS):
        for row, window, labels in zip(batch.rows.tolist(), batch.windows, batch.labels, strict=True):
            assert window.tolist() == [40.0 + row, 80.0]
            assert labels.tolist() == slices.loc[row, list(LABELS)].tolist()
        assert (batch.windows.dtype, batch.labels.dtype, batch.rows.dtype) == (
            torch.float32,
            torch.float32,
            torch.int64,
        )


def test_missing_labels_are_nan(cache, slices):
    unlabelled = slices.assign(**dict.fromkeys(LABELS, np.nan))
    for batch in SliceLoader(cache, unlabelled, RECIPE).inference_batches(ROWS):
        assert batch.labels.shape == (len(batch.rows), 6)
        assert batch.labels.isnan().all()


def test_batches_of_real_slices(tmp_path, shared_data):
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
    rows = epoch_rows(np.zeros(20, bool), np.arange(20), "all", ADDRESS)
    batches = list(SliceLoader(cache, data.slices, PLAIN).training_batches(rows, ADDRESS))
    assert torch.cat([batch.rows for batch in batches]).tolist() == rows.tolist()
    assert not torch.cat([batch.labels for batch in batches]).any()  # all twenty are labelled negative
    for image, row in zip(torch.cat([batch.hu for batch in batches]).numpy(), rows, strict=True):
        hu = read_slice(data.source / data.slices.loc[row, "file"]).hu
        expected = fit_square(shift_to_centre(hu, head_centre(hu)), 48, "bilinear")
        assert np.array_equal(image, expected[4:44, 4:44])


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_do_not_depend_on_the_number_of_workers(cache, slices, workers):
    alone = list(SliceLoader(cache, slices, RECIPE).training_batches(ROWS, ADDRESS))
    assert _same(list(SliceLoader(cache, slices, RECIPE, workers=workers).training_batches(ROWS, ADDRESS)), alone)
    plain = list(SliceLoader(cache, slices, RECIPE).inference_batches(ROWS))
    assert _same(list(SliceLoader(cache, slices, RECIPE, workers=workers).inference_batches(ROWS)), plain)


def test_several_transforms_do_not_depend_on_workers_or_positions(cache, slices):
    augmentation = AugmentationRecipe(
        policy="each", elastic_alpha=60.0, crop_area=0.3, erase=0.1, noise=10.0, gamma=0.5, window_shift=10.0
    )
    recipe = dataclasses.replace(RECIPE, augmentation=augmentation)
    alone = list(SliceLoader(cache, slices, recipe).training_batches(ROWS, ADDRESS))
    assert _same(list(SliceLoader(cache, slices, recipe, workers=2).training_batches(ROWS, ADDRESS)), alone)
    rows = ROWS[:12]
    first, turned = (
        {
            row: (hu, jitter)
            for batch in SliceLoader(cache, slices, recipe).training_batches(order, ADDRESS)
            for row, hu, jitter in zip(batch.rows.tolist(), batch.hu.clone(), batch.jitter, strict=True)
        }
        for order in (rows, rows[::-1])
    )
    for row, (hu, jitter) in first.items():
        assert torch.equal(hu, turned[row][0])
        assert torch.equal(jitter, turned[row][1])
        assert jitter.shape == (3, 3)


def test_sample_depends_on_its_address_and_not_on_its_position(cache, slices):
    def images(rows: np.ndarray, **changed: int) -> dict[int, np.ndarray]:
        batches = list(SliceLoader(cache, slices, RECIPE).training_batches(rows, ADDRESS._replace(**changed)))
        return {row: hu for batch in batches for row, hu in zip(batch.rows.tolist(), batch.hu.numpy(), strict=True)}

    first = images(ROWS[:12])
    assert all(np.array_equal(hu, first[row]) for row, hu in images(ROWS[:12][::-1]).items())
    for changed in ({"seed": 6}, {"fold": 2}, {"stage": 1}, {"epoch": 3}):
        other = images(ROWS[:12], **changed)
        assert sum(np.array_equal(hu, first[row]) for row, hu in other.items()) < 6


def test_window_jitter_per_sample_and_window_is_within_its_limits(cache, slices):
    def jitter(epoch: int, rows: np.ndarray = ROWS[:12], recipe: Recipe = RECIPE) -> dict[int, np.ndarray]:
        batches = SliceLoader(cache, slices, recipe).training_batches(rows, ADDRESS._replace(epoch=epoch))
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
        assert all(b.jitter is None for b in SliceLoader(cache, slices, still).training_batches(ROWS, ADDRESS))
    assert all(batch.jitter is None for batch in SliceLoader(cache, slices, RECIPE).inference_batches(ROWS))


def test_memory_of_released_batches_is_reused(cache, slices):
    rows = np.tile(np.arange(18), 4)
    kept_alive: list[tuple[Batch, torch.Tensor]] = []
    addresses = set()
    for number, batch in enumerate(SliceLoader(cache, slices, RECIPE).inference_batches(rows, batch=6)):
        addresses.add(batch.hu.data_ptr())
        if number % 3 == 0:
            kept_alive.append((batch, batch.hu.clone()))
        del batch
    assert len(addresses) < 12
    assert all(torch.equal(batch.hu, copy) for batch, copy in kept_alive)
    assert len({batch.hu.data_ptr() for batch, _ in kept_alive}) == len(kept_alive) == 4


def test_epochs_use_the_memory_of_earlier_ones(cache, slices):
    loader = SliceLoader(cache, slices, RECIPE)
    kept_alive, addresses, alone = [], [], []
    for epoch in range(4):
        address = ADDRESS._replace(epoch=epoch)
        of_epoch = set()
        for number, batch in enumerate(loader.training_batches(np.tile(np.arange(18), 3), address)):
            of_epoch.add(batch.hu.data_ptr())
            if number == 2:
                kept_alive.append(batch.hu)
                alone.append(batch.hu.clone())
            del batch
        addresses.append(of_epoch)
        for _ in loader.inference_batches(np.arange(7)):  # the last batch is incomplete
            pass
    assert len(set.union(*addresses)) < sum(map(len, addresses))
    assert addresses[1] & addresses[0]
    assert all(torch.equal(one, copy) for one, copy in zip(kept_alive, alone, strict=True))


def test_processes_get_complete_studies_or_none_starts(cache, slices):
    stage = dataclasses.replace(RECIPE.stage[0], sampling="grouped", per_study=2)
    feed = SliceFeed(cache, slices, dataclasses.replace(RECIPE, stage=(stage,), batch=12))
    plan = EpochPlan(0, 0, np.arange(12), 12)
    for count in (2, 3, 6):
        parts = [next(feed.training_batches(plan, part=(part, count))).rows.tolist() for part in range(count)]
        assert all(rows[::2] == [row - 1 for row in rows[1::2]] for rows in parts)
    for count in (4, 5, 7):  # 12 // 5 and 12 // 7 are not the sizes of all parts
        with pytest.raises(InvalidInputError, match="must stay together"):
            next(feed.training_batches(plan, part=(0, count)))


def test_epoch_leaks_no_memory_or_files(cache, slices):
    def epochs(count: int) -> tuple[int, int]:
        for epoch in range(count):
            for _ in SliceLoader(cache, slices, RECIPE).training_batches(ROWS, ADDRESS._replace(epoch=epoch)):
                pass
        number = open_files()
        return tracemalloc.get_traced_memory()[0], number

    tracemalloc.start()
    try:
        before, open_before = epochs(3)
        after, open_after = epochs(40)
    finally:
        tracemalloc.stop()
    assert after - before < 40 * 48 * 48 * 2  # less than a slice per epoch
    assert open_after == open_before


def test_training_drops_an_incomplete_last_batch_unless_it_is_the_only_one(cache, slices):
    def sizes(count: int) -> list[int]:
        return [len(batch.rows) for batch in SliceLoader(cache, slices, RECIPE).training_batches(ROWS[:count], ADDRESS)]

    assert [sizes(count) for count in (0, 3, 4, 7, 8, 14)] == [[], [3], [4], [4], [4, 4], [4, 4, 4]]


@pytest.mark.parametrize("start", [0, 1, 2, 3])
def test_epoch_resumes_exactly_in_the_middle(cache, slices, start):
    complete = list(SliceLoader(cache, slices, RECIPE).training_batches(ROWS, ADDRESS))
    assert _same(
        list(SliceLoader(cache, slices, RECIPE).training_batches(ROWS, ADDRESS, start=start)), complete[start:]
    )


@pytest.mark.parametrize("of", [2, 3])
def test_parts_of_a_batch_add_up_to_it(cache, slices, of):
    """The parts are as even as possible, and augmentation does not depend on the part."""
    complete = list(SliceLoader(cache, slices, RECIPE).training_batches(ROWS, ADDRESS, start=1))
    parts = [
        list(SliceLoader(cache, slices, RECIPE).training_batches(ROWS, ADDRESS, start=1, part=(k, of)))
        for k in range(of)
    ]
    for batch, *of_batch in zip(complete, *parts, strict=True):
        sizes = [len(part.rows) for part in of_batch]
        assert max(sizes) - min(sizes) <= 1
        for name in ("hu", "windows", "labels", "rows"):
            assert torch.equal(torch.cat([getattr(part, name) for part in of_batch]), getattr(batch, name))


def test_training_without_augmentation_reads_the_cache(cache, slices):
    for batch in SliceLoader(cache, slices, PLAIN).training_batches(ROWS, ADDRESS):
        for row, image in zip(batch.rows.tolist(), batch.hu.numpy(), strict=True):
            assert np.array_equal(image, centre_crop(cache.read(row), 40))


@pytest.mark.parametrize(("size", "edge", "first"), [(256, 224, 16), (5, 3, 1), (6, 3, 1), (4, 4, 0)])
def test_crop_is_in_the_middle(size, edge, first):
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


def test_defect_is_never_loaded(damaged):
    cache, slices = damaged
    for load in (
        lambda rows: SliceLoader(cache, slices, RECIPE).training_batches(rows, ADDRESS),
        lambda rows: SliceLoader(cache, slices, RECIPE).inference_batches(rows),
    ):
        with pytest.raises(ValueError, match=r"rows \[2\] are defects"):
            load(np.arange(6))
        assert sum(len(batch.rows) for batch in load(np.flatnonzero(cache.valid))) >= 4


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_cache_is_an_error(damaged, workers):
    cache, slices = damaged
    shard_path(cache.folder, 0).unlink()
    with pytest.raises(CorruptFileError, match=r"00000\.shard: No such file") as caught:
        list(SliceLoader(cache, slices, RECIPE, workers=workers).inference_batches(np.array([0, 1])))
    assert "ichx data cache d --verify" in caught.value.remedy


def test_mismatch_of_cache_dataset_and_recipe_is_an_error(cache, slices):
    with pytest.raises(ValueError, match="18 slices.* 5"):
        SliceLoader(cache, slices.iloc[:5], RECIPE).inference_batches(ROWS[:2])
    for other in (InputRecipe(size=64, crop=40), InputRecipe(size=40)):
        with pytest.raises(ValueError, match="48 .*(64|40)"):
            SliceLoader(cache, slices, dataclasses.replace(RECIPE, input=other)).training_batches(ROWS, ADDRESS)


def test_process_can_exit_in_the_middle_of_an_epoch(cache, slices, tmp_path):
    (tmp_path / "arguments.pickle").write_bytes(pickle.dumps((cache, slices, RECIPE)))
    script = tmp_path / "abandon.py"
    script.write_text(
        textwrap.dedent(f"""
            import pickle
            from pathlib import Path
            import numpy as np
            from ichx.loading.loader import SliceLoader

            if __name__ == "__main__":
                cache, slices, recipe = pickle.loads(Path({str(tmp_path / "arguments.pickle")!r}).read_bytes())
                next(iter(SliceLoader(cache, slices, recipe, workers=2).inference_batches(np.arange(16))))
                print("done")
        """)
    )
    ended = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=900)
    assert (ended.returncode, ended.stdout) == (0, "done\n")
    assert "Traceback" not in ended.stderr
