"""The patient's sides in images, from directions and from files."""

import math
import shutil
from pathlib import Path

import pytest
from dicom_files import write_ct

from ichx.ct.geometry import image_sides
from ichx.datasets.catalog import build_catalog, usable_slices
from ichx.datasets.image_sides import read_image_sides
from ichx.datasets.ingest import scan_source

AXIAL, PRONE = (1, 0, 0, 0, 1, 0), (-1, 0, 0, 0, -1, 0)
SAGITTAL, CORONAL = (0, 1, 0, 0, 0, -1), (1, 0, 0, 0, 0, -1)


def turned(degrees: float) -> tuple[float, ...]:
    """Return an axial image turned in its plane."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return (c, s, 0, -s, c, 0)


@pytest.mark.parametrize(
    ("orientation", "sides"),
    [
        (AXIAL, ("R", "L")),
        (PRONE, ("L", "R")),
        (CORONAL, ("R", "L")),
        (SAGITTAL, None),
        (turned(44), ("R", "L")),
        (turned(46), None),
        (turned(180), ("L", "R")),
        ((300.0, 0, 0, 0, 1, 0), ("R", "L")),
        ((0, 0, 0, 0, 1, 0), None),
        ((math.nan,) * 6, None),
        (None, None),
    ],
)
def test_sides_follow_the_direction_of_the_rows(
    orientation: tuple[float, ...] | None, sides: tuple[str, str] | None
) -> None:
    assert image_sides(orientation) == sides


@pytest.mark.parametrize("zipped", [False, True])
def test_sides_come_from_the_headers(tmp_path: Path, zipped: bool) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    for number, orientation in enumerate((AXIAL, PRONE, SAGITTAL, None)):
        values = {} if orientation is None else {"ImageOrientationPatient": list(orientation)}
        unset = {"ImageOrientationPatient": None} if orientation is None else {}
        write_ct(
            folder / f"{number}.dcm", SeriesInstanceUID=f"1.2.{number}", SOPInstanceUID=f"1.{number}", **values | unset
        )
    source = folder
    if zipped:
        source = Path(shutil.make_archive(str(tmp_path / "data"), "zip", folder))
    slices = usable_slices(build_catalog(scan_source(source), None)[0]).sort_values("stem")
    expected = [("R", "L"), ("L", "R"), None, None]
    assert read_image_sides(source, slices) == expected
    assert read_image_sides(source, slices.iloc[[1, 1, 0]]) == [("L", "R"), ("L", "R"), ("R", "L")]
    assert read_image_sides(tmp_path / "absent", slices) == [None] * 4
    if not zipped:  # a changed and a removed file
        (folder / "0.dcm").write_bytes((folder / "1.dcm").read_bytes() + b"\0\0")
        (folder / "1.dcm").unlink()
        assert read_image_sides(source, slices) == [None] * 4
