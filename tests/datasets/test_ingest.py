"""Scanning the headers of a source."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from dicom_files import SIDE, head, write_ct, write_study
from pydicom import config
from zip_files import change_entry, zip_folder

from ichx.datasets import ingest
from ichx.datasets.catalog import build_catalog, usable_slices
from ichx.datasets.ingest import file_stem, scan_source
from ichx.datasets.sources import SourceFile, SourceFiles, read_source_slice
from ichx.phantom.encoded_files import enhanced


@pytest.mark.parametrize(
    ("file", "stem"),
    [
        ("a/ID_1.dcm", "ID_1"),
        ("1.2.840.113619.5", "1.2.840.113619.5"),
        ("x/1.2.840.5.dcm", "1.2.840.5"),
        ("IM0001", "IM0001"),
        ("a.b/c.IMA", "c"),
    ],
)
def test_file_stem(file: str, stem: str) -> None:
    assert file_stem(file) == stem


def test_scan_has_a_row_for_every_file_with_any_number_of_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_study(tmp_path / "p1", "1", 7)
    write_ct(tmp_path / "mr.dcm", Modality="MR")
    write_ct(tmp_path / "bare.dcm", ImagePositionPatient=None, PixelSpacing=None, InstanceNumber=None)
    (tmp_path / "labels.csv").write_text("ID,Label\n")
    seen: list[tuple[int, int]] = []
    one = scan_source(tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (10, 10)
    assert one["file"].is_monotonic_increasing
    found = one.set_index("file")
    assert found["defect"][["mr.dcm", "labels.csv", "bare.dcm"]].tolist() == ["not_ct", "not_dicom", ""]
    assert found["bytes"]["mr.dcm"] == (tmp_path / "mr.dcm").stat().st_size
    assert found["instance_number"]["bare.dcm"] == -1
    assert found[["pos_x", "spacing_row"]].loc["bare.dcm"].isna().all()
    monkeypatch.setattr(ingest, "CHUNK", 3)
    pd.testing.assert_frame_equal(one, scan_source(tmp_path, processes=2))


def test_zip_and_folder_have_equal_scans(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    write_study(folder / "p1", "1", 5)
    write_ct(folder / "mr.dcm", Modality="MR")
    write_ct(folder / "deflated.dcm", syntax="1.2.840.10008.1.2.1.99")
    shown = head().astype(int) - 1000
    stored = np.where(shown < 0, shown + 4096, shown).astype(np.uint16)
    write_ct(folder / "repaired.dcm", stored, BitsStored=12, HighBit=11, RescaleIntercept=1)
    (folder / "cut.dcm").write_bytes((folder / "mr.dcm").read_bytes()[:200])
    plain = scan_source(folder)
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        archive = zip_folder(folder, tmp_path / "files.zip", "train/", method)
        packed = scan_source(archive / "train")
        pd.testing.assert_frame_equal(plain.drop(columns="mtime_ns"), packed.drop(columns="mtime_ns"))
        crcs = [zlib.crc32((folder / name).read_bytes()) for name in packed["file"]]
        assert packed["mtime_ns"].tolist() == crcs
    assert plain["intercept_repaired"].sum() == 1


def test_defects_of_zip_members(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    for name in ("ok", "secret", "bomb", "lost"):
        write_ct(folder / f"{name}.dcm")
    archive = zip_folder(folder, tmp_path / "files.zip")
    change_entry(archive, "secret.dcm", flags=1)
    change_entry(archive, "bomb.dcm", bytes=200)
    change_entry(archive, "lost.dcm", offset=7)
    with zipfile.ZipFile(archive, "a") as packed:
        packed.write(folder / "ok.dcm", "../ok.dcm")
        with pytest.warns(UserWarning, match="Duplicate"):
            packed.write(folder / "ok.dcm", "ok.dcm")
    scan = scan_source(archive)
    assert list(zip(scan["file"], scan["defect"], strict=True)) == [
        ("../ok.dcm", "unsafe_name"),
        ("bomb.dcm", "oversized_member"),
        ("lost.dcm", "damaged_member"),
        ("ok.dcm", ""),
        ("ok.dcm", "duplicate_member"),
        ("secret.dcm", "encrypted"),
    ]


def test_each_frame_is_a_slice(tmp_path: Path) -> None:
    frames = [head(seed) for seed in range(3)]
    write_ct(tmp_path / "f/one.dcm")
    with config.disable_value_validation():
        enhanced(write_ct(tmp_path / "f/many.dcm"), frames).save_as(tmp_path / "f/many.dcm", enforce_file_format=False)
    archive = zip_folder(tmp_path / "f", tmp_path / "f.zip")
    for source in (tmp_path / "f", archive):
        slices = usable_slices(build_catalog(scan_source(source), None)[0])
        assert sorted(slices["frame"]) == [0, 1, 2, 3]
        decoded = {int(row.frame): read_source_slice(file).hu for row, file in _rows_and_files(source, slices)}
        assert all(decoded[frame].shape == (SIDE, SIDE) for frame in decoded)
        assert len({decoded[frame].tobytes() for frame in (1, 2, 3)}) == 3


def _rows_and_files(source: Path, slices: pd.DataFrame) -> list[tuple[Any, SourceFile]]:
    return list(zip(slices.itertuples(), SourceFiles(source, slices).select(range(len(slices))), strict=True))


def test_frames_without_rescale_follow_the_middle_one(tmp_path: Path) -> None:
    hu = head().astype(np.int16) - np.int16(1024)
    air = np.full_like(hu, -1000)
    air[0, 0] = -999
    for name, images in (("a", [air, hu, air]), ("b", [hu + np.int16(1024)] * 3)):
        dataset = enhanced(write_ct(tmp_path / f"{name}.dcm", images[0]), images)
        del dataset.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence
        with config.disable_value_validation():
            dataset.save_as(tmp_path / f"{name}.dcm", enforce_file_format=True)
    scan = scan_source(tmp_path)
    assert scan["defect"].tolist() == [*[""] * 3, *["bad_rescale"] * 3]
    assert scan["assumptions"].tolist() == [*["rescale_missing"] * 3, *[""] * 3]
