"""The decode check, on a real store."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from dicom_files import head, write_ct, write_study
from pydicom.dataset import Dataset
from zip_files import change_entry, zip_folder

from ichx.cache import decode_check
from ichx.cache.decode_check import PART_FILE, check_dataset
from ichx.datasets.add import AddRequest, add_dataset
from ichx.datasets.dataset import describe_dataset
from ichx.datasets.decode_findings import CHECK_FILE
from ichx.errors import ChangedDataError, CorruptFileError
from ichx.phantom.encoded_files import enhanced
from ichx.project import Project
from ichx.store import Store
from ichx.workspace import Workspace

RLE = "1.2.840.10008.1.2.5"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Return a folder with ten CT slices, two of them defects that only decoding shows, and two other files."""
    folder = tmp_path / "files"
    write_study(folder, "1", 8)
    write_ct(folder / "broken.dcm", head(), syntax=RLE, PixelData=b"\xfe\xff\x00\xe0\x00\x00\x00\x00" + b"\1" * 40)
    write_ct(folder / "black.dcm", np.zeros((32, 32), np.uint16))
    write_ct(folder / "mr.dcm", Modality="MR")
    (folder / "notes.txt").write_text("hello")
    return folder


def counts(checked: dict) -> dict[tuple[str, str], int]:
    return {(entry["reason"], entry["seen_in"]): entry["files"] for entry in checked["reasons"]}


def test_findings_add_up_and_are_stored(workspace: Workspace, store: Store, files: Path) -> None:
    add_dataset(Project(workspace, store), AddRequest("x", files))
    assert describe_dataset(Project(workspace, store), "x")["check"] is None
    calls: list[tuple[int, int]] = []
    checked = check_dataset(Project(workspace, store), "x", progress=lambda *at: calls.append(at))
    assert (calls[0], calls[-1]) == ((0, 10), (10, 10))
    assert (checked["found"], checked["slices"]) == (12, 8)
    assert (checked["refused_in_headers"], checked["refused_in_decoding"]) == (2, 2)
    assert counts(checked) == {
        ("not_ct", "headers"): 1,
        ("not_dicom", "headers"): 1,
        ("undecodable", "decoding"): 1,
        ("constant_image", "decoding"): 1,
    }
    assert {entry["reason"]: entry["examples"] for entry in checked["reasons"]}["undecodable"] == ["broken.dcm"]
    assert all(entry["meaning"] for entry in checked["reasons"])
    assert checked["new"] == []
    assert describe_dataset(Project(workspace, store), "x")["check"] == {
        k: v for k, v in checked.items() if k not in ("version", "new")
    }
    assert not (workspace.root / checked["version"].path / PART_FILE).exists()


def test_check_of_a_zip(tmp_path: Path, workspace: Workspace, store: Store, files: Path) -> None:
    write_ct(files / "large.dcm", head(side=256))
    archive = zip_folder(files, tmp_path / "files.zip")
    change_entry(archive, "large.dcm", crc=77)
    add_dataset(Project(workspace, store), AddRequest("x", archive))
    checked = check_dataset(Project(workspace, store), "x", processes=2)
    assert counts(checked)[("damaged_member", "decoding")] == 1
    assert (checked["found"], checked["slices"]) == (13, 8)


def test_frames_are_counted_separately(tmp_path: Path, workspace: Workspace, store: Store) -> None:
    path = write_ct(tmp_path / "files/many.dcm")
    flat = np.zeros((32, 32), np.uint16)
    enhanced(path, [head(0), flat, head(1), flat]).save_as(path)
    write_ct(tmp_path / "files/one.dcm")
    path = write_ct(tmp_path / "files/scout.dcm")
    dataset = enhanced(path, [head(2), head(3)])
    dataset.PerFrameFunctionalGroupsSequence[1].CTImageFrameTypeSequence = [Dataset()]
    dataset.PerFrameFunctionalGroupsSequence[1].CTImageFrameTypeSequence[0].FrameType = ["ORIGINAL", "LOCALIZER"]
    dataset.save_as(path)
    added = add_dataset(Project(workspace, store), AddRequest("x", tmp_path / "files"))
    assert any("1 file or frame" in warning and "localizer 1" in warning for warning in added.warnings)
    checked = check_dataset(Project(workspace, store), "x")
    assert (checked["files"], checked["found"], checked["slices"]) == (3, 7, 4)
    assert counts(checked) == {("localizer", "headers"): 1, ("constant_image", "decoding"): 2}
    assert [entry["examples"] for entry in checked["reasons"]] == [["scout.dcm"], ["many.dcm"]]


def test_interrupted_check_resumes(
    workspace: Workspace, store: Store, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode_check, "CHUNK", 3)
    version = add_dataset(Project(workspace, store), AddRequest("x", files)).version
    folder = workspace.root / version.path

    def stop(done: int, total: int) -> None:
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check_dataset(Project(workspace, store), "x", processes=1, progress=stop)
    assert not (folder / CHECK_FILE).exists()
    with (folder / PART_FILE).open("a") as part:
        part.write('{"start": 6, "def')  # the process was killed while it wrote
    calls: list[tuple[int, int]] = []
    checked = check_dataset(Project(workspace, store), "x", processes=1, progress=lambda *at: calls.append(at))
    assert [done for done, _ in calls] == [6, 9, 10]
    assert checked["refused_in_decoding"] == 2
    (folder / PART_FILE).write_text(json.dumps({"decoder": -1, "chunk": 3}) + '\n{"start": 0, "defects": {"0": "x"}}\n')
    assert counts(check_dataset(Project(workspace, store), "x", processes=1)) == counts(checked)


def test_changed_files_are_an_error_before_decoding(workspace: Workspace, store: Store, files: Path) -> None:
    add_dataset(Project(workspace, store), AddRequest("x", files))
    (files / "new.dcm").write_bytes((files / "black.dcm").read_bytes())
    assert check_dataset(Project(workspace, store), "x")["new"] == ["new.dcm"]
    os.utime(files / "black.dcm", ns=(1, 1))
    (files / "mr.dcm").unlink()
    with pytest.raises(ChangedDataError, match=r"1 file .*mr\.dcm.*1 file .*black\.dcm"):
        check_dataset(Project(workspace, store), "x")
    files.rename(files.with_name("elsewhere"))
    with pytest.raises(ChangedDataError, match=str(files)) as caught:  # the path is recorded: no argument to correct
        check_dataset(Project(workspace, store), "x")
    assert "data add" in caught.value.remedy


def test_outdated_findings_are_ignored_and_damaged_ones_are_an_error(
    workspace: Workspace, store: Store, files: Path
) -> None:
    version = add_dataset(Project(workspace, store), AddRequest("x", files)).version
    check_dataset(Project(workspace, store), "x")
    path = workspace.root / version.path / CHECK_FILE
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"decoder": -1}))
    assert describe_dataset(Project(workspace, store), "x")["check"] is None
    path.write_text("{")
    with pytest.raises(CorruptFileError, match=str(path)):
        describe_dataset(Project(workspace, store), "x")


def test_broken_link_is_not_a_changed_file(workspace: Workspace, store: Store, files: Path) -> None:
    (files / "dangling.dcm").symlink_to("nowhere")
    add_dataset(Project(workspace, store), AddRequest("d", files))
    assert counts(check_dataset(Project(workspace, store), "d"))["unreadable", "headers"] == 1
