"""Masks: attached, checked, kept with a version - and moved as their slices are, whatever is done to these."""

import dataclasses
import zlib
from collections.abc import Iterator
from pathlib import Path

import imagecodecs
import numpy as np
import pandas as pd
import pytest
import torch
from dicom_files import head, write_study
from small_dicom import write_catalog
from zip_files import zip_folder

from ichx.cache.build import ensure_cache
from ichx.cache.hu_cache import Cache, CacheSpec
from ichx.cache.mask_cache import MaskCache, ensure_masks
from ichx.cache.resize import fit_mask
from ichx.datasets.add import AddReport, AddRequest, add_dataset
from ichx.datasets.dataset import load_dataset, load_masks
from ichx.datasets.masks import MASKS_FILE, UNKNOWN, decode_mask, drawn
from ichx.errors import IchxError
from ichx.labels import LABELS
from ichx.loading.loader import inference_batches, training_batches
from ichx.phantom.dicom_files import PhantomFiles
from ichx.project import Project
from ichx.recipe import AugmentationRecipe, InputRecipe, ModelRecipe, Recipe, StageRecipe
from ichx.store import Store, open_store
from ichx.workspace import Workspace, init_workspace

SUBDURAL, EPIDURAL = 5, 1
SIDE = head().shape[0]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return init_workspace(tmp_path / "workspace")


@pytest.fixture
def store(workspace: Workspace) -> Iterator[Store]:
    with open_store(workspace) as opened:
        yield opened


class Cohort:
    """Slices with labels, every second one subdural, and a mask for each of these."""

    def __init__(self, root: Path) -> None:
        self.files, self.labels, self.masks = root / "files", root / "labels.csv", root / "masks"
        self.ids = [i for p in range(4) for i in write_study(self.files / f"p{p}", str(p), 4)]
        self.positive = self.ids[::2]
        rows = [
            f"{i}_{name},{int(i in self.positive and name in ('subdural', 'any'))}" for i in self.ids for name in LABELS
        ]
        self.labels.write_text("ID,Label\n" + "\n".join(rows) + "\n")
        self.masks.mkdir()
        for number, slice_id in enumerate(self.positive):
            self.write(slice_id, mask(number))

    def write(self, slice_id: str, pixels: np.ndarray) -> Path:
        path = self.masks / f"{slice_id}.png"
        path.write_bytes(imagecodecs.png_encode(pixels))
        return path


def mask(place: int, value: int = SUBDURAL, side: int = SIDE) -> np.ndarray:
    pixels = np.zeros((side, side), np.uint8)
    pixels[8 + place : 14 + place, 10:15] = value
    return pixels


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    return Cohort(tmp_path / "cohort")


def add(workspace: Workspace, store: Store, cohort: Cohort, **options) -> AddReport:
    given = {"labels": cohort.labels, "folds": 2, "masks": cohort.masks} | options
    return add_dataset(Project(workspace, store), AddRequest("train", cohort.files, **given))


def told(report: AddReport) -> str:
    return "\n".join(report.messages + report.warnings)


def kept(workspace: Workspace, store: Store, number: int | None = None) -> dict[str, np.ndarray]:
    data = load_dataset(Project(workspace, store), "train", number)
    masks = load_masks(workspace, data)
    assert masks is not None
    return {data.slices.loc[row, "slice_id"]: decode_mask(png) for row, png in masks.items()}


def test_a_version_keeps_the_masks(workspace: Workspace, store: Store, cohort: Cohort) -> None:
    report = add(workspace, store, cohort)
    assert "masks of 8 slices, matched by SOPInstanceUID" in told(report)
    assert "mask" not in "\n".join(report.warnings)
    found = kept(workspace, store)
    assert set(found) == set(cohort.positive)
    for number, slice_id in enumerate(cohort.positive):
        assert np.array_equal(found[slice_id], mask(number))
    (cohort.masks / f"{cohort.positive[0]}.png").unlink()  # what is added does not hang on the files
    assert set(kept(workspace, store)) == set(cohort.positive)


def test_changed_masks_make_a_version(workspace: Workspace, store: Store, cohort: Cohort) -> None:
    first = add(workspace, store, cohort)
    assert not add(workspace, store, cohort).created
    cohort.write(cohort.positive[1], mask(3))
    second = add(workspace, store, cohort)
    assert (second.version.number, second.version.label_digest) == (2, first.version.label_digest)
    assert "changed since version 1: the masks" in told(second)
    assert np.array_equal(kept(workspace, store, 1)[cohort.positive[1]], mask(1))
    assert np.array_equal(kept(workspace, store)[cohort.positive[1]], mask(3))
    with pytest.raises(IchxError, match="has masks in its earlier versions"):
        add(workspace, store, cohort, masks=None)


def test_masks_in_a_zip_are_the_same(workspace: Workspace, store: Store, cohort: Cohort, tmp_path: Path) -> None:
    add(workspace, store, cohort)
    archive = zip_folder(cohort.masks, tmp_path / "all.zip", "set/masks/")
    again = add(workspace, store, cohort, masks=archive / "set" / "masks")
    assert not again.created


def test_masks_by_file_name(workspace: Workspace, store: Store, cohort: Cohort) -> None:
    """Where masks and labels speak of file names, all of them do."""
    names = {path: f"head{number}" for number, path in enumerate(sorted(cohort.files.rglob("*.dcm")))}
    rows = []
    for path, name in names.items():
        path.rename(path.with_name(f"{name}.dcm"))
        rows += [f"{name}_{label},{int(label in ('subdural', 'any'))}" for label in LABELS]
    cohort.labels.write_text("ID,Label\n" + "\n".join(rows) + "\n")
    for old in cohort.masks.iterdir():
        old.unlink()
    for name in names.values():
        cohort.write(name, mask(0))
    assert "masks of 16 slices, matched by file name" in told(add(workspace, store, cohort))


def test_what_does_not_fit_is_told(workspace: Workspace, store: Store, cohort: Cohort) -> None:
    negative = next(i for i in cohort.ids if i not in cohort.positive)
    cohort.write(negative, mask(0, EPIDURAL))
    cohort.write(cohort.positive[0], np.zeros((SIDE, SIDE), np.uint8))
    (cohort.masks / f"{cohort.positive[1]}.png").unlink()
    cohort.write("ID_nobody", mask(0))
    (cohort.masks / "notes.txt").write_text("drawn by hand")
    report = add(workspace, store, cohort)
    warnings = "\n".join(report.warnings)
    assert f"1 mask with a subtype that the labels lack: {negative} (epidural)" in warnings
    assert f"1 mask without a subtype of the labels: {cohort.positive[0]} (subdural)" in warnings
    assert f"1 positive slice without a mask: {cohort.positive[1]}" in warnings
    assert "1 mask of no slice: ID_nobody" in warnings
    assert "1 file beside the masks that are no PNG" in warnings
    facts = report.version.summary["masks"]
    counts = {
        name: facts[name] for name in ("slices", "absent", "others", "beyond_labels", "short_of_labels", "undrawn")
    }
    assert counts == {
        "slices": 8,
        "absent": 1,
        "others": 1,
        "beyond_labels": 1,
        "short_of_labels": 1,
        "undrawn": 1,
    }


def test_all_refused_masks_are_told_at_once(workspace: Workspace, store: Store, cohort: Cohort) -> None:
    damaged, small, deep, colour, values, twice, notes = cohort.positive[:7]
    content = cohort.write(damaged, mask(0)).read_bytes()
    (cohort.masks / f"{damaged}.png").write_bytes(content[:-30])
    cohort.write(small, mask(0, side=SIDE // 2 + 8))
    cohort.write(deep, mask(0).astype(np.uint16))
    cohort.write(colour, np.dstack([mask(0)] * 3))
    cohort.write(values, mask(0, 6))
    (cohort.masks / "more").mkdir()
    (cohort.masks / "more" / f"{twice}.png").write_bytes(content)
    (cohort.masks / f"{notes}.png").write_text("no picture at all, but a text of some length")
    with pytest.raises(IchxError) as caught:
        add(workspace, store, cohort)
    problems = caught.value.problem.splitlines()
    assert len(problems) == 5
    expected = {
        "3 masks refused: no PNG of 8-bit grey values": [deep, colour, notes],
        "1 mask refused: damaged": [damaged],
        "1 mask refused: not of the slice's size": [small],
        "1 mask refused: a value beyond 5": [values],
        "1 mask refused: the slice has another one": [twice],
    }
    for line, names in expected.items():
        (found,) = [problem for problem in problems if line in problem]
        assert all(name in found for name in names)
    assert f"{SIDE // 2 + 8} x {SIDE // 2 + 8} instead of {SIDE} x {SIDE}" in caught.value.problem
    assert "1 epidural" in caught.value.remedy
    assert store.datasets() == []


def test_a_picture_of_another_size_is_not_unpacked(workspace: Workspace, store: Store, cohort: Cohort) -> None:
    """A header that promises 4 gigapixels costs nothing."""
    path = cohort.masks / f"{cohort.positive[0]}.png"
    content = bytearray(path.read_bytes())
    content[16:24] = (65535).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)
    with pytest.raises(IchxError, match="65535 x 65535 instead of"):
        add(workspace, store, cohort)


def test_texts_of_a_picture_are_not_kept(workspace: Workspace, store: Store, cohort: Cohort) -> None:
    path = cohort.masks / f"{cohort.positive[0]}.png"
    content, said = path.read_bytes(), b"tEXtAuthor\0Jane Doe"
    chunk = (len(said) - 4).to_bytes(4, "big") + said + zlib.crc32(said).to_bytes(4, "big")
    path.write_bytes(content[:33] + chunk + content[33:])
    report = add(workspace, store, cohort)
    pngs = pd.read_parquet(workspace.root / report.version.path / MASKS_FILE)["png"]
    assert not any(b"Jane" in png for png in pngs)
    assert np.array_equal(kept(workspace, store)[cohort.positive[0]], mask(0))


def test_requests_that_make_no_sense(workspace: Workspace, store: Store, cohort: Cohort, tmp_path: Path) -> None:
    with pytest.raises(IchxError, match="there are no --labels"):
        add(workspace, store, cohort, labels=None)
    with pytest.raises(IchxError, match="there is no folder"):
        add(workspace, store, cohort, masks=tmp_path / "nowhere")
    with pytest.raises(IchxError, match="there is no PNG in"):
        add(workspace, store, cohort, masks=cohort.files)
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "someone.png").write_bytes(imagecodecs.png_encode(mask(0)))
    with pytest.raises(IchxError, match=r"no id in .* belongs to a slice"):
        add(workspace, store, cohort, masks=tmp_path / "others")


def test_a_lost_or_changed_file_is_told(workspace: Workspace, store: Store, cohort: Cohort) -> None:
    report = add(workspace, store, cohort)
    path = workspace.root / report.version.path / MASKS_FILE
    pd.read_parquet(path).iloc[1:].to_parquet(path, index=False)
    data = load_dataset(Project(workspace, store), "train")
    with pytest.raises(IchxError, match="were changed: 7 masks instead of 8"):
        load_masks(workspace, data)
    path.unlink()
    with pytest.raises(IchxError, match="cannot be read"):
        load_masks(workspace, data)


def test_the_phantoms_masks_go_with_its_slices(workspace: Workspace, store: Store, phantom: PhantomFiles) -> None:
    report = add_dataset(
        Project(workspace, store),
        AddRequest("ph", phantom.train, labels=phantom.train_labels, masks=phantom.train_masks, folds=2),
    )
    data = load_dataset(Project(workspace, store), "ph")
    masks = load_masks(workspace, data)
    assert masks is not None
    assert set(masks) == set(np.flatnonzero(data.slices["any"] > 0.5))
    assert not any("mask" in warning for warning in report.warnings)


# What the loader makes of them


def blob(number: int, rows: int = 64, columns: int = 64) -> np.ndarray:
    """Return a mask with a disc of some subtype, whose place and size go by `number`."""
    y, x = np.mgrid[:rows, :columns]
    disc = (y - 22 - number % 9) ** 2 + (x - 24 - number % 7) ** 2 < (8 + number % 4) ** 2
    return np.where(disc, 1 + number % 5, 0).astype(np.uint8)


def as_hu(mask: np.ndarray) -> np.ndarray:
    """Return a slice that shows its mask: 100 HU and more over a head of 0 HU in air."""
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]]
    skull = (y - 30) ** 2 + (x - 33) ** 2 < 26**2
    return np.where(mask > 0, 500 * mask.astype(np.int16), np.where(skull, 0, -1000)).astype(np.int16)


@dataclasses.dataclass
class Data:
    source: Path
    slices: pd.DataFrame
    pngs: dict[int, bytes]
    folder: Path

    def caches(self, centre: str, size: int = 48) -> tuple[Cache, MaskCache]:
        spec = CacheSpec(size, centre, "bilinear")
        cache = ensure_cache(self.folder, "d", self.source, self.slices, spec, processes=1)
        return cache, ensure_masks(cache, self.pngs, "digest", self.source, self.slices, processes=1)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """Return 18 slices that show their masks; of row 3 nobody has drawn one, and row 5 is negative."""
    root = tmp_path_factory.mktemp("masks")
    masks = [blob(number) for number in range(18)]
    masks[5][:] = 0
    slices = write_catalog(root / "source", [as_hu(one) for one in masks])
    slices[list(LABELS)] = 1.0
    slices.loc[5, list(LABELS)] = 0.0
    pngs = {row: imagecodecs.png_encode(one) for row, one in enumerate(masks) if row not in (3, 5)}
    return Data(root / "source", slices, pngs, root)


def recipe(**augmentation: float) -> Recipe:
    off = dict.fromkeys(("shift", "scale", "rotate", "grid_limit", "anchors"), 0.0) | {"hflip": False}
    return Recipe(
        plugin="tiny",
        model=ModelRecipe("none"),
        input=InputRecipe(size=48, crop=40),
        stage=(StageRecipe("only", "all", 1, 1e-3),),
        batch=6,
        augmentation=AugmentationRecipe(**(off | {"probability": 1.0} | augmentation)),
    )


def agreement(hu: np.ndarray, mask: np.ndarray) -> float:
    """Return the overlap of a mask and of what its slice shows, intersection over union."""
    value = int(mask.max())
    shown = hu > 250 * value if value else hu > 250
    return float((shown & (mask > 0)).sum() / max((shown | (mask > 0)).sum(), 1))


@pytest.mark.parametrize("centre", ["none", "slice", "series"])
@pytest.mark.parametrize(
    "augmentation",
    [
        {},
        {"hflip": True},
        {"shift": 0.1, "scale": 0.2, "rotate": 40.0},
        {"grid_limit": 0.3, "grid_steps": 6},
        {"anchors": 8.0},
        {"elastic_alpha": 120.0, "elastic_sigma": 8.0},
        {"hflip": True, "rotate": 25.0, "grid_limit": 0.2, "anchors": 5.0, "elastic_alpha": 60.0},
    ],
    ids=lambda given: "+".join(given) or "none",
)
def test_a_mask_goes_where_its_slice_goes(shown: Data, centre: str, augmentation: dict[str, float]) -> None:
    cache, masks = shown.caches(centre)
    rows = np.array([0, 1, 2, 4, 6, 7, 8, 9, 10, 11, 12, 13])
    moved = still = 0
    batches = training_batches(
        cache, shown.slices, rows, recipe(**augmentation), fold=0, stage=0, epoch=1, workers=0, masks=masks
    )
    for batch in batches:
        assert batch.masks is not None
        for row, hu, mask in zip(batch.rows.tolist(), batch.hu.numpy(), batch.masks.numpy(), strict=True):
            assert set(np.unique(mask)) == {0, 1 + row % 5}
            assert agreement(hu, mask) > 0.8
            unmoved = masks.read(row)[4:44, 4:44]
            moved += not np.array_equal(mask, unmoved)
            still += np.array_equal(mask, unmoved)
    assert (moved > 8) if augmentation else (still == len(rows))


def test_among_neighbours_the_mask_is_that_of_the_slice_itself(shown: Data) -> None:
    cache, masks = shown.caches("series")
    varied = recipe(hflip=True, rotate=25.0)
    stacked = dataclasses.replace(varied, input=dataclasses.replace(varied.input, centre="series", neighbours=1))
    rows = np.array([1, 2, 7, 8, 10, 11])
    (batch,) = training_batches(cache, shown.slices, rows, stacked, fold=0, stage=0, epoch=1, workers=0, masks=masks)
    assert batch.masks is not None
    assert batch.hu.shape == (6, 3, 40, 40)
    assert batch.masks.shape == (6, 40, 40)
    for hu, mask in zip(batch.hu.numpy(), batch.masks.numpy(), strict=True):
        assert agreement(hu[1], mask) > 0.8


def test_what_comes_from_outside_is_background(shown: Data) -> None:
    """At 45 degrees the corners of a mask that fills its slice come from outside."""
    whole = {row: imagecodecs.png_encode(np.full((64, 64), 4, np.uint8)) for row in range(18)}
    data = dataclasses.replace(shown, pngs=whole)
    spec = CacheSpec(48, "none", "bilinear")
    cache = ensure_cache(data.folder, "d", data.source, data.slices, spec, processes=1)
    masks = ensure_masks(cache, whole, "full", data.source, data.slices, processes=1)
    (batch, *_) = training_batches(
        cache, data.slices, np.arange(6), recipe(rotate=45.0), fold=0, stage=0, epoch=1, workers=0, masks=masks
    )
    assert batch.masks is not None
    assert set(batch.masks.unique().tolist()) == {0, 4}


def test_what_nobody_has_drawn_is_unknown_and_a_negative_slice_empty(shown: Data) -> None:
    cache, masks = shown.caches("slice")
    assert masks.known.tolist() == [row != 3 for row in range(18)]
    (batch,) = inference_batches(cache, shown.slices, np.arange(18), recipe(), batch=18, workers=0, masks=masks)
    assert batch.masks is not None
    assert batch.masks.dtype == torch.uint8
    assert (batch.masks[3] == UNKNOWN).all()
    assert not batch.masks[5].any()
    assert (batch.masks != UNKNOWN).all(dim=2).all(dim=1).tolist() == masks.known.tolist()


def test_masks_do_not_depend_on_workers_and_leave_slices_alone(shown: Data) -> None:
    cache, masks = shown.caches("slice")
    varied = recipe(hflip=True, rotate=25.0, elastic_alpha=60.0)
    address = {"fold": 0, "stage": 0, "epoch": 1}
    rows = np.arange(18)
    without = list(training_batches(cache, shown.slices, rows, varied, workers=0, **address))
    here = list(training_batches(cache, shown.slices, rows, varied, workers=0, masks=masks, **address))
    there = list(training_batches(cache, shown.slices, rows, varied, workers=2, masks=masks, **address))
    for plain, first, second in zip(without, here, there, strict=True):
        assert plain.masks is None
        assert first.masks is not None
        assert second.masks is not None
        assert torch.equal(first.masks, second.masks)
        assert torch.equal(plain.hu, first.hu)


def test_prepared_masks_are_kept_and_damage_is_told(shown: Data, tmp_path: Path) -> None:
    data = dataclasses.replace(shown, folder=tmp_path)
    _, masks = data.caches("slice")
    before = masks.path.stat().st_mtime_ns
    assert data.caches("slice")[1].path.stat().st_mtime_ns == before
    content = bytearray(masks.path.read_bytes())
    content[5] ^= 255
    masks.path.write_bytes(content)
    damaged = data.caches("slice")[1]
    with pytest.raises(IchxError, match=r"the mask of slice 0 in .* cannot be read"):
        damaged.read(0)
    masks.path.write_bytes(content[:-10])  # cut: made again
    assert np.array_equal(data.caches("slice")[1].read(0), shown.caches("slice")[1].read(0))


def test_slices_that_are_not_square(tmp_path: Path) -> None:
    masks = [blob(number, 64, 48) for number in range(2)]
    slices = write_catalog(tmp_path / "source", [as_hu(one) for one in masks])
    data = Data(tmp_path / "source", slices, {i: imagecodecs.png_encode(m) for i, m in enumerate(masks)}, tmp_path)
    for centre in ("none", "slice"):
        cache, prepared = data.caches(centre)
        for row in range(2):
            mask = prepared.read(row)
            assert mask is not None
            assert agreement(cache.read(row), mask) > 0.8


def test_resizing_invents_no_subtype() -> None:
    mask = np.zeros((40, 30), np.uint8)
    mask[10:20, 5:15], mask[20:30, 5:15] = 1, 5
    for size in (16, 33, 100):
        small = fit_mask(mask, size)
        assert small.shape == (size, size)
        assert set(np.unique(small)) == {0, 1, 5}


def test_known_masks_are_those_drawn_and_those_of_negative_slices() -> None:
    slices = pd.DataFrame(np.zeros((4, 6)), columns=list(LABELS))
    slices.loc[1, ["subdural", "any"]] = 1.0
    slices.loc[2, ["epidural", "any"]] = 1.0
    assert drawn(slices, np.array([2])).tolist() == [True, False, True, True]
