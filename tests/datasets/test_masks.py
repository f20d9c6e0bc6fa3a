"""Masks: validated, stored with a version, and transformed like their slices."""

import re
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pandas as pd
import pytest
from dicom_files import head, write_study
from zip_files import zip_folder

from ichx.datasets.add import AddReport, AddRequest, add_dataset
from ichx.datasets.dataset import load_dataset, load_masks
from ichx.datasets.mask_png import MASKS_FILE, decode_mask
from ichx.datasets.masks import MASK_DEFECTS, known_masks
from ichx.errors import ChangedDataError, ConflictError, InvalidInputError, NotFoundError
from ichx.labels import LABELS
from ichx.phantom.dicom_files import PhantomFiles
from ichx.project import Project
from ichx.store import Store
from ichx.workspace import Workspace

SUBDURAL, EPIDURAL = 5, 1
SIDE = head().shape[0]


class Cohort:
    """Labelled slices, every second one with a subdural hematoma and its mask."""

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


def mask(row: int, value: int = SUBDURAL, side: int = SIDE) -> np.ndarray:
    pixels = np.zeros((side, side), np.uint8)
    pixels[8 + row : 14 + row, 10:15] = value
    return pixels


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    return Cohort(tmp_path / "cohort")


def add(workspace: Workspace, store: Store, cohort: Cohort, **options) -> AddReport:
    options = {"labels": cohort.labels, "folds": 2, "masks": cohort.masks} | options
    return add_dataset(Project(workspace, store), AddRequest("train", cohort.files, **options))


def mentions(messages: tuple[str, ...], *values: str) -> bool:
    """Return whether a message contains all `values`, in this order."""
    pattern = ".*".join(map(re.escape, values))
    return any(re.search(pattern, message) for message in messages)


def stored(workspace: Workspace, store: Store, number: int | None = None) -> dict[str, np.ndarray]:
    data = load_dataset(Project(workspace, store), "train", number)
    masks = load_masks(workspace, data)
    assert masks is not None
    return {data.slices.loc[row, "slice_id"]: decode_mask(png) for row, png in masks.items()}


def test_version_stores_the_masks(workspace: Workspace, store: Store, cohort: Cohort) -> None:
    report = add(workspace, store, cohort)
    assert mentions(report.messages, "8 slices", "SOPInstanceUID")
    assert not mentions(report.warnings, "mask")
    found = stored(workspace, store)
    assert set(found) == set(cohort.positive)
    for number, slice_id in enumerate(cohort.positive):
        assert np.array_equal(found[slice_id], mask(number))
    (cohort.masks / f"{cohort.positive[0]}.png").unlink()  # a version does not depend on the files
    assert set(stored(workspace, store)) == set(cohort.positive)


def test_changed_masks_create_a_version(workspace: Workspace, store: Store, cohort: Cohort) -> None:
    first = add(workspace, store, cohort)
    assert not add(workspace, store, cohort).created
    cohort.write(cohort.positive[1], mask(3))
    second = add(workspace, store, cohort)
    assert (second.version.number, second.version.label_digest) == (2, first.version.label_digest)
    assert mentions(second.messages, "version 1", "masks")
    assert np.array_equal(stored(workspace, store, 1)[cohort.positive[1]], mask(1))
    assert np.array_equal(stored(workspace, store)[cohort.positive[1]], mask(3))
    with pytest.raises(ConflictError, match="'train'"):
        add(workspace, store, cohort, masks=None)


def test_masks_in_a_zip(workspace: Workspace, store: Store, cohort: Cohort, tmp_path: Path) -> None:
    add(workspace, store, cohort)
    archive = zip_folder(cohort.masks, tmp_path / "all.zip", "set/masks/")
    again = add(workspace, store, cohort, masks=archive / "set" / "masks")
    assert not again.created


def test_masks_by_file_name(workspace: Workspace, store: Store, cohort: Cohort) -> None:
    """The ids of masks and labels are file names."""
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
    assert mentions(add(workspace, store, cohort).messages, "Masks of 16 slices", "file name")


def test_masks_without_slice_or_matching_labels_are_reported(
    workspace: Workspace, store: Store, cohort: Cohort
) -> None:
    negative = next(i for i in cohort.ids if i not in cohort.positive)
    cohort.write(negative, mask(0, EPIDURAL))
    cohort.write(cohort.positive[0], np.zeros((SIDE, SIDE), np.uint8))
    (cohort.masks / f"{cohort.positive[1]}.png").unlink()
    cohort.write("ID_nobody", mask(0))
    (cohort.masks / "notes.txt").write_text("drawn by hand")
    report = add(workspace, store, cohort)
    warnings = report.warnings
    assert mentions(warnings, "1 mask", f"{negative}: epidural")
    assert mentions(warnings, "1 mask", f"{cohort.positive[0]}: subdural")
    assert mentions(warnings, "1 positive slice", cohort.positive[1])
    assert mentions(warnings, "1 mask", "ID_nobody")
    assert mentions(warnings, "1 file", "PNG")
    summary = report.version.summary["masks"]
    counts = {
        name: summary[name] for name in ("slices", "absent", "others", "beyond_labels", "short_of_labels", "undrawn")
    }
    assert counts == {
        "slices": 8,
        "absent": 1,
        "others": 1,
        "beyond_labels": 1,
        "short_of_labels": 1,
        "undrawn": 1,
    }


def test_all_rejected_masks_are_reported_at_once(workspace: Workspace, store: Store, cohort: Cohort) -> None:
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
    with pytest.raises(InvalidInputError) as caught:
        add(workspace, store, cohort)
    problems = caught.value.problem.splitlines()
    expected = {
        "form": [deep, colour, notes],
        "damaged": [damaged],
        "size": [small],
        "value": [values],
        "twice": [twice],
    }
    assert len(problems) == len(expected)
    for defect, names in expected.items():
        (found,) = [problem for problem in problems if f"({MASK_DEFECTS[defect]})" in problem]
        assert f"{len(names)} mask" in found
        assert all(name in found for name in names)
    assert f"{SIDE // 2 + 8} x {SIDE // 2 + 8} instead of {SIDE} x {SIDE}" in caught.value.problem
    assert "1 epidural" in caught.value.remedy
    assert store.datasets() == []


def test_pixels_of_another_size_are_not_decoded(workspace: Workspace, store: Store, cohort: Cohort) -> None:
    """The header declares 4 gigapixels."""
    path = cohort.masks / f"{cohort.positive[0]}.png"
    content = bytearray(path.read_bytes())
    content[16:24] = (65535).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match="65535 x 65535"):
        add(workspace, store, cohort)


def test_texts_in_a_png_are_not_stored(workspace: Workspace, store: Store, cohort: Cohort) -> None:
    path = cohort.masks / f"{cohort.positive[0]}.png"
    content, text = path.read_bytes(), b"tEXtAuthor\0Jane Doe"
    chunk = (len(text) - 4).to_bytes(4, "big") + text + zlib.crc32(text).to_bytes(4, "big")
    path.write_bytes(content[:33] + chunk + content[33:])
    report = add(workspace, store, cohort)
    pngs = pd.read_parquet(workspace.root / report.version.path / MASKS_FILE)["png"]
    assert not any(b"Jane" in png for png in pngs)
    assert np.array_equal(stored(workspace, store)[cohort.positive[0]], mask(0))


def test_invalid_requests(workspace: Workspace, store: Store, cohort: Cohort, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="--labels"):
        add(workspace, store, cohort, labels=None)
    with pytest.raises(NotFoundError, match="nowhere"):
        add(workspace, store, cohort, masks=tmp_path / "nowhere")
    with pytest.raises(InvalidInputError, match=str(cohort.files)):
        add(workspace, store, cohort, masks=cohort.files)
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "someone.png").write_bytes(imagecodecs.png_encode(mask(0)))
    with pytest.raises(InvalidInputError, match="'someone'"):
        add(workspace, store, cohort, masks=tmp_path / "others")


def test_changed_and_removed_files_are_rejected(workspace: Workspace, store: Store, cohort: Cohort) -> None:
    report = add(workspace, store, cohort)
    path = workspace.root / report.version.path / MASKS_FILE
    pd.read_parquet(path).iloc[1:].to_parquet(path, index=False)
    data = load_dataset(Project(workspace, store), "train")
    with pytest.raises(ChangedDataError, match="7 masks instead of 8"):
        load_masks(workspace, data)
    path.unlink()
    with pytest.raises(ChangedDataError, match=str(path)):
        load_masks(workspace, data)


def test_masks_of_the_phantom(workspace: Workspace, store: Store, phantom: PhantomFiles) -> None:
    report = add_dataset(
        Project(workspace, store),
        AddRequest("ph", phantom.train, labels=phantom.train_labels, masks=phantom.train_masks, folds=2),
    )
    data = load_dataset(Project(workspace, store), "ph")
    masks = load_masks(workspace, data)
    assert masks is not None
    assert set(masks) == set(np.flatnonzero(data.slices["any"] > 0.5))
    assert not mentions(report.warnings, "mask")


def test_known_masks() -> None:
    slices = pd.DataFrame(np.zeros((4, 6)), columns=list(LABELS))
    slices.loc[1, ["subdural", "any"]] = 1.0
    slices.loc[2, ["epidural", "any"]] = 1.0
    assert known_masks(slices, np.array([2])).tolist() == [True, False, True, True]
