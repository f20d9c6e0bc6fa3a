"""Reading CSV files of folds."""

import gzip
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ichx.datasets.fold_csv import FoldTable, read_folds
from ichx.errors import CorruptFileError, IchxError, InvalidInputError, NotFoundError


def read(folder: Path, text: str) -> FoldTable:
    path = folder / "folds.csv"
    path.write_text(text, encoding="utf-8")
    return read_folds(path)


def problem(folder: Path, text: str, error: type[IchxError] = InvalidInputError) -> str:
    with pytest.raises(error) as caught:
        read(folder, text)
    assert "`fold`" in caught.value.remedy
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
def test_columns_are_recognized_by_name(tmp_path: Path, header: str, column: str, of_patients: bool) -> None:
    table = read(tmp_path, f"{header}\na,0\nb,1\n")
    assert (table.id_column, table.of_patients, table.k, table.one_based, table.duplicates) == (
        column,
        of_patients,
        2,
        False,
        0,
    )
    assert (table.ids.tolist(), table.folds.tolist()) == (["a", "b"], [0, 1])


def test_most_specific_column_is_used(tmp_path: Path) -> None:
    text = ",PatientID,ID,SOPInstanceUID,any,fold\n0,p,1,1.2.3,0,1\n1,p,2,1.2.4,1,0\n"
    table = read(tmp_path, text)
    assert (table.id_column, table.fold_column) == ("SOPInstanceUID", "fold")
    assert table.ids.tolist() == ["1.2.3", "1.2.4"]
    assert read(tmp_path, text.replace("SOPInstanceUID", "any2")).id_column == "ID"


def test_one_based_folds_with_decimal_points(tmp_path: Path) -> None:
    table = read(tmp_path, "image,fold\na,1\nb,3.0\nc, 2\n")
    assert (table.folds.tolist(), table.k, table.one_based) == ([0, 2, 1], 3, True)


def test_compressed_file_with_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "folds.csv.gz"
    path.write_bytes(gzip.compress("\ufeffimage,fold\r\n007,0\r\nNA,1\r\n".encode()))
    assert read_folds(path).ids.tolist() == ["007", "NA"]


@settings(max_examples=40, deadline=None)
@given(data=st.data(), k=st.integers(2, 6), start=st.integers(0, 1))
def test_order_and_duplicates_of_rows_are_irrelevant(tmp_path_factory: pytest.TempPathFactory, data, k, start) -> None:
    ids = data.draw(st.lists(st.text("abc_019", min_size=1, max_size=6), min_size=k, max_size=12, unique=True))
    folds = {name: index % k for index, name in enumerate(ids)}
    repeated = data.draw(st.lists(st.sampled_from(ids), max_size=5))
    rows = data.draw(st.permutations([*ids, *repeated]))
    text = "id,fold\n" + "".join(f"{name},{folds[name] + start}\n" for name in rows)
    table = read(tmp_path_factory.mktemp("csv"), text)
    assert dict(zip(table.ids, table.folds.tolist(), strict=True)) == folds
    assert (table.k, table.one_based, table.duplicates) == (k, start == 1, len(repeated))


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("image,label\na,0\n", "columns image, label: .*folds"),
        ("a,b\n1,2\n", "columns a, b: .*folds.*slices or patients"),
        ("series,fold\n1,2\n", "columns series, fold: .*slices or patients"),
        ("image,fold,Fold\na,0,1\n", r"\(Fold, fold\)"),
        ("image fold\na 0\n", "image fold"),
        ("image,fold\n", r"folds\.csv"),
        ("image,fold\na,0\nb,0\n", "numbers 0:"),
        ("image,fold\na,0\nb,1\nc,3\n", "numbers 0, 1, 3:"),
        ("image,fold\na,2\nb,3\n", "numbers 2, 3:"),
        ("image,fold\na,-2\nb,0\nc,1\n", "numbers -2, 0, 1:"),
        ("image,fold\na,0\nb,train\nc,0.5\nd,\n", "3 rows .*line 3: 'train', line 4: '0.5', line 5: ''"),
        ("image,fold\na,0\n,1\n", "1 row .*line 3"),
        ("image,fold\na,1\nb,2\na,2\na,1\n", "1 id .*a in 1, 2"),
        ("patient_id,fold\np,0\nq,1\np,1\n", "1 patient .*p in 0, 1"),
    ],
)
def test_invalid_files(tmp_path: Path, text: str, values: str) -> None:
    assert re.search(values, problem(tmp_path, text))


def test_empty_file(tmp_path: Path) -> None:
    assert "folds.csv" in problem(tmp_path, "", CorruptFileError)


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    empty, disagree = problem(tmp_path, "image,fold\na,0\nb,1\na,1\n,1\n").splitlines()
    assert re.search("1 row .*line 5", empty)
    assert re.search("1 id .*a in 0, 1", disagree)


def test_too_many_folds(tmp_path: Path) -> None:
    text = "image,fold\n" + "".join(f"i{n},{n}\n" for n in range(200))
    assert "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 ... 199" in problem(tmp_path, text)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"absent\.csv"):
        read_folds(tmp_path / "absent.csv")
