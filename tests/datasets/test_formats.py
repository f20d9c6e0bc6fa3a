"""Formats of public datasets: registry, third parties, files that have another layout."""

import json
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from conftest import Program
from dicom_files import write_study

from ichx.datasets.formats import registry
from ichx.datasets.formats.files import FormatFiles
from ichx.datasets.formats.registry import GROUP, load_formats
from ichx.errors import InvalidInputError, NotFoundError
from ichx.workspace import init_workspace

SOURCE = """
from ichx.datasets.formats.contract import DatasetFormat, FileIds, FormatContents

def read(files):
    table = files.table(files.one(r"studies\\.csv$", "studies.csv"), ("file", "patient", "age"))
    ids = {row.file: FileIds(patient=row.patient, age=row.age) for row in table.itertuples()}
    return FormatContents(folder="scans", include=r"\\.dcm$", ids=ids, notes=("Patients are those of studies.csv.",))

FORMAT = DatasetFormat("our-pacs", "Export of our PACS", "internal", read)
WRONG = 3
"""


def point(name: str, value: str) -> EntryPoint:
    return EntryPoint(name=name, value=value, group=GROUP)


@pytest.fixture
def third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "a_format.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point("ours", "a_format:FORMAT")])
    yield
    sys.modules.pop("a_format", None)


@pytest.mark.usefixtures("third_party")
def test_a_package_adds_a_format() -> None:
    found = load_formats()
    assert found.get("our-pacs").title == "Export of our PACS"
    assert found.warnings == ()


@pytest.mark.usefixtures("third_party")
def test_a_broken_format_is_one_warning() -> None:
    points = [point("wrong", "a_format:WRONG"), point("gone", "no_such_module:FORMAT"), point("ok", "a_format:FORMAT")]
    found = load_formats(points)
    assert "our-pacs" in found.formats
    assert len(found.warnings) == 2


def test_an_unknown_format_names_the_known_ones(tmp_path: Path, ichx: Program) -> None:
    init_workspace(tmp_path / "ws")
    with pytest.raises(NotFoundError):
        load_formats().get("cq501")
    added = ichx("data", "add", "x", tmp_path, "--format", "cq501", "--json", cwd=tmp_path / "ws")
    added.check_error("not_found", "cq501")


@pytest.mark.usefixtures("third_party")
def test_a_format_decides_what_is_scanned_and_who_the_patients_are(tmp_path: Path, ichx: Program) -> None:
    root = init_workspace(tmp_path / "ws").root
    for patient in ("a", "b"):
        write_study(tmp_path / "data" / "scans", patient, 2)
    names = sorted(path.name for path in (tmp_path / "data" / "scans").iterdir())
    (tmp_path / "data" / "scans" / "readme.txt").write_text("not a slice")
    rows = [f"{name},p{number},{30 + 20 * number:03d}Y" for number, name in enumerate(names)]
    (tmp_path / "data" / "studies.csv").write_text("\ufefffile , patient,age\n" + "\n".join(rows) + "\n")
    added = ichx("data", "add", "x", tmp_path / "data", "--format", "our-pacs", cwd=root)
    assert added.code == 0, added.err
    assert "our-pacs: Patients are those of studies.csv." in added.err
    shown = json.loads(ichx("data", "show", "x", "--json", cwd=root).out)
    assert shown["version"]["slices"] == 4
    assert shown["version"]["defects"] == 0
    assert shown["version"]["summary"]["format"] == "our-pacs"
    checked = json.loads(ichx("data", "check", "x", "--json", cwd=root).out)
    assert checked["new"] == []  # the text is no file of the dataset


def test_files_of_another_layout_are_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    (tmp_path / "b.csv").write_text("")
    files = FormatFiles(tmp_path, "some")
    for call in (
        lambda: files.require(r"\.dcm$", "DICOM files"),
        lambda: files.one(r"\.csv$", "CSV"),
        lambda: files.table("a.csv", ("x", "label")),
        lambda: files.table("b.csv", ("x",)),
    ):
        with pytest.raises(InvalidInputError) as raised:
            call()
        assert "some" in raised.value.problem
