"""NIfTI volumes as sources: the same HU in the same order as the DICOM study that they were made from."""

import gzip
import json
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel
import numpy as np
import pandas as pd
import pytest
from conftest import Program
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel import orientations
from nifti_files import convert, sorted_slices, write_raw
from zip_files import zip_folder

from ichx.ct.defects import DicomDefectError
from ichx.ct.nifti import read_volume, read_volume_header
from ichx.datasets.catalog import build_catalog, usable_slices
from ichx.datasets.ingest import scan_source
from ichx.datasets.sources import SourceFiles, read_source_slice
from ichx.datasets.volumes import volume_names
from ichx.workspace import init_workspace

if TYPE_CHECKING:
    from ichx.phantom.dicom_files import PhantomFiles


def read_all(source: Path) -> tuple[pd.DataFrame, np.ndarray]:
    """Return the usable slices of a source, and their HU."""
    catalog, _ = build_catalog(scan_source(source), None)
    slices = usable_slices(catalog)
    files = SourceFiles(source, slices).select(range(len(slices)))
    return slices, np.stack([read_source_slice(file).hu for file in files])


def defects(source: Path) -> dict[str, str]:
    """Return the detail of each defect of a source."""
    scan = scan_source(source)
    return dict(zip(scan["defect"], scan["detail"], strict=True))


@pytest.fixture(scope="module")
def study(phantom: "PhantomFiles", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the DICOM files of one patient of the phantom."""
    assert phantom.train is not None
    scan = scan_source(phantom.train)
    folder = tmp_path_factory.mktemp("study") / "dicom"
    folder.mkdir()
    for name in scan[scan["patient_id"] == scan["patient_id"][0]]["file"]:
        (folder / name).write_bytes((phantom.train / name).read_bytes())
    return folder


@pytest.fixture(scope="module")
def image(study: Path) -> nibabel.Nifti1Image:
    return convert(list(study.iterdir()))


def compare(dicom: Path, volume: Path) -> None:
    expected, hu = read_all(dicom)
    slices, found = read_all(volume)
    assert np.array_equal(found, hu)
    assert slices["order"].tolist() == list(range(len(hu)))
    np.testing.assert_allclose(slices["position"], expected["position"], atol=0.01)
    np.testing.assert_allclose(slices["tilt"], expected["tilt"], atol=0.01)
    np.testing.assert_allclose(slices[["spacing_row", "spacing_column"]], expected[["spacing_row", "spacing_column"]])
    assert slices["series"].nunique() == slices["patient"].nunique() == 1


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "unsuffixed"])
def test_hu_and_order_are_those_of_the_dicom_study(
    study: Path, image: nibabel.Nifti1Image, tmp_path: Path, name: str
) -> None:
    path = write_raw(tmp_path / name, image)
    compare(study, path)
    slices, _ = read_all(path)
    assert slices["slice_id"][0] == f"{name.partition('.')[0]}#001"


def test_hu_of_a_real_study(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "rsna_mini" / "stage_2_test"
    compare(folder, write_raw(tmp_path / "real.nii.gz", convert(list(folder.iterdir()))))


@pytest.mark.parametrize("axes", ["RAS", "LAI", "ASL", "PIR", "SPR"])
def test_any_order_of_axes_shows_the_same_slices(
    study: Path, image: nibabel.Nifti1Image, tmp_path: Path, axes: str
) -> None:
    stored = np.asanyarray(image.dataobj)
    wanted = orientations.axcodes2ornt(tuple(axes))
    change = orientations.ornt_transform(orientations.io_orientation(image.affine), wanted)
    affine = image.affine @ orientations.inv_ornt_aff(change, stored.shape)
    turned = nibabel.Nifti1Image(orientations.apply_orientation(stored, change), affine)
    turned.header.set_slope_inter(*image.header.get_slope_inter())
    compare(study, write_raw(tmp_path / "turned.nii", turned))


@pytest.mark.parametrize("kind", ["float", "big-endian", "nifti-2", "metres"])
def test_other_forms_of_the_same_volume(study: Path, image: nibabel.Nifti1Image, tmp_path: Path, kind: str) -> None:
    slope, intercept = image.header.get_slope_inter()
    hu = np.asanyarray(image.dataobj).astype(np.float32) * slope + intercept
    path = tmp_path / "form.nii"
    if kind == "nifti-2":
        nibabel.Nifti2Image(hu.astype(np.int16), image.affine).to_filename(path)
    elif kind == "big-endian":
        header = nibabel.Nifti1Header(endianness=">")
        nibabel.Nifti1Image(hu.astype(">i2"), image.affine, header).to_filename(path)
    elif kind == "metres":
        scaled = nibabel.Nifti1Image(hu.astype(np.int16), np.diag([1e-3, 1e-3, 1e-3, 1]) @ image.affine)
        scaled.header.set_xyzt_units("meter")
        scaled.to_filename(path)
    else:
        hu[0, 0, :] = np.nan  # air
        nibabel.Nifti1Image(hu, image.affine).to_filename(path)
        assert (read_all(path)[1][:, 0, 0] == -1024).all()
        return
    compare(study, path)


def test_a_volume_with_thick_coronal_slices_is_not_axial(tmp_path: Path) -> None:
    hu = np.full((40, 12, 40), -1000, np.int16)
    hu[10:30, :, 10:30] = 40
    affine = np.diag([0.5, 5.0, 0.5, 1.0])
    nibabel.Nifti1Image(hu, affine).to_filename(tmp_path / "coronal.nii")
    slices, found = read_all(tmp_path / "coronal.nii")
    assert found.shape == (12, 40, 40)
    assert slices["not_axial"].all()


def test_a_volume_without_affine_is_used_with_an_assumption(tmp_path: Path, image: nibabel.Nifti1Image) -> None:
    plain = nibabel.Nifti1Image(np.asanyarray(image.dataobj), None)
    plain.header.set_slope_inter(*image.header.get_slope_inter())
    plain.set_sform(None, 0)
    plain.set_qform(None, 0)
    slices, _ = read_all(write_raw(tmp_path / "plain.nii.gz", plain))
    assert set(slices["assumptions"]) == {"affine_missing"}
    assert slices["by_number"].all()


@settings(max_examples=60, deadline=None)
@given(
    angles=st.tuples(*[st.floats(-40, 40)] * 3),
    axes=st.sampled_from(["RAS", "LPI", "ASL", "PIR", "SPR", "IRA"]),
    shear=st.floats(-0.4, 0.4),
    thickness=st.floats(0.6, 8),
)
def test_the_place_of_a_pixel_is_that_of_its_voxel(
    angles: tuple[float, float, float], axes: str, shear: float, thickness: float
) -> None:
    """The header of a slice places each pixel where the affine places the voxel with the same value."""
    turn = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(angles)):
        a, b = [i for i in range(3) if i != axis]
        one = np.eye(3)
        one[a, a] = one[b, b] = np.cos(angle)
        one[a, b], one[b, a] = -np.sin(angle), np.sin(angle)
        turn = turn @ one
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([0.45, 0.5, thickness]) @ np.array([[1, 0, 0], [0, 1, shear], [0, 0, 1]])
    affine[:3, 3] = 3, -7, 11
    shape = (20, 24, 17)
    values = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    change = orientations.ornt_transform(orientations.io_orientation(affine), orientations.axcodes2ornt(tuple(axes)))
    turned = orientations.apply_orientation(values, change)
    moved = affine @ orientations.inv_ornt_aff(change, shape)
    image = nibabel.Nifti1Image(turned, moved)
    volume = read_volume(BytesIO(image.to_bytes()))
    to_lps = np.diag([-1.0, -1, 1, 1]) @ image.affine
    for frame in (1, volume.header.count):
        header = volume.header.slice_header(frame)
        assert header.position is not None
        assert header.orientation is not None
        assert header.spacing is not None
        pixels = volume.stored[frame - 1]
        assert pixels.shape == (header.rows, header.columns)
        right, down = np.array(header.orientation[:3]), np.array(header.orientation[3:])
        for row, column in ((0, 0), (header.rows - 1, 0), (5, header.columns - 1)):
            voxel = np.argwhere(turned == pixels[row, column])[0]
            place = np.array(header.position) + column * header.spacing[1] * right + row * header.spacing[0] * down
            np.testing.assert_allclose(place, (to_lps @ [*voxel, 1])[:3], atol=1e-3)
        if thickness > 2 and np.abs(angles).max() < 20:  # slices are axial: columns to the left, rows to the back
            assert right[0] > 0.2
            assert down[1] > 0.2


def test_what_is_not_one_ct_is_refused_by_name(tmp_path: Path, image: nibabel.Nifti1Image) -> None:
    stored = np.asanyarray(image.dataobj)
    cases = {
        "several_volumes": np.stack([stored, stored], axis=-1),
        "not_ct": (stored > 1100).astype(np.uint8) * 255,
        "not_hu": np.random.default_rng(0).integers(0, 900, stored.shape).astype(np.int16),
        "constant_image": np.full(stored.shape, 7, np.int16),
        "unsupported_pixels": stored.astype(np.complex64),
        "absurd_size": stored[:4],
    }
    for reason, values in cases.items():
        nibabel.Nifti1Image(values, image.affine).to_filename(tmp_path / f"{reason}.nii.gz")
        found = defects(tmp_path / f"{reason}.nii.gz")
        assert list(found) == [reason]
        assert found[reason]
    (tmp_path / "fourth.nii.gz").unlink(missing_ok=True)
    one = nibabel.Nifti1Image(stored[..., None], image.affine)  # a fourth axis of length 1
    one.header.set_slope_inter(*image.header.get_slope_inter())
    assert list(defects(write_raw(tmp_path / "fourth.nii.gz", one))) == [""]


def test_damaged_files_are_named_defects(tmp_path: Path, image: nibabel.Nifti1Image) -> None:
    packed = write_raw(tmp_path / "whole.nii.gz", image).read_bytes()
    plain = gzip.decompress(packed)
    damaged = bytearray(packed)
    damaged[-6] ^= 0xFF  # the checksum
    cases = {
        "short.nii": (plain[:-1], "truncated"),
        "head.nii": (plain[:400], "truncated"),
        "short.nii.gz": (packed[: len(packed) // 2], "truncated"),
        "checksum.nii.gz": (bytes(damaged), "undecodable"),
        "text.nii.gz": (gzip.compress(b"hello"), "not_dicom"),
        "text.nii": (b"hello", "not_dicom"),
    }
    for name, (content, _) in cases.items():
        (tmp_path / "cases").mkdir(exist_ok=True)
        (tmp_path / "cases" / name).write_bytes(content)
    scan = scan_source(tmp_path / "cases")
    assert dict(zip(scan["file"], scan["defect"], strict=True)) == {name: reason for name, (_, reason) in cases.items()}


def test_a_damaged_header_is_a_defect_whatever_its_bytes(tmp_path: Path, image: nibabel.Nifti1Image) -> None:
    plain = bytearray(gzip.decompress(write_raw(tmp_path / "whole.nii.gz", image).read_bytes()))
    random = np.random.default_rng(5)
    for number in range(150):
        content = bytearray(plain)
        for at in random.integers(4, 344, 6):
            content[at] = random.integers(0, 256)
        path = tmp_path / f"{number}.nii"
        path.write_bytes(content)
        with path.open("rb") as handle:
            try:
                read_volume(handle).require_ct()
                handle.seek(0)
                header = read_volume_header(handle)
                header.slice_header(1)
            except DicomDefectError:
                pass


def test_a_volume_is_read_once(tmp_path: Path, image: nibabel.Nifti1Image, monkeypatch: pytest.MonkeyPatch) -> None:
    from ichx.datasets import volumes

    path = write_raw(tmp_path / "once.nii.gz", image)
    reads = []
    monkeypatch.setattr(volumes, "read_volume", lambda handle: reads.append(1) or read_volume(handle))
    _, hu = read_all(path)
    assert len(hu) > 10
    assert len(reads) == 2  # the scan, and all slices


def test_a_changed_volume_is_read_again(tmp_path: Path, image: nibabel.Nifti1Image) -> None:
    path = write_raw(tmp_path / "a.nii.gz", image)
    _, hu = read_all(path)
    darker = nibabel.Nifti1Image(np.asanyarray(image.dataobj) - 1, image.affine)
    darker.header.set_slope_inter(*image.header.get_slope_inter())
    write_raw(path, darker)
    _, other = read_all(path)
    assert (other == np.maximum(hu - 1, -1024)).mean() > 0.9


def test_names_of_volumes_tell_them_apart() -> None:
    assert volume_names(["images/a.nii.gz", "images/b.nii"]) == ["a", "b"]
    assert volume_names(["1/CT.nii", "2/CT.nii", "notes.txt"]) == ["1_CT", "2_CT", ""]
    assert volume_names(["x/1/CT.nii", "y/1/CT.nii"]) == ["x_1_CT", "y_1_CT"]


def test_volumes_in_a_zip_are_read_in_place(tmp_path: Path, study: Path, image: nibabel.Nifti1Image) -> None:
    write_raw(tmp_path / "data" / "a.nii.gz", image)
    write_raw(tmp_path / "data" / "b.nii", image)
    zip_folder(tmp_path / "data", tmp_path / "data.zip")
    slices, found = read_all(tmp_path / "data.zip")
    _, hu = read_all(study)
    assert np.array_equal(found, np.concatenate([hu, hu]))
    assert slices["patient"].nunique() == 2


def test_commands_accept_volumes(tmp_path: Path, study: Path, image: nibabel.Nifti1Image, ichx: Program) -> None:
    root = init_workspace(tmp_path / "ws").root
    for name in ("a", "b"):
        write_raw(tmp_path / "data" / f"{name}.nii.gz", image)
    rows = [f"{name}#{number:03d},0,0,0,0,{number % 2},{number % 2}" for name in "ab" for number in range(1, 21)]
    head = "image,epidural,intraparenchymal,intraventricular,subarachnoid,subdural,any"
    (tmp_path / "labels.csv").write_text("\n".join([head, *rows]) + "\n")
    added = ichx("data", "add", "v", tmp_path / "data", "--labels", tmp_path / "labels.csv", "--folds", 2, cwd=root)
    assert added.code == 0, added.err
    shown = json.loads(ichx("data", "show", "v", "--json", cwd=root).out)
    assert (shown["version"]["slices"], shown["version"]["patients"]) == (40, 2)
    for command in (("check", "v"), ("cache", "v", "--size", 32), ("sheet", "v", "--out", tmp_path / "sheet.png")):
        done = ichx("data", *command, cwd=root)
        assert done.code == 0, done.err
    assert len(sorted_slices(list(study.iterdir()))) >= 20


def test_a_source_without_any_ct_volume_is_a_clear_error(
    tmp_path: Path, image: nibabel.Nifti1Image, ichx: Program
) -> None:
    root = init_workspace(tmp_path / "ws").root
    stored = np.asanyarray(image.dataobj)
    nibabel.Nifti1Image(np.stack([stored, stored], -1), image.affine).to_filename(tmp_path / "time.nii.gz")
    failed = ichx("data", "add", "v", tmp_path / "time.nii.gz", "--json", cwd=root)
    failed.check_error("invalid_input", "several_volumes")


def test_excluded_volumes_are_named(tmp_path: Path, image: nibabel.Nifti1Image, ichx: Program) -> None:
    root = init_workspace(tmp_path / "ws").root
    content = write_raw(tmp_path / "data" / "a.nii.gz", image).read_bytes()
    (tmp_path / "data" / "cut.nii.gz").write_bytes(content[: len(content) // 3])
    added = ichx("data", "add", "v", tmp_path / "data", cwd=root)
    assert added.code == 0, added.err
    assert "cut.nii.gz" in added.err
