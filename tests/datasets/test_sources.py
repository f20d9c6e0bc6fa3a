"""Folders and zips as sources of files."""

import os
from pathlib import Path

import pytest
from dicom_files import head, write_ct, write_study
from zip_files import change_entry, zip_folder

from ichx.ct.dicom import DicomDefectError, read_slice
from ichx.datasets import sources
from ichx.datasets.ingest import scan_source
from ichx.datasets.sources import SourceFiles, find_drift, list_files, read_source_slice, read_zip_member
from ichx.errors import IchxError
from ichx.phantom.encoded_files import enhanced


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


def test_a_zip_has_the_files_of_its_folder(tmp_path: Path) -> None:
    for name in ("b/c/2.dcm", "a.dcm", "b/IM1", ".hidden", ".git/x.dcm", "DICOMDIR", "b/dicomdir", "__MACOSX/._a.dcm"):
        (tmp_path / "f" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "f" / name).write_text(name)
    archive = zip_folder(tmp_path / "f", tmp_path / "a.zip", "deep/train/")
    assert (
        list_files(archive / "deep/train").names == list_files(tmp_path / "f").names == ["a.dcm", "b/IM1", "b/c/2.dcm"]
    )
    assert list_files(archive / "deep").names == ["train/a.dcm", "train/b/IM1", "train/b/c/2.dcm"]
    assert list_files(archive).names[0] == "deep/train/a.dcm"
    member = list_files(archive / "deep/train").place(1).member
    assert member is not None
    assert member.name == "deep/train/b/IM1"


def test_a_folder_called_dicomdir_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "f/DICOMDIR").mkdir(parents=True)
    (tmp_path / "f/DICOMDIR/IM1").write_text("x")
    archive = zip_folder(tmp_path / "f", tmp_path / "a.zip")
    assert list_files(tmp_path / "f").names == list_files(archive).names == ["DICOMDIR/IM1"]


def test_names_in_a_zip_that_begin_with_a_dot_and_a_slash(tmp_path: Path) -> None:
    write_study(tmp_path / "f", "1", 2)
    archive = zip_folder(tmp_path / "f", tmp_path / "a.zip", "X/train/")
    archive.write_bytes(archive.read_bytes().replace(b"X/train/", b"./train/"))
    assert list_files(archive / "train").names == list_files(tmp_path / "f").names
    scan = scan_source(archive)
    assert (scan["defect"] == "").all()
    assert scan["file"].str.startswith("train/").all()


def test_sources_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    write_ct(tmp_path / "f/train/a.dcm")
    archive = zip_folder(tmp_path / "f", tmp_path / "a.zip")
    for source, problem in (
        ("absent", "there is no folder"),
        ("empty", "has no files"),
        ("notes.txt", "neither a folder nor a zip"),
        ("notes.txt/train", "neither a folder nor a zip"),
        ("a.zip/test", "there is no folder test in"),
    ):
        with pytest.raises(IchxError, match=problem):
            list_files(tmp_path / source)
    with pytest.raises(IchxError) as caught:
        list_files(archive / "trian")
    assert "'train'" in caught.value.remedy


def test_a_dicom_file_alone_is_a_source(tmp_path: Path) -> None:
    """Also one that is no usable slice; the catalog says why."""
    path = write_ct(tmp_path / "f/a.dcm")
    other = write_ct(tmp_path / "mr.dcm", Modality="MR")
    for source, defect in ((path, ""), (other, "not_ct")):
        assert list_files(source).names == [source.name]
        scan = scan_source(source)
        assert scan[["file", "defect"]].to_numpy().tolist() == [[source.name, defect]]
    scan = scan_source(path)
    (file,) = SourceFiles(path, scan).of([0])
    hu = read_source_slice(file).hu
    assert (hu == read_slice(path).hu).all()
    write_ct(path, stored=head(1, side=40))
    with pytest.raises(IchxError, match="1 file changed: a"):
        SourceFiles(path, scan)


def test_slices_are_read_from_a_zip_as_from_a_folder(tmp_path: Path) -> None:
    write_study(tmp_path / "f", "1", 4)
    archive = zip_folder(tmp_path / "f", tmp_path / "a.zip", "train/")
    plain, packed = (SourceFiles(source, scan_source(source)) for source in (tmp_path / "f", archive / "train"))
    for one, other in zip(plain.of(range(4)), packed.of(range(4)), strict=True):
        assert (read_source_slice(one).hu == read_source_slice(other).hu).all()


def test_a_member_of_several_frames_is_inflated_once(tmp_path: Path) -> None:
    path = write_ct(tmp_path / "f/a.dcm")
    dataset = enhanced(path, [head(seed) for seed in range(5)])
    dataset.save_as(path)
    archive = zip_folder(tmp_path / "f", tmp_path / "a.zip")
    plain, packed = (SourceFiles(source, scan_source(source)).of(range(5)) for source in (tmp_path / "f", archive))
    before = sources._kept_contents.cache_info()
    for one, other in zip(plain, packed, strict=True):
        assert (read_source_slice(one).hu == read_source_slice(other).hu).all()
    after = sources._kept_contents.cache_info()
    assert (after.misses - before.misses, after.hits - before.hits) == (1, 4)


def test_a_zip_that_has_changed_is_told_before_anything_is_read(tmp_path: Path) -> None:
    write_study(tmp_path / "f", "1", 3)
    archive = zip_folder(tmp_path / "f", tmp_path / "a.zip")
    scan = scan_source(archive)
    assert len(SourceFiles(archive, scan).of([0, 2])) == 2
    change_entry(archive, scan["file"][1], crc=5)
    with pytest.raises(IchxError, match=f"1 file changed: {scan['file'][1]}"):
        SourceFiles(archive, scan)
    next((tmp_path / "f").glob("*.dcm")).unlink()
    zip_folder(tmp_path / "f", archive)
    with pytest.raises(IchxError, match="1 file gone"):
        SourceFiles(archive, scan)


def test_a_file_that_has_changed_is_not_read(tmp_path: Path) -> None:
    write_study(tmp_path, "1", 2)
    scan = scan_source(tmp_path)
    first, second = SourceFiles(tmp_path, scan).of([0, 1])
    os.utime(tmp_path / scan["file"][0], ns=(1, 1))
    (tmp_path / scan["file"][1]).unlink()
    with pytest.raises(IchxError, match="it has changed since"):
        read_source_slice(first)
    with pytest.raises(IchxError, match="cannot be read: No such file"):
        read_source_slice(second)


def test_a_member_is_checked_when_it_is_decoded(tmp_path: Path) -> None:
    write_ct(tmp_path / "f/a.dcm", head(side=256))
    archive = zip_folder(tmp_path / "f", tmp_path / "a.zip")
    change_entry(archive, "a.dcm", crc=5)
    scan = scan_source(archive)
    assert scan["defect"].tolist() == [""], "a header is read without the rest"
    with pytest.raises(DicomDefectError) as caught:
        read_source_slice(SourceFiles(archive, scan).of([0])[0])
    assert caught.value.reason == "damaged_member"


def test_drift_names_what_is_gone_changed_and_new(tmp_path: Path) -> None:
    write_study(tmp_path, "1", 4)
    scan = scan_source(tmp_path)
    assert find_drift(list_files(tmp_path), scan).told == ""
    names = scan["file"].tolist()
    (tmp_path / names[0]).unlink()
    os.utime(tmp_path / names[1], ns=(1, 1))
    (tmp_path / "new.dcm").write_text("new")
    drift = find_drift(list_files(tmp_path), scan)
    assert (drift.gone, drift.changed, drift.new) == ((names[0],), (names[1],), ("new.dcm",))
    assert drift.told == f"1 file gone: {names[0]}; 1 file changed: {names[1]}"


def test_files_in_a_zip_are_read_by_their_path(tmp_path: Path) -> None:
    (tmp_path / "f/d").mkdir(parents=True)
    (tmp_path / "f/d/labels.csv").write_text("ID,Label\n")
    archive = zip_folder(tmp_path / "f", tmp_path / "a.zip")
    assert read_zip_member(archive / "d/labels.csv") == b"ID,Label\n"
    assert read_zip_member(tmp_path / "f/d/labels.csv") is None
    assert read_zip_member(tmp_path / "absent.csv") is None
    with pytest.raises(IchxError, match=r"there is no file label.csv in") as caught:
        read_zip_member(archive / "label.csv")
    assert "'d/labels.csv'" in caught.value.remedy
    change_entry(archive, "d/labels.csv", crc=3)
    with pytest.raises(IchxError, match="differ from their checksum"):
        read_zip_member(archive / "d/labels.csv")
