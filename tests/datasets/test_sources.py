"""Sources of files: folders, zips and single files."""

import os
import socket
import subprocess
import unicodedata
import zipfile
from pathlib import Path

import pytest
from dicom_files import head, write_ct, write_study
from zip_files import change_entry, zip_folder

from ichx.ct.dicom import DicomDefectError, read_slice
from ichx.datasets import sources
from ichx.datasets.file_list import list_files, read_zip_member
from ichx.datasets.ingest import scan_source
from ichx.datasets.sources import SourceFiles, find_drift, read_source_slice
from ichx.errors import ChangedDataError, CorruptFileError, InvalidInputError, NotFoundError, StorageError
from ichx.phantom.encoded_files import enhanced


def test_list_files_skips_hidden_files(tmp_path: Path) -> None:
    for name in ("b/c/2.dcm", "a.dcm", "b/IM1", ".hidden", ".git/x.dcm", "DICOMDIR", "b/dicomdir"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert list_files(tmp_path).names == ["a.dcm", "b/IM1", "b/c/2.dcm"]


def test_list_files_follows_links_once(tmp_path: Path) -> None:
    (tmp_path / "data/deep").mkdir(parents=True)
    (tmp_path / "data/deep/a.dcm").write_text("x")
    (tmp_path / "data/deep/up").symlink_to(tmp_path / "data")
    (tmp_path / "all").mkdir()
    (tmp_path / "all/linked").symlink_to(tmp_path / "data")
    assert list_files(tmp_path / "all").names == ["linked/deep/a.dcm"]


def test_zip_lists_the_files_of_its_folder(tmp_path: Path) -> None:
    for name in ("b/c/2.dcm", "a.dcm", "b/IM1", ".hidden", ".git/x.dcm", "DICOMDIR", "b/dicomdir", "__MACOSX/._a.dcm"):
        (tmp_path / "f" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "f" / name).write_text(name)
    archive = zip_folder(tmp_path / "f", tmp_path / "a.zip", "deep/train/")
    assert (
        list_files(archive / "deep/train").names == list_files(tmp_path / "f").names == ["a.dcm", "b/IM1", "b/c/2.dcm"]
    )
    assert list_files(archive / "deep").names == ["train/a.dcm", "train/b/IM1", "train/b/c/2.dcm"]
    assert list_files(archive).names[0] == "deep/train/a.dcm"
    member = list_files(archive / "deep/train").locate(1).member
    assert member is not None
    assert member.name == "deep/train/b/IM1"


@pytest.mark.parametrize("top", ["rsna/", "rsna/challenge/"])
def test_a_folder_that_contains_everything_in_a_zip_may_be_omitted(tmp_path: Path, top: str) -> None:
    write_study(tmp_path / "f/train", "1", 2)
    (tmp_path / "f/train.csv").write_text("ID,Label\n")
    archive = zip_folder(tmp_path / "f", tmp_path / "a.zip", top)
    with zipfile.ZipFile(archive, "a") as packed:
        packed.writestr(f"__MACOSX/{top}._train.csv", "")
    assert list_files(archive / "train").names == list_files(tmp_path / "f/train").names
    assert list_files(archive / "train").names == list_files(archive / top / "train").names
    assert read_zip_member(archive / "train.csv") == b"ID,Label\n"
    (file,) = SourceFiles(archive / "train", scan_source(archive / "train")).select([0])
    assert read_source_slice(file).hu.shape
    for missing in ("test", "rsn", "train.cs"):
        with pytest.raises(NotFoundError, match=missing):
            list_files(archive / missing)
        with pytest.raises(NotFoundError, match=missing):
            read_zip_member(archive / missing)


def test_a_folder_next_to_others_in_a_zip_may_not_be_omitted(tmp_path: Path) -> None:
    for name in ("one/train/a.dcm", "two/train/a.dcm"):
        (tmp_path / "f" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "f" / name).write_text("x")
    with pytest.raises(NotFoundError, match="train"):
        list_files(zip_folder(tmp_path / "f", tmp_path / "a.zip") / "train")


@pytest.mark.parametrize(("packed", "typed"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_a_name_in_a_zip_may_be_typed_in_another_unicode_form(tmp_path: Path, packed: str, typed: str) -> None:
    folder = tmp_path / "f" / unicodedata.normalize(packed, "Schädel")
    folder.mkdir(parents=True)
    (folder / "ä.csv").write_text("x")
    archive = zip_folder(tmp_path / "f", tmp_path / "a.zip")
    assert list_files(archive / unicodedata.normalize(typed, "Schädel")).names == ["ä.csv"]
    assert read_zip_member(archive / unicodedata.normalize(typed, "Schädel") / "ä.csv") == b"x"


def test_file_names_that_are_not_utf8(tmp_path: Path) -> None:
    source = tmp_path / os.fsdecode(b"Ma\xdf")
    write_study(source / "1", "1", 2)
    write_study(source / os.fsdecode(b"Sch\xe4del"), "2", 2)
    write_study(source / r"b\xe4", "3", 2)  # this name has a backslash
    scan = scan_source(source)
    assert sorted({file.rpartition("/")[0] for file in scan["file"]}) == ["1", r"Sch\xe4del", r"b\xe4"]
    assert (scan["defect"] == "").all()
    assert not find_drift(list_files(source), scan).removed
    for file, row in zip(SourceFiles(source, scan).select(range(6)), scan.itertuples(), strict=True):
        assert read_source_slice(file).header.slice_id == row.slice_id
    (source / os.fsdecode(b"Sch\xe4del") / "1.2.840.2.1.dcm").unlink(missing_ok=True)
    next((source / os.fsdecode(b"Sch\xe4del")).iterdir()).unlink()
    with pytest.raises(ChangedDataError, match=r"Ma\\xdf/Sch\\xe4del"):
        [read_source_slice(file) for file in SourceFiles(source, scan).select(range(6))]


def test_pipes_sockets_and_broken_links_are_named(tmp_path: Path) -> None:
    source = tmp_path / "f"
    write_study(source, "1", 2)
    os.mkfifo(source / "pipe")
    (source / "zero").symlink_to("/dev/zero")
    (source / "loop").symlink_to("loop")
    (source / "gone").symlink_to("nowhere")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.path.relpath(source / "socket"))
    scan = scan_source(source)
    assert scan["file"][scan["defect"] == "unreadable"].tolist() == ["gone", "loop", "pipe", "socket", "zero"]
    assert (scan["defect"] == "").sum() == 2
    for other in ("pipe", "socket", "zero"):
        with pytest.raises(InvalidInputError, match=other):
            list_files(source / other)


def test_deeply_nested_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More levels than Python allows calls."""
    source = tmp_path / "f"
    source.mkdir()
    monkeypatch.chdir(source)
    for _ in range(1200):
        Path("a").mkdir()
        os.chdir("a")
    Path("x.dcm").write_text("x")
    os.chdir(tmp_path)
    try:
        assert list_files(source).names == ["a/" * 1200 + "x.dcm"]
    finally:
        subprocess.run(["rm", "-rf", source], check=True)  # Python cannot remove it


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_sources_without_permission(tmp_path: Path) -> None:
    write_study(tmp_path / "f", "1", 2)
    (tmp_path / "f/closed").mkdir(mode=0)
    for source in (tmp_path / "f", tmp_path / "f/closed", tmp_path / "f/closed/deep"):
        with pytest.raises(StorageError, match="closed"):
            list_files(source)
    (tmp_path / "f/closed").rmdir()
    write_ct(tmp_path / "f/x.dcm").chmod(0)
    scan = scan_source(tmp_path / "f")
    assert scan["file"][scan["defect"] != ""].tolist() == ["x.dcm"]
    assert scan["defect"].iloc[-1] == "unreadable"


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="aaaa: File name too long"):
        list_files(tmp_path / ("a" * 300))


def test_zip_of_an_old_catalog_whose_names_were_read_as_code_page_437(tmp_path: Path) -> None:
    write_study(tmp_path / "f/Schädel", "1", 2)
    archive = zip_folder(tmp_path / "f", tmp_path / "a.zip")
    scan = scan_source(archive)
    old = scan.assign(file=[name.encode().decode("cp437") for name in scan["file"]])
    drift = find_drift(list_files(archive), old)
    assert (drift.removed, drift.changed, drift.new) == ((), (), ())
    assert len(SourceFiles(archive, old).select(range(2))) == 2


def test_folder_named_dicomdir(tmp_path: Path) -> None:
    (tmp_path / "f/DICOMDIR").mkdir(parents=True)
    (tmp_path / "f/DICOMDIR/IM1").write_text("x")
    archive = zip_folder(tmp_path / "f", tmp_path / "a.zip")
    assert list_files(tmp_path / "f").names == list_files(archive).names == ["DICOMDIR/IM1"]


def test_zip_names_starting_with_dot_slash(tmp_path: Path) -> None:
    write_study(tmp_path / "f", "1", 2)
    archive = zip_folder(tmp_path / "f", tmp_path / "a.zip", "X/train/")
    archive.write_bytes(archive.read_bytes().replace(b"X/train/", b"./train/"))
    assert list_files(archive / "train").names == list_files(tmp_path / "f").names
    scan = scan_source(archive)
    assert (scan["defect"] == "").all()
    assert scan["file"].str.startswith("train/").all()


def test_invalid_sources(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    write_ct(tmp_path / "f/train/a.dcm")
    archive = zip_folder(tmp_path / "f", tmp_path / "a.zip")
    for source, error in (
        ("absent", NotFoundError),
        ("empty", InvalidInputError),
        ("notes.txt", InvalidInputError),
        ("notes.txt/train", InvalidInputError),
        ("a.zip/test", NotFoundError),
    ):
        with pytest.raises(error, match=source.split("/")[0]):
            list_files(tmp_path / source)
    with pytest.raises(NotFoundError, match="trian") as caught:
        list_files(archive / "trian")
    assert "'train'" in caught.value.remedy


def test_single_dicom_file(tmp_path: Path) -> None:
    """A file with a defect is listed, too."""
    path = write_ct(tmp_path / "f/a.dcm")
    other = write_ct(tmp_path / "mr.dcm", Modality="MR")
    for source, defect in ((path, ""), (other, "not_ct")):
        assert list_files(source).names == [source.name]
        scan = scan_source(source)
        assert scan[["file", "defect"]].to_numpy().tolist() == [[source.name, defect]]
    scan = scan_source(path)
    (file,) = SourceFiles(path, scan).select([0])
    hu = read_source_slice(file).hu
    assert (hu == read_slice(path).hu).all()
    write_ct(path, stored=head(1, side=40))
    with pytest.raises(ChangedDataError, match=r"1 file .*a\.dcm"):
        SourceFiles(path, scan)


def test_zip_and_folder_have_equal_slices(tmp_path: Path) -> None:
    write_study(tmp_path / "f", "1", 4)
    archive = zip_folder(tmp_path / "f", tmp_path / "a.zip", "train/")
    plain, packed = (SourceFiles(source, scan_source(source)) for source in (tmp_path / "f", archive / "train"))
    for one, other in zip(plain.select(range(4)), packed.select(range(4)), strict=True):
        assert (read_source_slice(one).hu == read_source_slice(other).hu).all()


def test_member_with_several_frames_is_inflated_once(tmp_path: Path) -> None:
    path = write_ct(tmp_path / "f/a.dcm")
    dataset = enhanced(path, [head(seed) for seed in range(5)])
    dataset.save_as(path)
    archive = zip_folder(tmp_path / "f", tmp_path / "a.zip")
    plain, packed = (SourceFiles(source, scan_source(source)).select(range(5)) for source in (tmp_path / "f", archive))
    before = sources._cached_content.cache_info()
    for one, other in zip(plain, packed, strict=True):
        assert (read_source_slice(one).hu == read_source_slice(other).hu).all()
    after = sources._cached_content.cache_info()
    assert (after.misses - before.misses, after.hits - before.hits) == (1, 4)


def test_changed_zip_is_rejected_before_slices_are_read(tmp_path: Path) -> None:
    write_study(tmp_path / "f", "1", 3)
    archive = zip_folder(tmp_path / "f", tmp_path / "a.zip")
    scan = scan_source(archive)
    assert len(SourceFiles(archive, scan).select([0, 2])) == 2
    change_entry(archive, scan["file"][1], crc=5)
    with pytest.raises(ChangedDataError, match=f"1 file .*{scan['file'][1]}"):
        SourceFiles(archive, scan)
    removed = next((tmp_path / "f").glob("*.dcm"))
    removed.unlink()
    zip_folder(tmp_path / "f", archive)
    with pytest.raises(ChangedDataError, match=f"1 file .*{removed.name}"):
        SourceFiles(archive, scan)


def test_changed_file_is_not_read(tmp_path: Path) -> None:
    write_study(tmp_path, "1", 2)
    scan = scan_source(tmp_path)
    first, second = SourceFiles(tmp_path, scan).select([0, 1])
    os.utime(tmp_path / scan["file"][0], ns=(1, 1))
    (tmp_path / scan["file"][1]).unlink()
    for file, name in zip((first, second), scan["file"], strict=True):
        with pytest.raises(ChangedDataError, match=name):
            read_source_slice(file)


def test_decoding_verifies_the_checksum_of_a_member(tmp_path: Path) -> None:
    write_ct(tmp_path / "f/a.dcm", head(side=256))
    archive = zip_folder(tmp_path / "f", tmp_path / "a.zip")
    change_entry(archive, "a.dcm", crc=5)
    scan = scan_source(archive)
    assert scan["defect"].tolist() == [""], "reading a header does not read the pixels"
    with pytest.raises(DicomDefectError) as caught:
        read_source_slice(SourceFiles(archive, scan).select([0])[0])
    assert caught.value.reason == "damaged_member"


def test_drift_lists_removed_changed_and_new_files(tmp_path: Path) -> None:
    write_study(tmp_path, "1", 4)
    scan = scan_source(tmp_path)
    (tmp_path / "new.dcm").write_text("new")
    drift = find_drift(list_files(tmp_path), scan)
    assert (drift.removed, drift.changed, drift.new) == ((), (), ("new.dcm",))
    drift.raise_if_changed(tmp_path)
    names = scan["file"].tolist()
    (tmp_path / names[0]).unlink()
    os.utime(tmp_path / names[1], ns=(1, 1))
    drift = find_drift(list_files(tmp_path), scan)
    assert (drift.removed, drift.changed, drift.new) == ((names[0],), (names[1],), ("new.dcm",))
    with pytest.raises(ChangedDataError, match=f"1 file .*{names[0]}.*1 file .*{names[1]}"):
        drift.raise_if_changed(tmp_path)


def test_read_zip_member(tmp_path: Path) -> None:
    (tmp_path / "f/d").mkdir(parents=True)
    (tmp_path / "f/d/labels.csv").write_text("ID,Label\n")
    archive = zip_folder(tmp_path / "f", tmp_path / "a.zip")
    assert read_zip_member(archive / "d/labels.csv") == b"ID,Label\n"
    assert read_zip_member(tmp_path / "f/d/labels.csv") is None
    assert read_zip_member(tmp_path / "absent.csv") is None
    with pytest.raises(NotFoundError, match=r"label\.csv") as caught:
        read_zip_member(archive / "label.csv")
    assert "'d/labels.csv'" in caught.value.remedy
    change_entry(archive, "d/labels.csv", crc=3)
    with pytest.raises(CorruptFileError, match=r"d/labels\.csv"):
        read_zip_member(archive / "d/labels.csv")
