"""Contact sheets."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from dicom_files import head, write_ct, write_study
from zip_files import zip_folder

from ichx.cache.resize import fit_square
from ichx.ct.dicom import read_slice
from ichx.ct.windows import windows_numpy
from ichx.datasets.add import AddRequest, add_dataset
from ichx.datasets.dataset import LoadedDataset, load_dataset
from ichx.errors import InvalidInputError, NotFoundError, NotReadyError, StorageError
from ichx.labels import LABELS
from ichx.loading.contact_sheet import EDGE, GAP, MARGIN, TITLE, choose_rows, draw_sheet, parse_windows
from ichx.project import Project
from ichx.store import Store
from ichx.workspace import Workspace


@pytest.fixture
def data(tmp_path: Path, workspace: Workspace, store: Store) -> LoadedDataset:
    ids = write_study(tmp_path / "files", "1", 6)
    rows = [f"{i}_{label},{int(n == 2)}" for n, i in enumerate(ids) for label in LABELS]
    (tmp_path / "labels.csv").write_text("ID,Label\n" + "\n".join(rows) + "\n")
    write_study(tmp_path / "files", "2", 1)
    add_dataset(Project(workspace, store), AddRequest("x", tmp_path / "files"))
    return load_dataset(Project(workspace, store), "x")


@pytest.mark.parametrize("kind", ["linear", "sigmoid"])
@pytest.mark.parametrize("packed", [False, True])
def test_pixels_are_windowed_slices(
    tmp_path: Path, workspace: Workspace, store: Store, data: LoadedDataset, kind: str, packed: bool
) -> None:
    if packed:
        add_dataset(Project(workspace, store), AddRequest("z", zip_folder(data.source, tmp_path / "x.zip")))
        data = load_dataset(Project(workspace, store), "z")
    windows = parse_windows("file,subdural")
    drawn = draw_sheet(tmp_path / "sheet.png", data, windows, kind=kind, count=2)
    picture = cv2.imread(str(tmp_path / "sheet.png"), cv2.IMREAD_GRAYSCALE)
    assert picture.shape == (drawn.height, drawn.width)
    assert (len(drawn.rows), drawn.candidates) == (2, 7)
    name = data.slices["slice_id"][drawn.rows[0]]
    hu = fit_square(read_slice(tmp_path / "files" / f"{name}.dcm").hu, EDGE, "area")
    expected = windows_numpy(hu, (40, 80), [(40, 80), (80, 200)], kind)
    for index, channel in enumerate(expected):
        left, top = MARGIN + index * (EDGE + GAP), TITLE + 18
        np.testing.assert_allclose(picture[top : top + EDGE, left : left + EDGE], channel * 255, atol=1)


def test_undecodable_slice_is_a_grey_field(tmp_path: Path, workspace: Workspace, store: Store) -> None:
    write_ct(tmp_path / "f/black.dcm", np.zeros((32, 32), np.uint16))
    write_ct(tmp_path / "f/good.dcm", head(), ImagePositionPatient=None)
    add_dataset(Project(workspace, store), AddRequest("x", tmp_path / "f"))
    draw_sheet(
        tmp_path / "s.png", load_dataset(Project(workspace, store), "x"), parse_windows("brain"), kind="linear", count=9
    )
    picture = cv2.imread(str(tmp_path / "s.png"), cv2.IMREAD_GRAYSCALE)
    fields = picture[TITLE + 18 : TITLE + 18 + EDGE, MARGIN : MARGIN + 2 * EDGE + MARGIN]
    assert (fields == 204).sum() >= EDGE * EDGE


def test_rows_are_spread_over_the_dataset_and_positive_for_the_label() -> None:
    slices = pd.DataFrame(dict.fromkeys(LABELS, [0.0] * 100))
    slices.loc[[3, 50, 97], "subdural"] = 1
    rows, candidates = choose_rows(slices, 4)
    assert (rows.tolist(), candidates) == ([12, 37, 62, 87], 100)
    rows, candidates = choose_rows(slices, 12, "subdural")
    assert (rows.tolist(), candidates) == ([3, 50, 97], 3)
    for count, label, error, value in (
        (4, "epidural", NotReadyError, "epidural"),
        (4, "sub", NotFoundError, "'sub'"),
        (0, None, InvalidInputError, "0"),
        (401, None, InvalidInputError, "401"),
    ):
        with pytest.raises(error, match=value):
            choose_rows(slices, count, label)


def test_windows_are_parsed() -> None:
    assert parse_windows("file, brain,50:130") == [
        ("file", (-1, -1)),
        ("brain", (40, 80)),
        ("50:130", (50, 130)),
    ]
    for text in ("brian", "40:0", "40", "", "nan:80", "40:-80"):
        with pytest.raises(InvalidInputError, match=repr(text)):
            parse_windows(f"bone,{text}")


@pytest.mark.parametrize("name", ["sheet.jpg", "sheet", "sheet.png.txt"])
def test_extension_must_be_png(name: str, tmp_path: Path, data: LoadedDataset) -> None:
    with pytest.raises(InvalidInputError, match=name) as caught:
        draw_sheet(tmp_path / name, data, parse_windows("brain"), kind="linear", count=1)
    assert str((tmp_path / name).with_suffix(".png")) in caught.value.remedy
    assert not (tmp_path / name).exists()
    draw_sheet(tmp_path / "SHEET.PNG", data, parse_windows("brain"), kind="linear", count=1)


def test_file_that_cannot_be_written(tmp_path: Path, data: LoadedDataset) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file/s\.png"):
        draw_sheet(tmp_path / "file/s.png", data, parse_windows("brain"), kind="linear", count=1)


@pytest.mark.parametrize(("slices", "windows"), [(400, 5), (1, 3000), (200, 250)])
def test_sheets_that_are_too_large_are_refused_with_the_cost(
    tmp_path: Path, data: LoadedDataset, slices: int, windows: int
) -> None:
    many = pd.concat([data.slices] * 400, ignore_index=True)
    with pytest.raises(InvalidInputError, match=rf"{slices} slices? in {windows:,} windows .* [GMT]B"):
        draw_sheet(
            tmp_path / "s.png",
            replace(data, slices=many),
            parse_windows(",".join(["brain"] * windows)),
            kind="linear",
            count=slices,
        )
    assert list(tmp_path.glob("s*")) == []


@pytest.mark.parametrize("text", ["1e400:80", "1e308:80", "40:1e-300", "40:1e308", "nan:80", "40:-1", "40:0", "40"])
def test_windows_outside_the_possible_hounsfield_units(text: str) -> None:
    with pytest.raises(InvalidInputError, match=text):
        parse_windows(f"brain,{text}")
