"""The catalog: one row per file that was found, as a DataFrame and as Parquet.

It is made from the headers alone, and says of each file which slice it is or for which defect it is refused. Not for
reading files (`ichx.datasets.ingest`) or for versions (`ichx.datasets.dataset`).
"""

import hashlib
import hmac
import os
import secrets
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from ichx.datasets.ingest import SCANNED, TEXT, file_stem
from ichx.datasets.series import FLAGS, neighbours, series_geometry
from ichx.labels import LABELS

COLUMNS: Final = {
    "slice_id": TEXT,
    "stem": TEXT,
    "file": TEXT,
    "bytes": "int64",
    "mtime_ns": "int64",
    "frame": "int32",
    "patient": TEXT,
    "study": TEXT,
    "series": TEXT,
    **{name: SCANNED[name] for name in ("instance_number", "rows", "columns", "spacing_row", "spacing_column")},
    **{name: SCANNED[name] for name in ("pos_x", "pos_y", "pos_z")},
    "position": "float64",
    "order": "int32",
    "step": "float32",
    "tilt": "float32",
    **dict.fromkeys(FLAGS, "bool"),
    **{name: SCANNED[name] for name in ("window_centre", "window_width", "window_missing", "slope", "intercept")},
    **{name: SCANNED[name] for name in ("bits_stored", "signed", "intercept_repaired", "transfer_syntax")},
    **dict.fromkeys(LABELS, "float32"),
    "defect": TEXT,
}
"""Columns of a catalog and their types.

`slice_id` SOPInstanceUID, `stem` the file's name without extension, `file` POSIX path under the source, `bytes` of the
file, `mtime_ns` when it was last changed, or the CRC-32 of a zip's member; `frame` 0, or from 1 in a file of several;
`patient`, `study`, `series` keyed hashes; `spacing_*`, `pos_*`, `position` (along the series' own normal) and `step`
(from the slice before) in mm, NaN if missing; `order` rank in the series, -1 for none; `tilt` of the series in degrees;
the booleans of `ichx.datasets.series.FLAGS`; `window_*` in HU; labels NaN without; `defect` a key of
`ichx.datasets.defects.DEFECTS`, or null.
"""

DERIVED: Final = ("step", "tilt", *FLAGS)
"""Columns that follow from others."""

EMPTY: Final = {"f": np.nan, "i": -1, "b": False}
"""What a column of each kind of number has for a file that is refused."""


def build_catalog(scan: pd.DataFrame, key: bytes | None) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return the catalog of a `scan_source` result, without labels, and what is to be told about it, counted.

    Ids of patients, studies and series are hashed with `key`, or kept when it is None. Counts: `no_patient_id` (slices
    that are grouped by study, series or alone).
    """
    catalog = scan.copy(deep=False)
    catalog["defect"] = scan["defect"].astype(object).where(scan["defect"] != "", None)
    good = catalog["defect"].isna()
    catalog.loc[good & catalog["slice_id"].where(good).duplicated(), "defect"] = "duplicate_instance"
    catalog["stem"] = [file_stem(file) for file in scan["file"]]
    series = scan["series_id"].where(scan["series_id"] != "", "slice " + scan["slice_id"])
    study = scan["study_id"].where(scan["study_id"] != "", "series " + series)
    patient = scan["patient_id"].where(scan["patient_id"] != "", "study " + study)
    for name, ids in (("patient", patient), ("study", study), ("series", series)):
        hashed = ids if key is None else hash_ids(ids, key)
        catalog[name] = hashed.where(good, "")
    kept = np.flatnonzero(catalog["defect"].isna())
    for name, values in series_geometry(catalog["series"].iloc[kept], scan.iloc[kept]).items():
        column = np.full(len(scan), EMPTY[values.dtype.kind], values.dtype)
        column[kept] = values
        catalog[name] = column
    for label in LABELS:
        catalog[label] = np.nan
    return typed(catalog), {"no_patient_id": int((scan["patient_id"].iloc[kept] == "").sum())}


def typed(catalog: pd.DataFrame) -> pd.DataFrame:
    """Return `catalog` with exactly the columns of `COLUMNS`, in their order and types."""
    return catalog[list(COLUMNS)].astype(COLUMNS)


def usable(catalog: pd.DataFrame) -> pd.DataFrame:
    """Return the rows without a defect, by patient, study, series and order, numbered from 0.

    Patients, studies and series follow each other by their first slice id, not by name: their names are hashes with the
    workspace's key, and the same training anywhere is to draw the same rows. `previous` and `next` are added: the rows
    beside each one in its series, -1 for none.
    """
    slices = catalog[catalog["defect"].isna()].sort_values("slice_id", kind="stable")
    owners = [pd.factorize(slices[name])[0] for name in ("series", "study", "patient")]
    slices = slices.iloc[np.lexsort([slices["order"].to_numpy(), *owners])].reset_index(drop=True)
    return pd.concat([slices, neighbours(slices)], axis=1)


def catalog_digest(catalog: pd.DataFrame) -> str:
    """Return 16 hex digits for the files, sizes, headers and defects of `catalog`.

    Which slices belong to one patient, study and series counts, but not how these are named: the digest does not depend
    on the workspace's key. Times do not count, nor do labels.
    """
    rows = catalog.sort_values("file", kind="stable", ignore_index=True)
    left_out = {"mtime_ns", *DERIVED, *LABELS}
    plain = rows[[name for name in COLUMNS if name not in left_out]].copy()
    for name in ("patient", "study", "series"):
        plain[name] = pd.factorize(plain[name])[0]
    # A slice that lost its place only for want of a label is the same file.
    plain["defect"] = plain["defect"].where(plain["defect"] != "no_label", None)
    return _digest(plain)


def label_digest(slices: pd.DataFrame) -> str:
    """Return 16 hex digits for the slice ids and labels of `slices`."""
    return _digest(slices.sort_values("slice_id", kind="stable", ignore_index=True)[["slice_id", *LABELS]])


def write_catalog(catalog: pd.DataFrame, path: Path) -> None:
    """Write `catalog` to `path` as Parquet; the file is complete or absent."""
    write_parquet(typed(catalog), path)


def read_catalog(path: Path) -> pd.DataFrame:
    """Return the catalog in the Parquet file at `path`. Raises `ValueError` for one of an earlier form."""
    catalog = pd.read_parquet(path)
    if missing := set(COLUMNS) - set(catalog.columns):
        raise ValueError(f"written by another version of ichx: it has no column {', '.join(sorted(missing))}")
    return typed(catalog)


def write_parquet(frame: pd.DataFrame, path: Path) -> None:
    """Write `frame` to `path` as Parquet, by way of a draft that is renamed once it is on the disk."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        frame.to_parquet(draft, index=False)
        with draft.open("rb") as handle:
            os.fsync(handle.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def hash_ids(ids: "pd.Series[str]", key: bytes) -> "pd.Series[str]":
    """Return the hashes that a catalog keeps of patient, study and series ids, made with the workspace's key."""
    codes, names = pd.factorize(ids)
    hashes = np.array([hmac.digest(key, str(name).encode(), "sha256").hex()[:16] for name in names], object)
    return pd.Series(hashes[codes], index=ids.index)


def _digest(frame: pd.DataFrame) -> str:
    digest = hashlib.sha256()
    for name in frame.columns:
        column = frame[name]
        digest.update(f"{name}\n".encode())
        if pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
            digest.update(np.ascontiguousarray(column.to_numpy()).tobytes())
        else:
            texts = column.astype(object).where(column.notna(), "")
            digest.update("\n".join(map(str, texts)).encode())
    return digest.hexdigest()[:16]
