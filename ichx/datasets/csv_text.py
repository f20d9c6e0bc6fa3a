"""CSV files as columns of text, `.gz` or in a zip too, so that no id becomes a number or a missing value.

The meaning of columns is in `label_csv`, `fold_csv` and `ichx.evaluation.submission`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from ichx.datasets.sources import read_zip_member
from ichx.errors import CorruptFileError, InvalidInputError, NotFoundError, raise_problems
from ichx.text import EXAMPLES, format_count, format_examples


def read_text_columns(path: Path, what: str, forms: str) -> pa.Table:
    """Return the CSV at `path`, which may be a member of a zip, with every column as text.

    Args:
        path: The file.
        what: Kind of file for the remedy, e.g. "A label CSV".
        forms: Columns of that kind of file.

    Raises:
        NotFoundError: There is no such file.
        CorruptFileError: It cannot be read as CSV.
        InvalidInputError: It has no rows.
    """
    content = read_zip_member(path)
    remedy = f"{what} has {forms}."

    def source() -> Any:
        if content is None:
            return path
        buffer = pa.BufferReader(content)
        return pa.CompressedInputStream(buffer, "gzip") if path.suffix == ".gz" else buffer

    try:
        with pyarrow.csv.open_csv(source()) as reader:
            names = reader.schema.names
        types = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
        table = pyarrow.csv.read_csv(source(), convert_options=types)
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} does not exist.", "Give the path of an existing CSV.") from error
    except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:
        raise CorruptFileError(f"Cannot read {path} as CSV: {str(error).splitlines()[0]}.", remedy) from error
    if table.num_rows == 0:
        raise InvalidInputError(f"{path} has no rows.", remedy)
    return table


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


def line(row: int) -> str:
    """Return the line of a row in its file, e.g. `line 2` for the first one below the header."""
    return f"line {row + 2}"


def list_rows(
    noun: str, what: str, rows: npt.NDArray[np.integer[Any]], example: Callable[[int], str] = line
) -> list[str]:
    """Return the problem of `rows` as a list of one line, or an empty list if there are none.

    Args:
        noun: What a row is, e.g. "id".
        what: What is wrong with it, e.g. "without a value".
        rows: Rows or other positions.
        example: Returns the description of one of them.
    """
    if not len(rows):
        return []
    examples = format_examples([example(int(row)) for row in rows[:EXAMPLES]], len(rows))
    return [f"{format_count(len(rows), noun)} {what}{examples}"]


def raise_csv_problems(path: Path | str, problems: Sequence[str], remedy: str) -> None:
    """Raise one `InvalidInputError` with all `problems` of the CSV at `path`; return if there are none."""
    raise_problems([f"{path}: {problem}." for problem in problems], remedy)
