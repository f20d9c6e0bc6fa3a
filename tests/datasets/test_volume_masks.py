"""NIfTI masks of volumes: compared with volume and labels, and cut into the masks of slices."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from conftest import Program
from nibabel import orientations

from ichx.datasets.formats.volume_files import write_volume
from ichx.datasets.mask_png import MASKS_FILE, decode_mask
from ichx.labels import LABELS
from ichx.phantom.study import PhantomStudy, make_study
from ichx.workspace import init_workspace

NAMES = ("a", "b")


@pytest.fixture(scope="module")
def studies() -> dict[str, PhantomStudy]:
    """Return two studies, with slices of one and of several subtypes."""
    seeds = dict(zip(NAMES, (1, 2), strict=True))
    return {name: make_study(seed, 0, size=48, prevalence={"any": 0.4}) for name, seed in seeds.items()}


@pytest.fixture
def files(tmp_path: Path, studies: dict[str, PhantomStudy]) -> Path:
    """Return a folder with `images`, `masks` (0 to 5), `labels.csv` and a workspace `ws`."""
    init_workspace(tmp_path / "ws")
    rows = []
    for name, study in studies.items():
        write_volume(tmp_path / "images" / f"{name}.nii.gz", study.hu, study)
        write_volume(tmp_path / "masks" / f"{name}.nii.gz", study.mask, study)
        rows += [(f"{name}#{number:03d}", *labels) for number, labels in enumerate(study.labels, start=1)]
    pd.DataFrame(rows, columns=["image", *LABELS]).to_csv(tmp_path / "labels.csv", index=False)
    return tmp_path


def add(ichx: Program, files: Path, *arguments: object, labels: bool = True) -> None:
    given = ("--labels", files / "labels.csv") if labels else ()
    options = ("--masks", files / "masks", "--folds", 2, *given, *arguments)
    done = ichx("data", "add", "v", files / "images", *options, cwd=files / "ws")
    assert done.code == 0, done.err


def stored(files: Path) -> dict[str, np.ndarray]:
    table = pd.read_parquet(files / "ws" / "datasets" / "v" / "v1" / MASKS_FILE)
    return {slice_id: decode_mask(png) for slice_id, png in zip(table["slice_id"], table["png"], strict=True)}


def fails(ichx: Program, files: Path, *values: str, labels: bool = True) -> None:
    given = ("--labels", files / "labels.csv") if labels else ()
    arguments = ("--masks", files / "masks", "--folds", 2, *given, "--json")
    failed = ichx("data", "add", "v", files / "images", *arguments, cwd=files / "ws")
    failed.check_error("invalid_input", *values)
    assert not (files / "ws" / "datasets" / "v").exists()
    assert json.loads(ichx("data", "list", "--json", cwd=files / "ws").out) == []


def expected(studies: dict[str, PhantomStudy]) -> dict[str, np.ndarray]:
    return {
        f"{name}#{number + 1:03d}": study.mask[number]
        for name, study in studies.items()
        for number in range(len(study.mask))
        if study.mask[number].any()
    }


def same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> bool:
    return found.keys() == wanted.keys() and all(np.array_equal(found[key], wanted[key]) for key in wanted)


def test_masks_lie_on_their_slices(files: Path, studies: dict[str, PhantomStudy], ichx: Program) -> None:
    add(ichx, files)
    assert len(expected(studies)) > 10
    assert same(stored(files), expected(studies))


@pytest.mark.parametrize("form", ["float", "suffix", "no affine", "turned"])
def test_other_forms_of_a_mask(files: Path, studies: dict[str, PhantomStudy], ichx: Program, form: str) -> None:
    for name in NAMES:
        path = files / "masks" / f"{name}.nii.gz"
        image = nibabel.load(path)
        values = np.asanyarray(image.dataobj)
        if form == "float":
            nibabel.Nifti1Image(values.astype(np.float32), image.affine).to_filename(path)
        elif form == "suffix":
            path.rename(path.with_name(f"{name}_seg.nii.gz"))
        elif form == "no affine":
            plain = nibabel.Nifti1Image(values, None)
            plain.set_sform(None, 0)
            plain.set_qform(None, 0)
            plain.to_filename(path)
        else:  # volume and mask in another order of axes
            for one in (files / "images" / path.name, path):
                stored_image = nibabel.load(one)
                start = orientations.io_orientation(stored_image.affine)
                change = orientations.ornt_transform(start, orientations.axcodes2ornt(("P", "S", "R")))
                data = np.asanyarray(stored_image.dataobj)
                affine = stored_image.affine @ orientations.inv_ornt_aff(change, data.shape)
                nibabel.Nifti1Image(orientations.apply_orientation(data, change), affine).to_filename(one)
    add(ichx, files)
    found, wanted = stored(files), expected(studies)
    if form == "turned":  # slices are numbered from the head as they are stored
        assert sorted(mask.sum() for mask in found.values()) == sorted(mask.sum() for mask in wanted.values())
    else:
        assert same(found, wanted)


@pytest.mark.parametrize("value", [1, 255])
def test_a_binary_mask_has_the_subtype_of_its_slice(
    files: Path, studies: dict[str, PhantomStudy], ichx: Program, value: int
) -> None:
    for name, study in studies.items():
        write_volume(files / "masks" / f"{name}.nii.gz", np.where(study.mask > 0, value, 0).astype(np.uint8), study)
    add(ichx, files)
    single = {
        slice_id: mask
        for slice_id, mask in expected(studies).items()
        if studies[slice_id[0]].labels[int(slice_id[2:]) - 1, :5].sum() == 1
    }
    assert 0 < len(single) < len(expected(studies))
    assert same(stored(files), single)


def test_masks_label_slices_without_labels(files: Path, studies: dict[str, PhantomStudy], ichx: Program) -> None:
    add(ichx, files, labels=False)
    catalog = pd.read_parquet(files / "ws" / "datasets" / "v" / "v1" / "catalog.parquet").set_index("slice_id")
    for name, study in studies.items():
        found = catalog.loc[[f"{name}#{number + 1:03d}" for number in range(len(study.mask))], list(LABELS)].to_numpy()
        wanted = np.array([[(mask == number).any() for number in range(1, 6)] + [mask.any()] for mask in study.mask])
        assert np.array_equal(found, wanted)


def test_rejected_masks_are_one_error(files: Path, studies: dict[str, PhantomStudy], ichx: Program) -> None:
    study = studies["a"]
    write_volume(files / "masks" / "a.nii.gz", study.mask[:-1], study)
    image = nibabel.load(files / "masks" / "b.nii.gz")
    shifted = image.affine.copy()
    shifted[0, 0] *= -1  # left and right exchanged
    nibabel.Nifti1Image(np.asanyarray(image.dataobj), shifted).to_filename(files / "masks" / "b.nii.gz")
    fails(ichx, files, "a.nii.gz", "shape", "b.nii.gz", "affine")


@pytest.mark.parametrize(("content", "problem"), [(b"hello", "not a NIfTI"), (None, "damaged")])
def test_damaged_masks_are_an_error(files: Path, ichx: Program, content: bytes | None, problem: str) -> None:
    path = files / "masks" / "b.nii.gz"
    path.write_bytes(path.read_bytes()[:-40] if content is None else content)
    fails(ichx, files, "b.nii.gz", problem)


@pytest.mark.parametrize("value", [7, 0.5, -1])
def test_unknown_values_are_an_error(
    files: Path, studies: dict[str, PhantomStudy], ichx: Program, value: float
) -> None:
    image = nibabel.load(files / "masks" / "a.nii.gz")
    values = np.asanyarray(image.dataobj).astype(np.float32)
    values[0, 0, 3] = value
    nibabel.Nifti1Image(values, image.affine).to_filename(files / "masks" / "a.nii.gz")
    fails(ichx, files, "a.nii.gz", f"{value:g}")


def test_masks_against_the_labels_are_an_error(files: Path, studies: dict[str, PhantomStudy], ichx: Program) -> None:
    labels = pd.read_csv(files / "labels.csv")
    positive = labels.index[labels["any"] == 1]
    labels.loc[positive[0], list(LABELS)] = 0
    labels.to_csv(files / "labels.csv", index=False)
    fails(ichx, files, "1 slice", labels["image"][positive[0]])


def test_masks_without_a_volume_are_an_error(files: Path, ichx: Program) -> None:
    for name in NAMES:
        (files / "masks" / f"{name}.nii.gz").rename(files / "masks" / f"other{name}.nii.gz")
    fails(ichx, files, "othera", "'a'")


def test_png_masks_need_labels(files: Path, ichx: Program) -> None:
    for path in (files / "masks").iterdir():
        path.unlink()
    (files / "masks" / "a.png").write_bytes(b"")
    fails(ichx, files, "--labels", labels=False)
