"""Prediction files: slice id and six float32 logits per row, in Parquet, one file per fold and view."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ichx.datasets.arrow_columns import column_values, text_array
from ichx.errors import ChangedDataError, CorruptFileError
from ichx.files import atomic_write, open_file, read_announced
from ichx.labels import LABELS
from ichx.text import format_count

if TYPE_CHECKING:
    from ichx.store import DatasetVersion

_PRECISION = b"ichx.precision"
_STUDY = "study_"
"""Prefix of the columns with the logits of a slice's study."""
_PREDICT = "Rerun `ichx run`, which predicts what is missing."
_RESTORE = "Restore the file, or delete it and rerun `ichx run`, which predicts what is missing."


OOF_FILE: Final = "oof.parquet"
"""In an ensemble's folder: the predictions that its score is computed from, nested, or in-sample for a single fold."""


@dataclass(frozen=True)
class Predictions:
    """Logits of the slices of one fold and view."""

    slice_ids: npt.NDArray[np.object_]
    """`(N,)`"""
    logits: npt.NDArray[np.float32]
    """`(N, 6)`, in the order of `ichx.labels.LABELS`."""
    precision: str | None = None
    """The precision of the network, in files of `ichx evaluate`; None if it is not recorded."""
    study_logits: npt.NDArray[np.float32] | None = None
    """`(N, 6)`: the logits of each slice's study, which sequence experiments predict; None for others."""


def predictions_file(test: "DatasetVersion") -> str:
    """Return the name of the file with an ensemble's predictions of a test set, in the ensemble's folder."""
    return f"test-{test.dataset}-v{test.number}.parquet"


def _read_table(path: Path, slice_ids: Sequence[str] | None) -> pa.Table:
    open_file(path).close()  # not a folder or a pipe
    with pq.ParquetFile(path) as opened:  # `read_table` imports pandas
        table = opened.read()
    if slice_ids is None or "slice_id" not in table.column_names:
        return table
    return table.filter(pc.is_in(table["slice_id"], value_set=text_array(set(slice_ids))))


def write_predictions(path: Path, predictions: Predictions) -> str:
    """Write `predictions` to `path` atomically; return the file's SHA-256, 64 hex digits. Raises `StorageError`."""
    columns = {"slice_id": pa.array(predictions.slice_ids, type=pa.string())}
    columns |= {label: pa.array(predictions.logits[:, i]) for i, label in enumerate(LABELS)}
    if predictions.study_logits is not None:
        columns |= {f"{_STUDY}{label}": pa.array(predictions.study_logits[:, i]) for i, label in enumerate(LABELS)}
    metadata = None if predictions.precision is None else {_PRECISION: predictions.precision.encode()}
    with atomic_write(path, "the predictions") as draft:
        pq.write_table(pa.table(columns, metadata=metadata), draft, compression="zstd")
        digest = hashlib.sha256(draft.read_bytes()).hexdigest()
    return digest


def read_predictions(path: Path, remedy: str | None = None, *, slice_ids: Sequence[str] | None = None) -> Predictions:
    """Return the predictions in `path`, of some slices or of all (None).

    `remedy` is how to create the file again, by default with `ichx run`.

    Raises:
        ChangedDataError: The file is missing.
        CorruptFileError: The file is damaged, is no prediction file, or holds values that are not finite.
    """
    try:
        table = read_announced(path, lambda: _read_table(path, slice_ids))
    except FileNotFoundError as error:
        raise ChangedDataError(f"The prediction file {path} is missing.", remedy or _PREDICT) from error
    except (pa.ArrowInvalid, OSError) as error:
        raise CorruptFileError(f"Cannot read the prediction file {path}: {error}", remedy or _RESTORE) from error
    missing = [name for name in ("slice_id", *LABELS) if name not in table.column_names]
    if missing:
        raise CorruptFileError(f"{path} lacks the columns {', '.join(missing)}.", "Use a prediction file of ichx.")
    logits = np.column_stack([column_values(table[label]) for label in LABELS]).astype(np.float32, copy=False)
    of_study = [f"{_STUDY}{label}" for label in LABELS]
    study_logits = None
    if set(of_study) <= set(table.column_names):
        study_logits = np.column_stack([column_values(table[name]) for name in of_study]).astype(np.float32, copy=False)
    finite = np.isfinite(logits) if study_logits is None else np.isfinite(logits) & np.isfinite(study_logits)
    bad = int((~finite).any(axis=1).sum())
    if bad:
        raise CorruptFileError(f"{path} has NaN or infinity in {format_count(bad, 'row')}.", remedy or _RESTORE)
    precision = (table.schema.metadata or {}).get(_PRECISION)
    ids = column_values(table["slice_id"])
    shown = None if precision is None else precision.decode("ascii", "replace")
    return Predictions(ids, logits, shown, study_logits)
