"""CSV files as columns of text, compressed or in a zip too, so that no id becomes a number or a missing value.

Files of spreadsheets and other programs are read: other separators, encodings and line ends, blanks around values. The
meaning of columns is in `label_csv`, `fold_csv` and `ichx.evaluation.submission`.
"""

import codecs
import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from ichx.datasets.file_list import read_zip_member
from ichx.errors import CorruptFileError, InvalidInputError, NotFoundError, StorageError, raise_problems
from ichx.files import MAX_INPUT, read_input
from ichx.text import EXAMPLES, escape, format_count, format_examples

SEPARATORS: Final = ",;\t|"

COMPRESSIONS: Final = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4"}
"""Compressions by the first bytes of a file."""

_LINES: Final = b"lines"
"""Key of the metadata of a table: the line of each row, int64, unless row k is line k + 2."""

SLICE_COLUMNS: Final = (
    "sopinstanceuid",
    "sopuid",
    "instanceuid",
    "sliceid",
    "imageid",
    "image",
    "slice",
    "filename",
    "filepath",
    "path",
    "file",
    "stem",
    "uid",
    "id",
)
"""Accepted names of the column of slices, the most specific first; see `plain_names`."""

_SHOWN_COLUMNS: Final = 20
"""Columns that a message names."""
_SHOWN_LETTERS: Final = 200
"""Length of a name or value in a message."""


def read_text_columns(path: Path, what: str, forms: str, *, exact: bool = False) -> pa.Table:
    """Return the CSV at `path`, a file, a pipe or a member of a zip, with every column as text.

    Args:
        path: The file.
        what: Kind of file for the remedy, e.g. "A label CSV".
        forms: Columns of that kind of file.
        exact: Read only UTF-8 with commas, and keep blanks, as the program that receives the file does.

    Raises:
        NotFoundError: There is no such file.
        CorruptFileError: It cannot be read as CSV.
        StorageError: It must not be read.
        InvalidInputError: It has no rows.
    """
    remedy = f"{what} has {forms}."
    try:
        content = read_zip_member(path)
        content = _decompress(read_input(path) if content is None else content)
        separator, skipped = ",", 0
        if not exact:
            text = _as_utf8(content)
            content, separator = _find_separator(text)
            skipped = text.count(b"\n") - content.count(b"\n")
        parsing = pyarrow.csv.ParseOptions(delimiter=separator, newlines_in_values=b'"' in content)
        with pyarrow.csv.open_csv(pa.BufferReader(content), parse_options=parsing) as reader:
            names = reader.schema.names
        types = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
        table = pyarrow.csv.read_csv(pa.BufferReader(content), parse_options=parsing, convert_options=types)
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} does not exist.", "Give the path of an existing CSV.") from error
    except (pa.ArrowInvalid, OSError, ValueError) as error:
        kind = StorageError if isinstance(error, PermissionError) else CorruptFileError
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
        if "infer number of columns" in reason or "straddling object" in reason:  # pyarrow's words for it
            reason = "a line is longer than 1 MiB, or a quotation mark is not closed"
        raise kind(f"Cannot read {path} as CSV: {reason}.", remedy) from error
    if not exact:
        table = _without_blanks(table)
        if skipped or content.rstrip().count(b"\n") != table.num_rows:
            lines = _find_lines(content, separator, skipped)
            if len(lines) == table.num_rows:
                table = table.replace_schema_metadata({_LINES: lines.tobytes()})
    if table.num_rows == 0:
        raise InvalidInputError(f"{path} has no rows.", remedy)
    return table


def with_lines(table: pa.Table, lines: Sequence[int]) -> pa.Table:
    """Return `table` with the line of each row in its file, see `line`."""
    return table.replace_schema_metadata({_LINES: np.asarray(lines, np.int64).tobytes()})


def plain_names(names: Sequence[str]) -> list[str]:
    """Return names of columns in lower case without spaces, dots, dashes and underscores."""
    return [re.sub(r"[^a-z0-9]", "", name.lower()) for name in names]


def list_columns(names: Sequence[str]) -> str:
    """Return the first names of columns for a message, shortened."""
    shown = ", ".join(map(_shorten, names[:_SHOWN_COLUMNS]))
    rest = len(names) - _SHOWN_COLUMNS
    return f"{shown} and {format_count(rest, 'other')}" if rest > 0 else shown


def _shorten(text: str) -> str:
    text = escape(text, lines=True)
    return text if len(text) <= _SHOWN_LETTERS else f"{text[: _SHOWN_LETTERS // 2]}...{text[-_SHOWN_LETTERS // 2 :]}"


def encode_texts(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.object_]]:
    """Return the code of each row (N,), and the distinct texts in the order of their first rows."""
    encoded = column.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    return np.asarray(encoded.indices, np.int32), to_objects(encoded.dictionary)


def to_objects(column: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.object_]:
    """Return the texts of a column."""
    return np.asarray(column.to_numpy(zero_copy_only=False), object)


def parse_numbers(column: pa.ChunkedArray, dtype: pa.DataType | None = None) -> npt.NDArray[Any]:
    """Return the numbers of a column as `dtype` (float32), NaN for a text that is not a number."""
    dtype = dtype or pa.float32()
    trimmed = pc.utf8_trim_whitespace(column)
    try:
        return np.asarray(pc.cast(trimmed, dtype))
    except pa.ArrowInvalid:
        valid = pc.match_substring_regex(trimmed, r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$")
        return np.asarray(pc.cast(pc.if_else(valid, trimmed, "nan"), dtype))


def parse_numbers_and_words(texts: pa.ChunkedArray, words: Mapping[str, Sequence[str]]) -> npt.NDArray[np.float32]:
    """Return the numbers of a column, also with a decimal comma or as one of the `words` of a number, in lower case."""
    plain = pc.replace_substring_regex(pc.utf8_lower(texts), r"^(\d*),(\d+)$", r"\1.\2")
    for number, of_number in words.items():
        plain = pc.if_else(pc.is_in(plain, pa.array(of_number)), number, plain)
    values: npt.NDArray[np.float32] = parse_numbers(plain)
    return values


def empty_rows(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Return the rows whose text is empty or blank."""
    return np.flatnonzero(np.asarray(pc.equal(pc.utf8_trim_whitespace(column), "")))


def merge_rows(
    codes: npt.NDArray[np.int32], count: int, values: npt.NDArray[Any]
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int32]]:
    """Return the values (`count`, C) by code of rows `values` (N, C), and the codes whose finite rows disagree."""
    merged = np.zeros((count, values.shape[1]), values.dtype)
    merged[codes] = values
    written = merged[codes]
    row, column = np.nonzero(written != values)
    finite = np.isfinite(written[row, column]) & np.isfinite(values[row, column])
    return merged, np.unique(codes[row[finite]])


def line(table: pa.Table, row: int) -> str:
    """Return the line of a row of `read_text_columns` in its file, e.g. `line 2` for the first one below the header."""
    lines = (table.schema.metadata or {}).get(_LINES)
    return f"line {row + 2 if lines is None else np.frombuffer(lines, np.int64)[row]}"


def list_rows(noun: str, what: str, rows: npt.NDArray[np.integer[Any]], example: Callable[[int], str]) -> list[str]:
    """Return the problem of `rows` as a list of one line, or an empty list if there are none.

    Args:
        noun: What a row is, e.g. "id".
        what: What is wrong with it, e.g. "without a value".
        rows: Rows or other positions.
        example: Returns the description of one of them.
    """
    if not len(rows):
        return []
    examples = format_examples([_shorten(example(int(row))) for row in rows[:EXAMPLES]], len(rows))
    return [f"{format_count(len(rows), noun)} {what}{examples}"]


def raise_csv_problems(path: Path | str, problems: Sequence[str], remedy: str) -> None:
    """Raise one `InvalidInputError` with all `problems` of the CSV at `path`; return if there are none."""
    raise_problems([f"{path}: {problem}." for problem in problems], remedy)


def _decompress(content: bytes) -> bytes:
    """Return the decompressed content of a compressed file, or `content` as it is."""
    codec = next((codec for start, codec in COMPRESSIONS.items() if content.startswith(start)), None)
    if codec is None:
        return content
    with pa.CompressedInputStream(pa.BufferReader(content), codec) as stream:
        content = stream.read(MAX_INPUT + 1)
    if len(content) > MAX_INPUT:
        raise ValueError(f"more than {MAX_INPUT >> 30} GiB")
    return content


def _as_utf8(content: bytes) -> bytes:
    """Return a text as UTF-8 without byte order mark and with the line ends of Unix or Windows.

    Raises `ValueError` for binary content.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        content = content.decode("utf-16").encode()
    content = content.removeprefix(codecs.BOM_UTF8)
    if b"\0" in content:
        raise ValueError("it is not text; save a spreadsheet as CSV")
    if not content.isascii():
        try:
            content.decode()
        except UnicodeDecodeError:
            content = content.decode("cp1252").encode()  # Western European Windows
    return content if b"\n" in content else content.replace(b"\r", b"\n")


def _find_separator(content: bytes) -> tuple[bytes, str]:
    """Return `content` without a line such as `sep=;`, which Excel writes, and the separator in its first line."""
    first, _, rest = content.lstrip(b"\r\n").partition(b"\n")
    if re.fullmatch(rb'"?sep=[,;\t|]"?\r?', first):
        return rest, first.decode().strip('"\r')[-1]
    outside = re.sub(rb'"[^"]*"', b"", first).decode()
    return content, max(SEPARATORS, key=outside.count)


def _find_lines(content: bytes, separator: str, skipped: int) -> npt.NDArray[np.int64]:
    """Return the first line of each row that is not blank, without the header; `skipped` lines precede `content`."""
    reader = csv.reader(io.StringIO(content.decode(), newline=""), delimiter=separator)
    lines, first = [], skipped + 1
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                lines.append(first)
            first = skipped + reader.line_num + 1
    except csv.Error:  # pyarrow reads longer values
        lines.clear()
    return np.array(lines[1:], np.int64)


def _without_blanks(table: pa.Table) -> pa.Table:
    """Return `table` without blanks around names and values, and without rows that are blank."""
    columns = [pc.utf8_trim_whitespace(column) for column in table.columns]
    table = pa.Table.from_arrays(columns, names=[name.strip() for name in table.column_names])
    blank = pc.equal(columns[0], "")
    if pc.any(blank).as_py():
        for column in columns[1:]:
            blank = pc.and_(blank, pc.equal(column, ""))
        table = table.filter(pc.invert(blank))
    return table
