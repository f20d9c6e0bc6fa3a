"""CSV files as columns of text: read whole, `.gz` too, so that no id is taken for a number or for a missing value.

What the columns mean stands elsewhere (`ichx.datasets.label_csv`, `ichx.datasets.fold_csv`).
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from ichx.datasets.sources import read_zip_member
from ichx.errors import IchxError


def read_text_columns(path: Path, what: str, forms: str) -> pa.Table:
    """Return the CSV at `path`, which may lead into a zip, with every column as text.

    Raises `IchxError` where there is none, where it cannot be read, and where it has no rows; the remedy says what
    `forms` a file that is `what` (`a label CSV`) has.
    """
    archived = read_zip_member(path)

    def source() -> Any:
        if archived is None:
            return path
        buffer = pa.BufferReader(archived)
        return pa.CompressedInputStream(buffer, "gzip") if path.suffix == ".gz" else buffer

    try:
        with pyarrow.csv.open_csv(source()) as reader:
            names = reader.schema.names
        types = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
        table = pyarrow.csv.read_csv(source(), convert_options=types)
    except FileNotFoundError as error:
        raise IchxError(f"there is no file {path}", "give the path of an existing CSV") from error
    except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:
        told = str(error).splitlines()[0]
        raise IchxError(f"{path} cannot be read as CSV: {told}", f"{what} has {forms}") from error
    if table.num_rows == 0:
        raise IchxError(f"{path} has no rows", f"{what} has {forms}")
    return table


def encode(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.object_]]:
    """Return each row's code (N,), and the values in the order of their first row."""
    encoded = column.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    return np.asarray(encoded.indices, np.int32), objects(encoded.dictionary)


def objects(column: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.object_]:
    """Return a column's texts."""
    return np.asarray(column.to_numpy(zero_copy_only=False), object)


def numbers(texts: pa.ChunkedArray, kind: pa.DataType | None = None) -> npt.NDArray[Any]:
    """Return the column as numbers of `kind` (float32), NaN where a text is none."""
    kind = kind or pa.float32()
    trimmed = pc.utf8_trim_whitespace(texts)
    try:
        return np.asarray(pc.cast(trimmed, kind))
    except pa.ArrowInvalid:
        good = pc.match_substring_regex(trimmed, r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$")
        return np.asarray(pc.cast(pc.if_else(good, trimmed, "nan"), kind))
