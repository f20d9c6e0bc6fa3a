"""Matching ids of a CSV with slices: SOPInstanceUIDs, and file names as other systems spell them."""

import re
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ichx.datasets.id_matching import match_images
from ichx.datasets.ingest import file_stem
from ichx.errors import InvalidInputError

CSV = Path("labels.csv")


def catalog(*files: str, defects: dict[int, str] | None = None) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "slice_id": [f"1.2.{n}" for n in range(len(files))],
            "stem": [file_stem(file) for file in files],
            "file": files,
            "defect": pd.Series([(defects or {}).get(n) for n in range(len(files))], dtype=object),
        }
    )


def images(*names: str) -> np.ndarray:
    return np.array(names, object)


def test_uids_win_over_file_names() -> None:
    match = match_images(catalog("1.2.1.dcm", "1.2.0.dcm"), images("1.2.0", "9"), CSV)
    assert (match.by, match.image.tolist()) == ("slice_id", [0, -1])
    assert (match.absent, match.absent_examples, match.defective) == (1, ("9",), 0)


def test_a_uid_may_be_the_name_of_an_excluded_file() -> None:
    """The header of such a file may be unreadable."""
    files = catalog("1.2.0.dcm", "1.2.7.dcm", defects={1: "truncated"})
    files.loc[1, "slice_id"] = ""
    match = match_images(files, images("1.2.0", "1.2.7", "9"), CSV)
    assert (match.absent, match.absent_examples, match.defective) == (1, ("9",), 1)


@pytest.mark.parametrize(
    "names",
    [
        ("Schädel_1", "Schädel_2"),
        (unicodedata.normalize("NFD", "Schädel_1"), unicodedata.normalize("NFD", "Schädel_2")),
        ("SCHÄDEL_1", "schädel_2"),
        ("Schädel_1.dcm", "Schädel_2.DCM"),
        ("train/Schädel_1.dcm", r"train\Schädel_2.dcm"),
    ],
)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_file_names(names: tuple[str, str], form: str) -> None:
    files = [unicodedata.normalize(form, f"a/Schädel_{n}.dcm") for n in (2, 3, 1)]
    match = match_images(catalog(*files), images(*names), CSV)
    assert (match.by, match.image.tolist(), match.absent) == ("stem", [1, -1, 0], 0)


def test_an_additional_name_and_an_excluded_file() -> None:
    files = catalog("a/x.dcm", "a/y.dcm", "a/Z.dcm", defects={2: "truncated"})
    match = match_images(files, images("x", "more", "z", "y"), CSV)
    assert (match.by, match.image.tolist()) == ("stem", [0, 3, -1])
    assert (match.absent, match.absent_examples, match.defective) == (1, ("more",), 1)


def test_names_that_differ_only_in_case_are_different_files() -> None:
    match = match_images(catalog("a.dcm", "A.dcm"), images("A", "a", "b"), CSV)
    assert match.image.tolist() == [1, 0]


def test_a_name_of_several_files_is_refused_with_them() -> None:
    files = catalog("p1/IM1", "p2/IM1", "p1/IM2", "p1/IM3", "p2/IM3")
    with pytest.raises(InvalidInputError) as caught:
        match_images(files, images("IM1", "IM2"), CSV)
    assert re.search(r"labels\.csv: 1 id .*IM1: p1/IM1 and p2/IM1", caught.value.problem)
    assert match_images(files, images("IM2"), CSV).image.tolist() == [-1, -1, 0, -1, -1]


def test_no_match_is_refused_with_examples() -> None:
    with pytest.raises(InvalidInputError) as caught:
        match_images(catalog("a/x.dcm"), images("9.9", "9.8"), CSV)
    assert all(value in caught.value.problem for value in ("labels.csv", "'9.9'", "'1.2.0'", "'a/x.dcm'"))
