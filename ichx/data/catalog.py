"""The catalog: one row per file that was found, as a DataFrame and as Parquet.

It is made from the headers alone, and says of each file which slice it is or for which defect it is refused. Not for
reading files (`ichx.data.ingest`) or for versions (`ichx.data.dataset`).
"""

import hashlib
import hmac
import os
import secrets
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from ichx.ct.geometry import order_series, position_along_normal, series_normals
from ichx.data.ingest import SCANNED, TEXT, file_stem
from ichx.labels import LABELS

COLUMNS: Final = {
    "slice_id": TEXT,
    "stem": TEXT,
    "file": TEXT,
    "bytes": "int64",
    "mtime_ns": "int64",
    "patient": TEXT,
    "study": TEXT,
    "series": TEXT,
    **{name: SCANNED[name] for name in ("instance_number", "rows", "columns", "spacing_row", "spacing_column")},
    **{name: SCANNED[name] for name in ("pos_x", "pos_y", "pos_z")},
    "position": "float64",
    "order": "int32",
    **{name: SCANNED[name] for name in ("window_centre", "window_width", "window_missing", "slope", "intercept")},
    **{name: SCANNED[name] for name in ("bits_stored", "signed", "intercept_repaired", "transfer_syntax")},
    **dict.fromkeys(LABELS, "float32"),
    "defect": TEXT,
}
"""Columns of a catalog and their types.

`slice_id` SOPInstanceUID, `stem` the file's name without extension, `file` POSIX path under the source; `patient`,
`study`, `series` keyed hashes; `spacing_*`, `pos_*` and `position` (along the series' own normal) in mm, NaN if
missing; `order` rank in the series, -1 for none; `window_*` in HU; labels NaN without; `defect` a key of
`ichx.ct.dicom.DEFECTS`, or null.
"""

ORDER_BY: Final = ["patient", "study", "series", "order", "slice_id"]
"""What a dataset's rows are sorted by."""


def make_catalog(scan: pd.DataFrame, key: bytes | None) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return the catalog of a `scan_folder` result, without labels, and what is to be told about it, counted.

    Ids of patients, studies and series are hashed with `key`, or kept when it is None. Counts: `no_patient_id` (slices
    that are grouped by study, series or alone), `by_instance_number` (series without usable positions).
    """
    catalog = scan.copy()
    catalog["defect"] = scan["defect"].astype(object).where(scan["defect"] != "", None)
    good = catalog["defect"].isna()
    catalog.loc[good & catalog["slice_id"].where(good).duplicated(), "defect"] = "duplicate_instance"
    catalog["stem"] = [file_stem(file) for file in scan["file"]]
    series = scan["series_id"].where(scan["series_id"] != "", "slice " + scan["slice_id"])
    study = scan["study_id"].where(scan["study_id"] != "", "series " + series)
    patient = scan["patient_id"].where(scan["patient_id"] != "", "study " + study)
    for name, ids in (("patient", patient), ("study", study), ("series", series)):
        hashed = ids if key is None else hashed_ids(ids, key)
        catalog[name] = hashed.where(good, "")
    slices = catalog[catalog["defect"].isna()]
    along, order, by_number = _ordered(slices)
    catalog["position"] = np.nan
    catalog["order"] = -1
    catalog.loc[slices.index, "position"] = along
    catalog.loc[slices.index, "order"] = order
    for label in LABELS:
        catalog[label] = np.nan
    counts = {
        "no_patient_id": int((scan["patient_id"][slices.index] == "").sum()),
        "by_instance_number": int(slices["series"][by_number].nunique()),
    }
    return typed(catalog), counts


def typed(catalog: pd.DataFrame) -> pd.DataFrame:
    """Return `catalog` with exactly the columns of `COLUMNS`, in their order and types."""
    return catalog[list(COLUMNS)].astype(COLUMNS)


def usable(catalog: pd.DataFrame) -> pd.DataFrame:
    """Return the rows without a defect, sorted by patient, study, series and order, numbered from 0."""
    return catalog[catalog["defect"].isna()].sort_values(ORDER_BY, kind="stable", ignore_index=True)


def catalog_digest(catalog: pd.DataFrame) -> str:
    """Return 16 hex digits for the files, sizes, headers and defects of `catalog`.

    Which slices belong to one patient, study and series counts, but not how these are named: the digest does not depend
    on the workspace's key. Times do not count, nor do labels.
    """
    rows = catalog.sort_values("file", kind="stable", ignore_index=True)
    left_out = {"mtime_ns", *LABELS}
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
    """Return the catalog in the Parquet file at `path`."""
    return typed(pd.read_parquet(path))


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


def _ordered(slices: pd.DataFrame) -> tuple[Any, Any, Any]:
    """Return position along the series' normal, rank, and whether the series went by instance number, each (N,)."""
    series = pd.factorize(slices["series"])[0]
    tie = np.argsort(np.argsort(slices["slice_id"].to_numpy(), kind="stable"))
    normal = series_normals(series, slices[[f"orientation_{i}" for i in range(6)]].to_numpy(float))
    along = position_along_normal(slices[["pos_x", "pos_y", "pos_z"]].to_numpy(float), normal)
    order, by_number = order_series(series, along, slices["instance_number"].to_numpy(), tie)
    return along, order, by_number


def hashed_ids(ids: "pd.Series[str]", key: bytes) -> "pd.Series[str]":
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
