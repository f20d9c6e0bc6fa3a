"""Feature files: each slice's pooled features as float16, in Parquet, one file per prediction file.

They are the input of models that see several slices. Pooling itself is in `ichx.training.pooled_features`.
"""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ichx.errors import ChangedDataError, CorruptFileError
from ichx.files import atomic_path, open_file, write_error

ROWS: Final = 4096
"""Slices per write: they bound the memory."""


@dataclass(frozen=True)
class Features:
    """Pooled features, the input of a network's last layer."""

    slice_ids: npt.NDArray[np.object_]
    """`(N,)`"""
    values: npt.NDArray[np.float16]
    """`(N, D)`"""


class FeatureSink(Protocol):
    """Receives the features of slices, batch by batch."""

    def add(self, slice_ids: npt.NDArray[np.object_], values: npt.NDArray[np.float16]) -> None:
        """Receive the features `values` (N, D) of `slice_ids` (N,)."""
        ...


def features_file(predictions: Path) -> Path:
    """Return the feature file that belongs to a prediction file."""
    return predictions.with_name(f"{predictions.stem}-features.parquet")


class FeatureWriter:
    """Context manager that writes batches of features to a file, atomically. No batches, no file.

    `add` and the exit raise `StorageError` if the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = ExitStack()
        self._writer: pq.ParquetWriter | None = None
        self._batches: list[tuple[npt.NDArray[np.object_], npt.NDArray[np.float16]]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Complete the file, or remove it after an exception."""
        try:
            if kind is None and self._batches:
                self._flush()
        finally:
            with self._storage_errors():
                self._file.__exit__(*sys.exc_info())

    def add(self, slice_ids: npt.NDArray[np.object_], values: npt.NDArray[np.float16]) -> None:
        """Write the features `values` (N, D) of `slice_ids` (N,); D is the same for all batches."""
        self._batches.append((slice_ids, values))
        if sum(len(ids) for ids, _ in self._batches) >= ROWS:
            self._flush()

    def _flush(self) -> None:
        ids, values = map(np.concatenate, zip(*self._batches, strict=True))
        self._batches = []
        features = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
        table = pa.table({"slice_id": pa.array(ids, type=pa.string()), "features": features})
        with self._storage_errors():
            if self._writer is None:
                draft = self._file.enter_context(atomic_path(self.path))
                self._writer = self._file.enter_context(pq.ParquetWriter(draft, table.schema, compression="zstd"))
            self._writer.write_table(table)

    @contextmanager
    def _storage_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise write_error(self.path, "the features", error) from error


def read_features(path: Path) -> Features:
    """Return the features in `path`.

    Raises:
        ChangedDataError: The file is missing.
        CorruptFileError: The file is damaged or is no feature file.
    """
    remedy = "Create them with `--save features`."
    try:
        open_file(path).close()  # pyarrow would read a folder as a table of several files
        table = pq.read_table(path)
        values = table["features"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        ids = table["slice_id"].to_numpy().astype(object)
    except FileNotFoundError as error:
        raise ChangedDataError(f"The feature file {path} is missing.", remedy) from error
    except (pa.ArrowInvalid, OSError, KeyError, AttributeError) as error:
        raise CorruptFileError(f"Cannot read the feature file {path}: {error}", remedy) from error
    return Features(ids, values.astype(np.float16, copy=False).reshape(len(ids), -1))
