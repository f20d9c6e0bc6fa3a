"""Geometry of the series of a dataset."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dicom_files import head, write_ct, write_study
from pydicom import config

from ichx.ct.dicom import read_slice
from ichx.datasets.catalog import build_catalog, catalog_digest, read_catalog, usable_slices
from ichx.datasets.ingest import scan_source
from ichx.datasets.series import (
    FLAGS,
    count_flags,
    describe_geometry,
    describe_series,
    neighbour_rows,
    run_codes,
    series_codes,
    series_geometry,
    stack_rows,
)
from ichx.evaluation.series_neighbours import SeriesNeighbours
from ichx.phantom.encoded_files import enhanced


def slices_of(source: Path) -> pd.DataFrame:
    return usable_slices(build_catalog(scan_source(source), None)[0])


def write_series(folder: Path, patient: str, positions: list[float], **elements: object) -> None:
    for index, z in enumerate(positions):
        write_study(folder, patient, 1, start=index, **{"ImagePositionPatient": [0, 0, z]} | elements)


def test_neighbours_are_rows_of_the_same_series(tmp_path: Path) -> None:
    write_study(tmp_path / "a", "1", 3)
    write_study(tmp_path / "b", "2", 1)
    write_study(tmp_path / "c", "3", 2)
    slices = slices_of(tmp_path)
    assert slices["previous"].tolist() == [-1, 0, 1, -1, -1, 4]
    assert slices["next"].tolist() == [1, 2, -1, -1, 5, -1]
    np.testing.assert_allclose(slices["step"], [np.nan, 5, 5, np.nan, np.nan, 5])


def test_describe_geometry_counts_flags(tmp_path: Path) -> None:
    write_series(tmp_path / "regular", "1", [0, 5, 10, 15, 20])
    write_series(tmp_path / "gap", "2", [0, 5, 10, 25, 30, 35])
    write_series(tmp_path / "twice", "3", [0, 5, 5.02, 10, 15])
    write_series(tmp_path / "again", "4", [0, 5, 5.6, 10, 10.6, 15, 20])
    write_series(tmp_path / "coronal", "5", [0, 0.1, 0.2], ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    write_series(tmp_path / "bare", "6", [0, 5], ImagePositionPatient=None)
    slices = slices_of(tmp_path)
    flags = {entry["flag"]: entry for entry in describe_geometry(slices)}
    assert {flag: (entry["series"], entry["slices"]) for flag, entry in flags.items()} == {
        "gap": (1, 1),
        "overlap": (1, 2),
        "same_place": (2, 3),  # all coronal slices are at one position along their normal
        "not_axial": (1, 3),
        "by_number": (1, 2),
    }
    gap = slices[slices["gap"]].iloc[0]
    assert flags["gap"]["examples"] == [gap["file"]]
    assert (gap["position"], gap["step"]) == (25, 15)
    assert set(flags) < set(FLAGS)


def test_rotated_slice_is_off_normal(tmp_path: Path) -> None:
    write_series(tmp_path, "1", [0, 5, 10, 15])
    write_study(tmp_path, "1", 1, start=9, ImageOrientationPatient=[1, 0, 0, 0, 0.99, 0.14])
    slices = slices_of(tmp_path)
    assert slices["series"].nunique() == 1
    assert slices["off_normal"].sum() == 1


def test_describe_series(tmp_path: Path) -> None:
    write_study(tmp_path / "a", "1", 5)
    write_study(tmp_path / "b", "2", 3, ImageOrientationPatient=[1, 0, 0, 0, np.cos(0.3), np.sin(0.3)])
    series = describe_series(slices_of(tmp_path))
    assert (series["series"], series["lengths"]["least"], series["lengths"]["most"]) == (2, 3, 5)
    assert series["spacings"] == [{"mm": 4.777, "series": 1}, {"mm": 5.0, "series": 1}]
    assert (series["tilted"], series["median_tilt"]) == (1, pytest.approx(np.degrees(0.3), abs=0.01))


def test_series_of_several_studies_are_separate() -> None:
    """Catalogs of version 0.1 may have one series id in several studies."""
    slices = pd.DataFrame({"study": ["a", "a", "b", "b", "b"], "series": ["s"] * 5, "run": [0, 1, 0, 0, 1]})
    assert series_codes(slices).tolist() == [0, 0, 1, 1, 1]
    assert run_codes(slices).tolist() == [0, 1, 2, 2, 3]
    assert neighbour_rows(slices)["next"].tolist() == [-1, -1, 3, -1, -1]


def test_no_slices(tmp_path: Path) -> None:
    write_study(tmp_path, "1", 1)
    scan = scan_source(tmp_path)
    empty = series_geometry(scan["series_id"].iloc[:0], scan.iloc[:0])
    assert all(len(column) == 0 for column in empty.values())
    assert describe_geometry(slices_of(tmp_path)) == []


def test_spacings_are_exact_and_nearly_equal_ones_count_as_one(tmp_path: Path) -> None:
    for patient, step in enumerate((0.75, 0.625, 0.75, 0.625, 0.75, 5.001, 5.0, 5.0)):
        write_series(tmp_path / str(patient), str(patient), [step * index for index in range(4)])
    spacings = [(entry["mm"], entry["series"]) for entry in describe_series(slices_of(tmp_path))["spacings"]]
    assert spacings == [(0.75, 3), (5.0, 3), (0.625, 2)]


def test_real_series(shared_data: Path) -> None:
    """Head CT of many scanners: steps change within a series, some regions are scanned twice."""
    headers = pd.read_csv(shared_data / "metadata/slices_78545.csv.gz")
    scan = pd.DataFrame({"slice_id": headers["SOPInstanceUID"], "instance_number": -1})
    for index, axis in enumerate("xyz"):
        scan[f"pos_{axis}"] = headers[f"ImagePositionPatient_{index + 1}"]
    for index in range(6):
        scan[f"orientation_{index}"] = headers[f"ImageOrientationPatient_{index + 1}"]
    placed = pd.DataFrame(series_geometry(headers["SeriesInstanceUID"], scan))
    placed["study"], placed["series"] = headers["StudyInstanceUID"], headers["SeriesInstanceUID"]
    placed["file"] = headers["SOPInstanceUID"]
    flags = {entry["flag"]: (entry["series"], entry["slices"]) for entry in describe_geometry(placed)}
    assert flags == {"gap": (6, 6), "overlap": (171, 760), "same_place": (60, 563), "off_normal": (3, 10)}
    gaps = sorted(placed["step"][placed["gap"]].round(1).tolist())
    assert gaps == [5.0, 9.4, 10.0, 10.0, 74.1, 143.9]
    series = describe_series(placed)
    assert (series["series"], series["tilted"]) == (2214, 2024)
    assert series["spacings"][0]["mm"] == 5.0
    assert series["several_runs"] == 143


def test_stacks_skip_unreadable_slices_and_repeat_the_outermost() -> None:
    series = np.array([0] * 6 + [1] + [2] * 2)
    readable = np.array([0, 1, 1, 0, 1, 1, 1, 1, 1], bool)
    rows = np.array([8, 1, 2, 4, 5, 6, 7])
    assert stack_rows(series, readable, rows, 1).tolist() == [
        [7, 8, 8],
        [1, 1, 2],
        [1, 2, 4],
        [2, 4, 5],
        [4, 5, 5],
        [6, 6, 6],
        [7, 7, 8],
    ]
    assert stack_rows(series, readable, np.array([2]), 3).tolist() == [[1, 1, 1, 2, 4, 5, 5]]
    assert stack_rows(series, readable, np.empty(0, np.int64), 2).shape == (0, 5)


def test_stacks_of_readable_slices_are_previous_and_next(tmp_path: Path) -> None:
    for name, patient, count in (("a", "1", 3), ("b", "2", 1), ("c", "3", 4)):
        write_study(tmp_path / name, patient, count)
    slices = slices_of(tmp_path)
    rows = np.arange(len(slices))
    adjacent = slices[["previous", "next"]].to_numpy()
    adjacent = np.where(adjacent < 0, rows[:, None], adjacent)
    found = stack_rows(run_codes(slices), np.ones(len(slices), bool), rows, 1)
    assert found.tolist() == np.stack([adjacent[:, 0], rows, adjacent[:, 1]], 1).tolist()


def test_frames_are_ordered_by_position_whatever_their_order_in_the_file(tmp_path: Path) -> None:
    places = [15.0, 0.0, 25.0, 5.0, 20.0, 10.0]
    images = [head(seed) for seed in range(len(places))]
    dataset = enhanced(write_ct(tmp_path / "a.dcm"), images)
    for group, z in zip(dataset.PerFrameFunctionalGroupsSequence, places, strict=True):
        group.PlanePositionSequence[0].ImagePositionPatient = [-120, -120, z]
    with config.disable_value_validation():
        dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    slices = slices_of(tmp_path)
    assert slices["frame"].tolist() == [2, 4, 6, 1, 5, 3]
    assert slices["position"].tolist() == sorted(places)
    for frame, image in enumerate(images, 1):
        assert (read_slice(tmp_path / "a.dcm", frame).hu == image.astype(int) - 1024).all()


def test_two_passes_in_one_series_alternate_and_are_flagged(tmp_path: Path) -> None:
    for acquisition in (1, 2):
        for index in range(4):
            write_ct(
                tmp_path / f"{acquisition}{index}.dcm",
                AcquisitionNumber=acquisition,
                InstanceNumber=4 * (acquisition - 1) + index + 1,
                ImagePositionPatient=[-120, -120, 5.0 * index],
            )
    slices = slices_of(tmp_path)
    assert slices["instance_number"].tolist() == [1, 5, 2, 6, 3, 7, 4, 8]
    assert slices["same_place"].tolist() == [False, True] * 4
    assert not slices[["gap", "overlap", "by_number"]].any(axis=None)
    assert slices["run"].tolist() == [0, 1] * 4
    assert slices["previous"].tolist() == [-1, -1, 0, 1, 2, 3, 4, 5]
    assert slices["next"].tolist() == [2, 3, 4, 5, 6, 7, -1, -1]
    neighbours = SeriesNeighbours.of(slices)
    assert [rows.tolist() for rows in neighbours.sequences()] == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert neighbours.position.tolist() == [0, 0, 5, 5, 10, 10, 15, 15]
    stacks = stack_rows(run_codes(slices), np.arange(8) != 3, np.array([0, 1, 5, 6]), 1)
    assert stacks.tolist() == [[0, 0, 2], [1, 1, 5], [1, 5, 7], [4, 6, 6]]  # row 3 is unreadable
    assert describe_series(slices)["several_runs"] == 1


def test_catalog_without_runs_gets_them_on_load(tmp_path: Path) -> None:
    """Catalogs of version 0.1 lack the column; digests do not cover it."""
    for number, z in enumerate([0, 4.4, 5, 9.4, 10, 14.4, 15, 20, 25, 30]):
        write_study(tmp_path / "interleaved", "1", 1, start=number, ImagePositionPatient=[0, 0, z])
    write_series(tmp_path / "bare", "2", [0, 5, 10], ImagePositionPatient=None)
    (tmp_path / "note.txt").write_text("no DICOM")
    catalog, _ = build_catalog(scan_source(tmp_path), None)
    assert catalog.set_index("file")["run"]["note.txt"] == -1
    slices = usable_slices(catalog)
    runs = slices.groupby("series")["run"].apply(list).tolist()
    assert sorted(runs, key=len) == [[0, 0, 0], [0, 1, 0, 1, 0, 1, 0, 0, 0, 0]]
    assert count_flags(slices)["by_number"] == {"series": 1, "slices": 3}
    catalog.drop(columns="run").to_parquet(tmp_path / "catalog.parquet", index=False)
    read = read_catalog(tmp_path / "catalog.parquet")
    pd.testing.assert_frame_equal(read, catalog)
    assert catalog_digest(read.assign(run=0)) == catalog_digest(catalog)
