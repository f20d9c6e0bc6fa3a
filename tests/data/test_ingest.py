"""A folder of files to records."""

from pathlib import Path

import pandas as pd
import pytest
from dicom_files import write_ct, write_study

from ichx.data import ingest
from ichx.data.ingest import file_stem, scan_source
from ichx.data.sources import list_files
from ichx.errors import IchxError


def test_finds_files_in_any_tree_but_hidden_ones(tmp_path: Path) -> None:
    for name in ("b/c/2.dcm", "a.dcm", "b/IM1", ".hidden", ".git/x.dcm", "DICOMDIR", "b/dicomdir"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert list_files(tmp_path).names == ["a.dcm", "b/IM1", "b/c/2.dcm"]


def test_follows_links_once(tmp_path: Path) -> None:
    (tmp_path / "data/deep").mkdir(parents=True)
    (tmp_path / "data/deep/a.dcm").write_text("x")
    (tmp_path / "data/deep/up").symlink_to(tmp_path / "data")
    (tmp_path / "all").mkdir()
    (tmp_path / "all/linked").symlink_to(tmp_path / "data")
    assert list_files(tmp_path / "all").names == ["linked/deep/a.dcm"]


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
def test_stems(file: str, stem: str) -> None:
    assert file_stem(file) == stem


def test_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(IchxError, match="there is no folder"):
        scan_source(tmp_path / "absent")
    with pytest.raises(IchxError, match="has no files"):
        scan_source(tmp_path)
    archive = tmp_path / "data.bin"
    archive.write_bytes(b"text")
    with pytest.raises(IchxError, match="neither a folder nor a zip"):
        scan_source(archive)


def test_a_record_for_every_file_whatever_the_number_of_processes(
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
