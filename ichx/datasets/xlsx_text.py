"""Sheets of XLSX files as columns of text, like CSV files in `csv_text`."""

import datetime
import io
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from ichx.datasets.csv_text import with_lines
from ichx.datasets.file_list import read_zip_member
from ichx.errors import CorruptFileError, InvalidInputError, NotFoundError, StorageError, UnsupportedError, did_you_mean
from ichx.files import read_input
from ichx.text import format_count

SUFFIXES: Final = (".xlsx", ".xlsm")
OLD_SUFFIXES: Final = (".xls", ".ods", ".numbers")
"""Spreadsheets that are not read."""

_OLE: Final = bytes.fromhex("d0cf11e0")
"""First bytes of old Excel files and of encrypted ones."""
_EXACT: Final = 10**15
"""Whole numbers from here on are rounded by a spreadsheet."""


def is_xlsx(path: Path) -> bool:
    """Return whether `path` has the suffix of an XLSX; raise `UnsupportedError` for other spreadsheets."""
    suffix = path.suffix.lower()
    if suffix in OLD_SUFFIXES:
        raise UnsupportedError(f"{path}: spreadsheets of the type {suffix} are not read.", "Save it as XLSX or CSV.")
    return suffix in SUFFIXES


def read_xlsx_columns(path: Path, sheet: str | None = None) -> pa.Table:
    """Return a sheet of the XLSX at `path` with every column as text; the first row that is not empty has the names.

    Args:
        path: The file, or a member of a zip.
        sheet: Its name; None for the only sheet that is not empty.

    Raises:
        NotFoundError: There is no such file.
        CorruptFileError: It is damaged or encrypted.
        InvalidInputError: There is no such sheet, several have rows and none is named, or it has no rows.
        StorageError: It must not be read.
    """
    from openpyxl import load_workbook

    try:
        content = read_zip_member(path)
        content = read_input(path) if content is None else content
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} does not exist.", "Give the path of an existing spreadsheet.") from error
    except OSError as error:
        raise StorageError(f"Cannot read {path}: {error.strerror or error}.", "Check its permissions.") from error
    if content.startswith(_OLE):
        raise CorruptFileError(f"{path} is encrypted or an old Excel file.", "Save it as XLSX without a password.")
    try:
        book = load_workbook(io.BytesIO(content), read_only=True, data_only=True)
        rows = {each.title: [*map(list, each.iter_rows(values_only=True))] for each in book.worksheets}
    except Exception as error:  # a damaged file can make openpyxl, XML and zlib raise anything
        raise CorruptFileError(f"Cannot read {path} as XLSX: {error}.", "Save it again as XLSX or CSV.") from error
    return _as_table(path, _choose_sheet(path, rows, sheet))


def _choose_sheet(path: Path, rows: dict[str, list[list[Any]]], wanted: str | None) -> list[list[Any]]:
    filled = {name: cells for name, cells in rows.items() if any(any(_text(c) for c in row) for row in cells)}
    if wanted is not None:
        if wanted not in rows:
            raise InvalidInputError(
                f"{path} has no sheet {wanted!r}; it has {', '.join(map(repr, rows))}.",
                f"{did_you_mean(wanted, list(rows))}Name one of them: --sheet NAME.",
            )
        return rows[wanted]
    if len(filled) > 1:
        sizes = ", ".join(f"{name!r} ({format_count(len(cells) - 1, 'row')})" for name, cells in filled.items())
        raise InvalidInputError(f"{path} has {len(filled)} sheets: {sizes}.", "Name one of them: --sheet NAME.")
    return next(iter(filled.values()), [])


def _as_table(path: Path, cells: list[list[Any]]) -> pa.Table:
    texts = [[_text(cell) for cell in row] for row in cells]
    filled = [number for number, row in enumerate(texts) if any(row)]
    if len(filled) < 2:
        raise InvalidInputError(f"{path}: the sheet has no rows.", "Name a sheet with rows: --sheet NAME.")
    names = texts[filled[0]]
    width = max(at + 1 for at, name in enumerate(names) if name)
    body = [[*texts[number], *[""] * width][:width] for number in filled[1:]]
    columns = [pa.array([row[at] for row in body], pa.string()) for at in range(width)]
    table = pa.Table.from_arrays([pa.chunked_array([column]) for column in columns], names=names[:width])
    return with_lines(table, [number + 1 for number in filled[1:]])


def _text(cell: Any) -> str:
    """Return a cell as a CSV of the sheet would have it."""
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "1" if cell else "0"
    if isinstance(cell, int | float):
        if abs(cell) >= _EXACT:
            return f"{float(cell):.14E}"
        return str(int(cell)) if float(cell).is_integer() else repr(cell)
    if isinstance(cell, datetime.date | datetime.datetime):
        return cell.isoformat()
    return str(cell).strip()
