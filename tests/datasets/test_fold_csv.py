"""CSVs of folds: columns by name, numbers from 0 or 1, and everything that is wrong told at once."""

import gzip
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ichx.datasets.fold_csv import FoldTable, read_folds
from ichx.errors import IchxError


def read(folder: Path, text: str) -> FoldTable:
    path = folder / "folds.csv"
    path.write_text(text, encoding="utf-8")
    return read_folds(path)


def problem(folder: Path, text: str) -> str:
    with pytest.raises(IchxError) as caught:
        read(folder, text)
    assert "a CSV of folds has a column `fold`" in caught.value.remedy
    return caught.value.problem


@pytest.mark.parametrize(
    ("header", "column", "of_patients"),
    [
        ("slice_id,fold", "slice_id", False),
        ("ID,Fold", "ID", False),
        ("Image ID,fold id", "Image ID", False),
        ("SOPInstanceUID,kfold", "SOPInstanceUID", False),
        ("filename,fold", "filename", False),
        ("PatientID,fold", "PatientID", True),
        ("patient,fold_number", "patient", True),
    ],
)
def test_columns_are_known_by_their_names(tmp_path: Path, header: str, column: str, of_patients: bool) -> None:
    table = read(tmp_path, f"{header}\na,0\nb,1\n")
    assert (table.id_column, table.of_patients, table.k, table.from_one, table.merged) == (
        column,
        of_patients,
        2,
        False,
        0,
    )
    assert (table.ids.tolist(), table.folds.tolist()) == (["a", "b"], [0, 1])
    assert repr(column) in table.told
    assert ("patients in" in table.told) is of_patients


def test_the_column_that_says_most_is_taken_and_others_do_not_count(tmp_path: Path) -> None:
    text = ",PatientID,ID,SOPInstanceUID,any,fold\n0,p,1,1.2.3,0,1\n1,p,2,1.2.4,1,0\n"
    table = read(tmp_path, text)
    assert (table.id_column, table.fold_column) == ("SOPInstanceUID", "fold")
    assert table.ids.tolist() == ["1.2.3", "1.2.4"]
    assert read(tmp_path, text.replace("SOPInstanceUID", "any2")).id_column == "ID"


def test_folds_from_one_and_whole_numbers_with_a_point(tmp_path: Path) -> None:
    table = read(tmp_path, "image,fold\na,1\nb,3.0\nc, 2\n")
    assert (table.folds.tolist(), table.k, table.from_one) == ([0, 2, 1], 3, True)
    assert "counted from 1 there and from 0 here" in table.told


def test_compressed_files_with_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    path = tmp_path / "folds.csv.gz"
    path.write_bytes(gzip.compress("\ufeffimage,fold\r\n007,0\r\nNA,1\r\n".encode()))
    assert read_folds(path).ids.tolist() == ["007", "NA"]


@settings(max_examples=40, deadline=None)
@given(data=st.data(), k=st.integers(2, 6), start=st.integers(0, 1))
def test_rows_may_stand_in_any_order_and_be_said_again(
    tmp_path_factory: pytest.TempPathFactory, data, k, start
) -> None:
    ids = data.draw(st.lists(st.text("abc_019", min_size=1, max_size=6), min_size=k, max_size=12, unique=True))
    folds = {name: place % k for place, name in enumerate(ids)}
    again = data.draw(st.lists(st.sampled_from(ids), max_size=5))
    rows = data.draw(st.permutations([*ids, *again]))
    text = "id,fold\n" + "".join(f"{name},{folds[name] + start}\n" for name in rows)
    table = read(tmp_path_factory.mktemp("csv"), text)
    assert dict(zip(table.ids, table.folds.tolist(), strict=True)) == folds
    assert (table.k, table.from_one, table.merged) == (k, start == 1, len(again))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("image,label\na,0\n", "has the columns image, label: no column of folds"),
        ("a,b\n1,2\n", "no column of folds; no column of slices or patients"),
        ("series,fold\n1,2\n", "has the columns series, fold: no column of slices or patients"),
        ("image,fold,Fold\na,0,1\n", "columns that mean the same: Fold, fold"),
        ("image;fold\na;0\n", "has the columns image;fold"),
        ("image,fold\n", "has no rows"),
        ("", "cannot be read as CSV"),
        ("image,fold\na,0\nb,0\n", "the folds are numbered 0: they must be"),
        ("image,fold\na,0\nb,1\nc,3\n", "the folds are numbered 0, 1, 3: they must be 0 to k - 1 or 1 to k"),
        ("image,fold\na,2\nb,3\n", "the folds are numbered 2, 3"),
        ("image,fold\na,-1\nb,0\nc,1\n", "the folds are numbered -1, 0, 1"),
        ("image,fold\na,0\nb,train\nc,0.5\nd,\n", "3 rows whose fold is no whole number: line 3: 'train'"),
        ("image,fold\na,0\n,1\n", "1 row without an id: line 3"),
        ("image,fold\na,1\nb,2\na,2\na,1\n", "1 id with rows that disagree: a in 1, 2"),
        (
            "patient_id,fold\np,0\nq,1\np,1\n",
            "1 patient with rows that disagree: p in 0, 1; a patient split over folds needs a row per slice",
        ),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, text: str, told: str) -> None:
    assert told in problem(tmp_path, text)


def test_all_of_it_at_once(tmp_path: Path) -> None:
    told = problem(tmp_path, "image,fold\na,0\nb,1\na,1\n,1\n")
    assert "1 row without an id" in told
    assert "rows that disagree" in told


def test_a_column_of_other_numbers_is_no_column_of_folds(tmp_path: Path) -> None:
    told = problem(tmp_path, "image,fold\n" + "".join(f"i{n},{n}\n" for n in range(200)))
    assert "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 ... 199" in told


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(IchxError, match="there is no file"):
        read_folds(tmp_path / "absent.csv")
