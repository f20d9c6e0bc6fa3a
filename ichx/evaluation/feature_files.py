"""Feature files: the pooled features of each slice as float16, in Parquet, beside the prediction of the same pass.

For models that look at several slices at once. Written while a network predicts, so that memory does not grow with
the number of slices.
"""

import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ichx.errors import IchxError

ROWS: Final = 4096
"""Slices that are gathered before they are written."""


@dataclass(frozen=True)
class Features:
    """`slice_ids` (N,) and `values` (N, D) float16, what the network's last layer makes the logits of."""

    slice_ids: npt.NDArray[np.object_]
    values: npt.NDArray[np.float16]


def features_file(predictions: Path) -> Path:
    """Return the feature file that belongs to a prediction file."""
    return predictions.with_name(f"{predictions.stem}-features.parquet")


class FeatureWriter:
    """Writes features to `path` as they come; the file is complete or absent. Raises `IchxError` on a full disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        self._ids: list[npt.NDArray[np.object_]] = []
        self._values: list[npt.NDArray[np.float16]] = []
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the file, or remove what there is of it where something was raised."""
        try:
            if kind is None and self._ids:
                self._flush()
            if self._writer is not None:
                self._writer.close()
                if kind is None:
                    with self._draft.open("rb+") as handle:
                        os.fsync(handle.fileno())
                    self._draft.replace(self.path)
        except OSError as failed:
            raise self._unwritable(failed) from failed
        finally:
            self._draft.unlink(missing_ok=True)

    def add(self, slice_ids: npt.NDArray[np.object_], values: npt.NDArray[np.float16]) -> None:
        """Write the features `values` (N, D) of `slice_ids` (N,); D is the same each time."""
        self._ids.append(slice_ids)
        self._values.append(values)
        if sum(map(len, self._ids)) >= ROWS:
            self._flush()

    def _flush(self) -> None:
        ids, values = np.concatenate(self._ids), np.concatenate(self._values)
        self._ids, self._values = [], []
        table = pa.table(
            {
                "slice_id": pa.array(ids, type=pa.string()),
                "features": pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1]),
            }
        )
        try:
            if self._writer is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._writer = pq.ParquetWriter(self._draft, table.schema, compression="zstd")
            self._writer.write_table(table)
        except OSError as failed:
            raise self._unwritable(failed) from failed

    def _unwritable(self, error: OSError) -> IchxError:
        return IchxError(
            f"cannot write the features {self.path}: {error.strerror or error}", "free some space, then run again"
        )


def read_features(path: Path) -> Features:
    """Return the features in `path`; raises `IchxError` where the file is missing or is no feature file."""
    again = "make them with `--save features`"
    try:
        table = pq.read_table(path)
        listed = table["features"].combine_chunks()
        values = listed.flatten().to_numpy(zero_copy_only=False).astype(np.float16, copy=False)
        ids = table["slice_id"].to_numpy().astype(object)
    except FileNotFoundError as error:
        raise IchxError(f"the features {path} are missing", again) from error
    except (pa.ArrowInvalid, OSError, KeyError, AttributeError) as error:
        raise IchxError(f"the features {path} cannot be read: {error}", again) from error
    return Features(ids, values.reshape(len(ids), -1))
