"""Slices in their series, for a whole dataset."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dicom_files import write_study

from ichx.datasets.catalog import build_catalog, usable
from ichx.datasets.ingest import scan_source
from ichx.datasets.series import FLAGS, describe_geometry, describe_series, series_geometry, stacks


def slices_of(source: Path) -> pd.DataFrame:
    return usable(build_catalog(scan_source(source), None)[0])


def write_steps(folder: Path, patient: str, places: list[float], **elements: object) -> None:
    for index, place in enumerate(places):
        write_study(folder, patient, 1, start=index, **{"ImagePositionPatient": [0, 0, place]} | elements)


def test_neighbours_are_rows_of_the_same_series(tmp_path: Path) -> None:
    write_study(tmp_path / "a", "1", 3)
    write_study(tmp_path / "b", "2", 1)
    write_study(tmp_path / "c", "3", 2)
    slices = slices_of(tmp_path)
    assert slices["previous"].tolist() == [-1, 0, 1, -1, -1, 4]
    assert slices["next"].tolist() == [1, 2, -1, -1, 5, -1]
    np.testing.assert_allclose(slices["step"], [np.nan, 5, 5, np.nan, np.nan, 5])


def test_flags_are_told_with_series_slices_and_examples(tmp_path: Path) -> None:
    write_steps(tmp_path / "regular", "1", [0, 5, 10, 15, 20])
    write_steps(tmp_path / "gap", "2", [0, 5, 10, 25, 30, 35])
    write_steps(tmp_path / "twice", "3", [0, 5, 5.02, 10, 15])
    write_steps(tmp_path / "again", "4", [0, 5, 5.5, 10, 10.5, 15, 20])
    write_steps(tmp_path / "coronal", "5", [0, 0.1, 0.2], ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    write_steps(tmp_path / "bare", "6", [0, 5], ImagePositionPatient=None)
    slices = slices_of(tmp_path)
    told = {entry["flag"]: entry for entry in describe_geometry(slices)}
    assert {flag: (entry["series"], entry["slices"]) for flag, entry in told.items()} == {
        "gap": (1, 1),
        "overlap": (1, 2),
        "same_place": (2, 3),  # the coronal slices all stand at the same place along their normal
        "not_axial": (1, 3),
        "by_number": (1, 2),
    }
    gap = slices[slices["gap"]].iloc[0]
    assert told["gap"]["examples"] == [gap["file"]]
    assert (gap["position"], gap["step"]) == (25, 15)
    assert set(told) < set(FLAGS)


def test_a_slice_turned_against_its_series(tmp_path: Path) -> None:
    write_steps(tmp_path, "1", [0, 5, 10, 15])
    write_study(tmp_path, "1", 1, start=9, ImageOrientationPatient=[1, 0, 0, 0, 0.99, 0.14])
    slices = slices_of(tmp_path)
    assert slices["series"].nunique() == 1
    assert slices["off_normal"].sum() == 1


def test_lengths_spacings_and_tilt(tmp_path: Path) -> None:
    write_study(tmp_path / "a", "1", 5)
    write_study(tmp_path / "b", "2", 3, ImageOrientationPatient=[1, 0, 0, 0, np.cos(0.3), np.sin(0.3)])
    told = describe_series(slices_of(tmp_path))
    assert (told["series"], told["lengths"]["least"], told["lengths"]["most"]) == (2, 3, 5)
    assert told["spacings"] == [{"mm": 4.8, "series": 1}, {"mm": 5.0, "series": 1}]
    assert (told["tilted"], told["median_tilt"]) == (1, pytest.approx(np.degrees(0.3), abs=0.01))


def test_nothing_is_a_series_too(tmp_path: Path) -> None:
    write_study(tmp_path, "1", 1)
    scan = scan_source(tmp_path)
    empty = series_geometry(scan["series_id"].iloc[:0], scan.iloc[:0])
    assert all(len(column) == 0 for column in empty.values())
    assert describe_geometry(slices_of(tmp_path)) == []


def test_real_series(shared_data: Path) -> None:
    """Head CT of many scanners: steps change within a series, parts are scanned again, little is missing."""
    headers = pd.read_csv(shared_data / "metadata/slices_78545.csv.gz")
    scan = pd.DataFrame({"slice_id": headers["SOPInstanceUID"], "instance_number": -1})
    for index, axis in enumerate("xyz"):
        scan[f"pos_{axis}"] = headers[f"ImagePositionPatient_{index + 1}"]
    for index in range(6):
        scan[f"orientation_{index}"] = headers[f"ImageOrientationPatient_{index + 1}"]
    placed = pd.DataFrame(series_geometry(headers["SeriesInstanceUID"], scan))
    placed["series"], placed["file"] = headers["SeriesInstanceUID"], headers["SOPInstanceUID"]
    told = {entry["flag"]: (entry["series"], entry["slices"]) for entry in describe_geometry(placed)}
    assert told == {"gap": (6, 6), "overlap": (171, 760), "same_place": (60, 563), "off_normal": (3, 10)}
    gaps = sorted(placed["step"][placed["gap"]].round(1).tolist())
    assert gaps == [5.0, 9.4, 10.0, 10.0, 74.1, 143.9]
    series = describe_series(placed)
    assert (series["series"], series["tilted"]) == (2214, 2024)
    assert series["spacings"][0]["mm"] == 5.0


def test_stacks_skip_what_is_not_readable_and_repeat_the_outermost() -> None:
    series = pd.Series(["b"] * 6 + ["a"] + ["c"] * 2)
    readable = np.array([0, 1, 1, 0, 1, 1, 1, 1, 1], bool)
    rows = np.array([8, 1, 2, 4, 5, 6, 7])
    assert stacks(series, readable, rows, 1).tolist() == [
        [7, 8, 8],
        [1, 1, 2],
        [1, 2, 4],
        [2, 4, 5],
        [4, 5, 5],
        [6, 6, 6],
        [7, 7, 8],
    ]
    assert stacks(series, readable, np.array([2]), 3).tolist() == [[1, 1, 1, 2, 4, 5, 5]]
    assert stacks(series, readable, np.empty(0, np.int64), 2).shape == (0, 5)


def test_stacks_are_previous_and_next_where_all_is_readable(tmp_path: Path) -> None:
    for name, patient, count in (("a", "1", 3), ("b", "2", 1), ("c", "3", 4)):
        write_study(tmp_path / name, patient, count)
    slices = slices_of(tmp_path)
    rows = np.arange(len(slices))
    beside = slices[["previous", "next"]].to_numpy()
    beside = np.where(beside < 0, rows[:, None], beside)
    found = stacks(slices["series"], np.ones(len(slices), bool), rows, 1)
    assert found.tolist() == np.stack([beside[:, 0], rows, beside[:, 1]], 1).tolist()
