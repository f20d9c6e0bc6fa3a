"""Columns of Arrow tables as arrays, without pandas: `to_numpy` imports it, which takes 45 MB."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def column_values(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    """Return a column of numbers, booleans or texts, `(N,)`; texts as objects. Missing numbers are NaN."""
    parts = [_values(chunk) for chunk in column.chunks]
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.empty(0, _dtype(column.type))


def _values(chunk: pa.Array) -> npt.NDArray[Any]:
    if not _is_number(chunk.type):
        return np.array(chunk.to_pylist(), object)
    validity, data = chunk.buffers()
    end = chunk.offset + len(chunk)
    if data is None:  # without rows
        values = np.empty(0, _dtype(chunk.type))
    elif pa.types.is_boolean(chunk.type):
        values = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")[chunk.offset : end].astype(bool)
    else:
        values = np.frombuffer(data, _dtype(chunk.type), end)[chunk.offset :]
    if chunk.null_count == 0:
        return values
    present = np.unpackbits(np.frombuffer(validity, np.uint8), bitorder="little")[chunk.offset : end].astype(bool)
    kind = values.dtype if values.dtype.kind == "f" else np.dtype(np.float64)
    return np.where(present, values, np.nan).astype(kind, copy=False)


def _dtype(kind: pa.DataType) -> np.dtype[Any]:
    return np.dtype(kind.to_pandas_dtype() if _is_number(kind) else object)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind))


def text_array(texts: Iterable[str]) -> pa.Array:
    """Return texts as an Arrow array; `pyarrow.array` imports pandas."""
    encoded = [text.encode() for text in texts]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    return pa.StringArray.from_buffers(len(encoded), pa.py_buffer(ends), pa.py_buffer(b"".join(encoded)))
