"""Labels in spreadsheets: CSV and XLSX as people make them."""

import json
from pathlib import Path

import numpy as np
import openpyxl
import pytest
from conftest import Program
from dicom_files import write_study

from ichx.datasets.label_sheet import SheetColumns, read_label_sheet
from ichx.errors import CorruptFileError, IchxError, InvalidInputError, NotFoundError, UnsupportedError
from ichx.labels import LABELS

NAN = float("nan")
ICH = SheetColumns(labels={"any": "ICH", "subdural": "SDH"})


def write(path: Path, *rows: str, encoding: str = "utf-8") -> Path:
    path.write_text("\n".join(rows) + "\n", encoding=encoding)
    return path


def write_xlsx(path: Path, **sheets: list[list[object]]) -> Path:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def labels(path: Path, columns: SheetColumns = ICH) -> dict[str, tuple[float, float]]:
    """Return `any` and `subdural` by id, -1 where unknown."""
    table = read_label_sheet(path, columns)
    chosen = np.nan_to_num(table.values[:, [LABELS.index("any"), LABELS.index("subdural")]], nan=-1)
    return {str(name): tuple(map(float, row)) for name, row in zip(table.ids, chosen, strict=True)}


def problem(path: Path, columns: SheetColumns = ICH, error: type[IchxError] = InvalidInputError) -> IchxError:
    with pytest.raises(error) as caught:
        read_label_sheet(path, columns)
    return caught.value


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_csv_of_a_spreadsheet(tmp_path: Path, separator: str, encoding: str) -> None:
    rows = (["StudyInstanceUID", "Älter", "SDH", "ICH"], ["1.2", "x", "yes", ""], ["1.3", "", "", "NEGATIVE"])
    path = write(tmp_path / "a.csv", *map(separator.join, rows), encoding=encoding)
    assert labels(path) == {"1.2": (1, 1), "1.3": (0, 0)}  # what follows is derived
    assert read_label_sheet(path, ICH).kind == "StudyInstanceUID"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((text, 1) for text in ("1", "1,0", "Yes", "positive", "TRUE", "+", "Ja", "WAHR", "positiv")),
        *((text, 0) for text in ("0", "0.0", "no", "neg", "False", "nein", "Falsch", "negativ")),
        *((text, -1) for text in ("", "n/a", "?", "unknown")),
        ("0,5", 0.5),
    ],
)
def test_values(tmp_path: Path, text: str, value: float) -> None:
    path = write(tmp_path / "a.csv", "StudyInstanceUID;SDH;EDH", f"1.2;{text};0")
    assert labels(path, SheetColumns(labels={"subdural": "SDH"}))["1.2"][1] == value


def test_xlsx(tmp_path: Path) -> None:
    rows = [[None], ["Accession Number", "ICH", "SDH"], [123, True, 1.0], ["00124", False, None], [None, None, None]]
    path = write_xlsx(tmp_path / "a.xlsx", list=rows, empty=[])
    assert labels(path) == {"123": (1, 1), "00124": (0, 0)}
    assert read_label_sheet(path, ICH).kind == "AccessionNumber"


def test_several_sheets_need_a_name(tmp_path: Path) -> None:
    rows = [["PatientID", "ICH", "SDH"], ["p", 1, 0]]
    path = write_xlsx(tmp_path / "a.xlsx", first=rows, second=rows)
    assert "'first' (1 row), 'second' (1 row)" in problem(path).problem
    found = problem(path, SheetColumns(labels=ICH.labels, sheet="secnd"))
    assert "no sheet 'secnd'" in found.problem
    assert "Did you mean 'second'?" in found.remedy
    assert labels(path, SheetColumns(labels=ICH.labels, sheet="second")) == {"p": (1, 0)}


def test_repeated_rows(tmp_path: Path) -> None:
    head = "PatientID,ICH,SDH"
    path = write(tmp_path / "a.csv", head, "p,1,", "p,,0", "p,1,0", "q,0,0")
    assert labels(path) == {"p": (1, 0), "q": (0, 0)}
    assert read_label_sheet(path, ICH).duplicates == 2
    found = problem(write(tmp_path / "b.csv", head, "p,1,", "p,0,", "q,0,1", "q,,0", "r,1,1"))
    assert "2 ids with rows that contradict each other: p, q" in found.problem


def test_problems_are_reported_together(tmp_path: Path) -> None:
    rows = ("PatientID,ICH,SDH", "p,2,0", ",1,0", "q,maybe,0", "1.28401136192462E+17,1,0")
    found = problem(write(tmp_path / "a.csv", *rows)).problem
    assert "2 invalid labels in the column 'ICH'" in found
    assert "line 2: '2'" in found
    assert "1 row with labels and no id: line 3" in found
    assert "1 id cut to 15 digits" in found


def test_columns_that_do_not_exist(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "Study,ICH_read,SDH", "1,0,0")
    found = problem(path, SheetColumns(id_column="Study", labels={"any": "ICH_raed"}))
    assert "no column 'ICH_raed' (--label any)" in found.problem
    assert "Did you mean 'ICH_read'?" in found.remedy
    assert "--id-column" in problem(path, SheetColumns(id_column="Studi")).problem
    assert "none is known to have ids" in problem(path, SheetColumns()).problem
    assert "none has the name of a label" in problem(path, SheetColumns(id_column="Study")).problem
    assert "'anny'" in problem(path, SheetColumns("Study", {"anny": "SDH"})).problem


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "XLSX or CSV" in problem(tmp_path / "a.xls", error=UnsupportedError).remedy
    problem(tmp_path / "a.xlsx", error=NotFoundError)
    (tmp_path / "b.xlsx").write_bytes(b"PK\x03\x04 not a workbook")
    problem(tmp_path / "b.xlsx", error=CorruptFileError)
    book = openpyxl.Workbook()
    book.create_chartsheet("no chart")  # openpyxl raises AttributeError
    book.save(tmp_path / "d.xlsx")
    problem(tmp_path / "d.xlsx", error=CorruptFileError)
    (tmp_path / "c.xlsx").write_bytes(bytes.fromhex("d0cf11e0a1b11ae1"))
    assert "encrypted" in problem(tmp_path / "c.xlsx", error=CorruptFileError).problem


@pytest.fixture
def export(tmp_path: Path, ichx: Program) -> Path:
    for patient in range(4):
        number = f"00{patient}"
        write_study(tmp_path / f"files/p{patient}", str(patient), 3, AccessionNumber=number, PatientName="Doe^John")
    assert ichx("init", cwd=tmp_path).code == 0
    return tmp_path


def test_check_matches_and_adds_nothing(export: Path, ichx: Program) -> None:
    write(export / "a.csv", "Accession;ICH", "0;yes", "001;no", "2;", "7;no")
    command = ("data", "add", "ours", "files", "--labels", "a.csv", "--label", "any=ICH", "--folds", 2)
    checked = ichx(*command, "--check", cwd=export)
    assert checked.code == 0, checked.err
    assert "matched by AccessionNumber" in checked.err
    assert "1 labelled study without a slice: 7" in checked.err
    assert "nothing was added" in checked.out
    assert "No dataset yet" in ichx("data", "list", cwd=export).err
    assert ichx(*command, cwd=export).code == 0
    stored = b"".join(path.read_bytes() for path in (export / "datasets").rglob("*") if path.is_file())
    assert b"Doe" not in stored
    assert b'"001"' not in stored


def test_ids_of_an_unknown_column_are_matched_in_all_ways(export: Path, ichx: Program) -> None:
    write(export / "a.csv", "Case;ICH", "P1;1", "p2;0")
    command = ("data", "add", "o", "files", "--labels", "a.csv", "--id-column", "case", "--label", "any=ICH")
    added = ichx(*command, cwd=export)
    assert added.code == 1
    assert "5 folds" in added.err  # four patients
    added = ichx(*command, "--folds", 2, cwd=export)
    assert added.code == 0, added.err
    assert "matched by folder" in added.err


def test_refusals_of_the_command(export: Path, ichx: Program) -> None:
    command = ("data", "add", "ours", "files", "--json")
    ichx(*command, "--label", "any=ICH", cwd=export).check_error("invalid_input", "--labels")
    assert ichx(*command, "--labels", "a.csv", "--label", "any", cwd=export).code == 2
    write(export / "a.csv", "StudyInstanceUID,ICH", "9.9,1")
    found = ichx(*command, "--labels", "a.csv", "--label", "any=ICH", cwd=export)
    found.check_error("invalid_input", "'9.9'", "ID_study0")
    write_xlsx(export / "formula.xlsx", a=[["AccessionNumber", "ICH"], ["000", "=1+0"], ["001", "=A1"]])
    found = ichx(*command, "--labels", "formula.xlsx", "--label", "any=ICH", "--folds", 0, cwd=export)
    found.check_error("invalid_input", "No label is known: formula.xlsx")
    assert json.loads(ichx("data", "list", "--json", cwd=export).out) == []
