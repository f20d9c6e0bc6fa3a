"""Prediction files: slice id and six float32 logits per row, in Parquet, one file per fold and view."""

import hashlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ichx.errors import IchxError
from ichx.labels import LABELS
from ichx.text import format_count

VIEWS = ("identity", "hflip")
"""The views that every fold predicts."""


@dataclass(frozen=True)
class Predictions:
    """`slice_ids` (N,) and `logits` (N, 6) float32, in the order of `ichx.labels.LABELS`."""

    slice_ids: npt.NDArray[np.object_]
    logits: npt.NDArray[np.float32]


def write_predictions(path: Path, predictions: Predictions) -> str:
    """Write `predictions` to `path` atomically; return the file's SHA-256, 64 hex digits.

    Raises `IchxError` on a full disk and where the folder cannot be written.
    """
    columns = {"slice_id": pa.array(predictions.slice_ids, type=pa.string())}
    columns |= {label: pa.array(predictions.logits[:, i]) for i, label in enumerate(LABELS)}
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            pq.write_table(pa.table(columns), draft, compression="zstd")
            content = draft.read_bytes()
            with draft.open("rb+") as handle:
                os.fsync(handle.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise IchxError(
            f"cannot write the predictions {path}: {error.strerror or error}", "free some space, then run again"
        ) from error
    return hashlib.sha256(content).hexdigest()


_ANEW = "restore the file; or delete it and run the experiment again: `ichx run` makes what is missing"


def read_predictions(path: Path) -> Predictions:
    """Return the predictions in `path`; raises `IchxError` where the file is missing, damaged or not finite."""
    try:
        table = pq.read_table(path)
    except FileNotFoundError as error:
        raise IchxError(
            f"the predictions {path} are missing", "run the experiment again: `ichx run` makes them"
        ) from error
    except (pa.ArrowInvalid, OSError) as error:
        raise IchxError(f"the predictions {path} cannot be read: {error}", _ANEW) from error
    missing = [name for name in ("slice_id", *LABELS) if name not in table.column_names]
    if missing:
        raise IchxError(f"{path} lacks the columns {', '.join(missing)}", "it is no prediction file of ichx")
    logits = np.column_stack([table[label].to_numpy() for label in LABELS]).astype(np.float32, copy=False)
    bad = int((~np.isfinite(logits)).any(axis=1).sum())
    if bad:
        raise IchxError(f"{path} holds NaN or infinity in {format_count(bad, 'row')}", _ANEW)
    return Predictions(table["slice_id"].to_numpy(zero_copy_only=False).astype(object), logits)
