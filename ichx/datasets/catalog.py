"""The catalog: one row per slice or excluded file, as a DataFrame and as Parquet, built from headers alone.

Headers are read in `ingest`; versions of a dataset are in `dataset`.
"""

import hashlib
import hmac
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from ichx.ct.acquisition import IMPLAUSIBLE
from ichx.ct.nifti import NIFTI_SYNTAX
from ichx.datasets.identity import GroupBy, identify
from ichx.datasets.ingest import ACQUISITION, SCANNED, TEXT, file_stem
from ichx.datasets.series import FLAGS, neighbour_rows, runs_of_catalog, series_geometry
from ichx.files import write_with
from ichx.labels import LABEL_GROUP, LABELS, STUDY_LABELS

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
    "patient_id": TEXT,
    **{name: SCANNED[name] for name in ("instance_number", "rows", "columns", "spacing_row", "spacing_column")},
    **{name: SCANNED[name] for name in ("pos_x", "pos_y", "pos_z")},
    "position": "float64",
    "order": "int32",
    "run": "int32",
    "step": "float32",
    "tilt": "float32",
    **dict.fromkeys(FLAGS, "bool"),
    **{name: SCANNED[name] for name in ("window_centre", "window_width", "window_missing", "slope", "intercept")},
    **{name: SCANNED[name] for name in ("bits_stored", "signed", "intercept_repaired", "transfer_syntax")},
    "assumptions": TEXT,
    **ACQUISITION,
    **dict.fromkeys(LABELS, "float32"),
    "part": TEXT,
    "defect": TEXT,
    "detail": TEXT,
}
"""Columns of a catalog and their dtypes.

- `slice_id`: SOPInstanceUID, with `#frame` in a file of several, or `volume#017` of a NIfTI
- `stem`: file name without extension, or the slice id of a NIfTI; `file`: POSIX path relative to the source
- `bytes`: size of the file; `mtime_ns`: time of its last change, or CRC-32 of a zip member
- `frame`: 0, or from 1 in a file with several frames and in a NIfTI
- `patient`, `study`, `series`: keyed hashes, see `ichx.datasets.identity`
- `patient_id`: keyed hash of the patient's own id if it was joined with others to one `patient`, or empty
- `spacing_*`, `pos_*`, `position` (along the series' normal), `step` (from the previous slice): mm, NaN if missing
- `order`: rank in the series, `run`: number of its run in the series, see `ichx.ct.runs`; -1 for excluded files
- `tilt` of the series in degrees
- the booleans of `ichx.datasets.series.FLAGS`
- `window_*`: HU; labels: NaN if unlabelled
- the fields of `ichx.ct.acquisition.Acquisition`; `institution` is a keyed hash
- `assumptions`: keys of `ichx.ct.assumptions.ASSUMPTIONS`, separated by spaces, or empty
- `part`: the dataset of which a slice of a mixture is, or empty, see `ichx.datasets.mixture`
- `defect`: a key of `ichx.datasets.defects.DEFECTS`, or null; `detail`: what was found, e.g. the modality
"""

ADDED: Final = {
    **dict.fromkeys(("assumptions", "detail", "part", "patient_id"), ""),
    **{name: "" if dtype == TEXT else np.nan for name, dtype in ACQUISITION.items()},
}
"""Columns that catalogs of earlier versions lack, and their values there."""

DERIVED: Final = ("run", "step", "tilt", *FLAGS)
"""Columns computed from others. `run` is computed on load if a catalog of version 0.1 lacks it."""

EMPTY: Final = {"f": np.nan, "i": -1, "b": False}
"""Values for excluded files by the kind of the column's dtype."""


def build_catalog(
    scan: pd.DataFrame, key: bytes | None, group_by: GroupBy = "patient", *, keep_ids: bool = False
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return the catalog of a `scan_source` result without labels, and counts for the dataset's summary.

    Args:
        scan: Result of `scan_source`.
        key: Key of the hashes of patient, study and series ids and of institutions; None keeps the ids without
            institutions.
        group_by: What counts as a patient; see `ichx.datasets.identity`.
        keep_ids: Keep the ids, and hash institutions only.

    Returns:
        The catalog; and the counts of `identify`, with `no_patient_id`, `no_series_id` (slices without these ids) and
        `implausible_ages` (slices).
    """
    catalog = scan.copy(deep=False)
    catalog["defect"] = scan["defect"].astype(object).where(scan["defect"] != "", None)
    good = catalog["defect"].isna()
    catalog.loc[good & catalog["slice_id"].where(good).duplicated(), "defect"] = "duplicate_instance"
    of_volume = scan["transfer_syntax"] == NIFTI_SYNTAX
    catalog["stem"] = pd.Series([file_stem(file) for file in scan["file"]]).where(~of_volume, scan["slice_id"])
    ids, counts = identify(scan[good], group_by)
    for name in ids:
        given = ids[name] if key is None or keep_ids else hash_ids(ids[name], key).where(ids[name] != "", "")
        catalog[name] = given.reindex(scan.index, fill_value="")
    rows = np.flatnonzero(catalog["defect"].isna())
    counts |= {f"no_{name}": int((scan[name].iloc[rows] == "").sum()) for name in ("patient_id", "series_id")}
    counts["implausible_ages"] = int((scan["age"].iloc[rows] == IMPLAUSIBLE).sum())
    catalog["age"] = scan["age"].where(scan["age"] != IMPLAUSIBLE, "")
    places = scan["institution"]
    catalog["institution"] = "" if key is None else hash_ids(places, key).where(places != "", "")
    for name, values in series_geometry(catalog["series"].iloc[rows], scan.iloc[rows]).items():
        column = np.full(len(scan), EMPTY[values.dtype.kind], values.dtype)
        column[rows] = values
        catalog[name] = column
    for label in LABELS:
        catalog[label] = np.nan
    catalog["part"] = ""
    return _typed(catalog), counts


def usable_slices(catalog: pd.DataFrame) -> pd.DataFrame:
    """Return the rows without a defect by patient, study, series and order, numbered from 0.

    Patients, studies and series are sorted by their first slice id: hashes depend on the workspace's key, but a
    training must draw the same rows in every workspace. `previous` and `next` are added, see `neighbour_rows`.
    """
    slices = catalog[catalog["defect"].isna()].sort_values("slice_id", kind="stable")
    owners = [pd.factorize(slices[name])[0] for name in ("series", "study", "patient")]
    slices = slices.iloc[np.lexsort([slices["order"].to_numpy(), *owners])].reset_index(drop=True)
    return pd.concat([slices, neighbour_rows(slices)], axis=1)


def catalog_digest(catalog: pd.DataFrame) -> str:
    """Return 16 hex digits of the files, sizes, headers and defects of `catalog`.

    They cover which slices belong to one patient, study and series, but not the ids, which depend on the workspace's
    key. Times, labels and acquisition fields are not covered.
    """
    rows = catalog.sort_values("file", kind="stable", ignore_index=True)
    excluded = {"mtime_ns", "detail", *ACQUISITION, *DERIVED, *LABELS}
    # Digests of 0.1 remain valid.
    excluded |= {name for name in ("assumptions", "part", "patient_id") if not (rows[name] != "").any()}
    plain = rows[[name for name in COLUMNS if name not in excluded]].copy()
    for name in {"patient", "study", "series", "patient_id"} & set(plain):
        plain[name] = pd.factorize(plain[name])[0]
    # Labels do not change a file.
    plain["defect"] = plain["defect"].where(plain["defect"] != "no_label", None)
    return _digest(plain)


def known_acquisition(catalog: pd.DataFrame) -> list[str]:
    """Return the names of the acquisition fields that any row of `catalog` has."""
    return [
        name
        for name, dtype in ACQUISITION.items()
        if ((catalog[name] != "") if dtype == TEXT else catalog[name].notna()).any()
    ]


def label_digest(slices: pd.DataFrame) -> str:
    """Return 16 hex digits of the slice ids and labels of `slices`, also of those of their studies or series."""
    rows = slices.sort_values("slice_id", kind="stable", ignore_index=True)
    columns = ["slice_id", *LABELS]
    if LABEL_GROUP in rows:
        rows[LABEL_GROUP] = pd.factorize(rows[LABEL_GROUP])[0]  # the ids depend on the workspace's key
        columns += [LABEL_GROUP, *STUDY_LABELS]
    return _digest(rows[columns])


def write_catalog(catalog: pd.DataFrame, path: Path) -> None:
    """Write `catalog` to `path` as Parquet, atomically. Raises `StorageError`."""
    write_parquet(_typed(catalog), path)


def read_catalog(path: Path) -> pd.DataFrame:
    """Return the catalog in the Parquet file at `path`. Raises `OSError`; `ValueError` if it is damaged or outdated."""
    catalog = pd.read_parquet(path)
    for name in set(ADDED) - set(catalog.columns):
        catalog[name] = ADDED[name]
    if missing := set(COLUMNS) - {"run"} - set(catalog.columns):
        raise ValueError(f"missing columns {', '.join(sorted(missing))}; another version of ichx wrote it")
    if "run" not in catalog.columns:
        good = catalog["defect"].isna()
        catalog["run"] = EMPTY["i"]
        catalog.loc[good, "run"] = runs_of_catalog(catalog[good])
    return _typed(catalog)


def write_parquet(frame: pd.DataFrame, path: Path) -> None:
    """Write `frame` to `path` as Parquet, atomically. Raises `StorageError`."""
    write_with(path, lambda draft: frame.to_parquet(draft, index=False), "a table of the dataset")


def hash_ids(ids: "pd.Series[str]", key: bytes) -> "pd.Series[str]":
    """Return the keyed hashes, 16 hex digits, under which a catalog stores patient, study and series ids."""
    codes, names = pd.factorize(ids)
    hashes = np.array([hmac.digest(key, str(name).encode(), "sha256").hex()[:16] for name in names], object)
    return pd.Series(hashes[codes], index=ids.index)


def _typed(catalog: pd.DataFrame) -> pd.DataFrame:
    """Return `catalog` with the columns of `COLUMNS`, in their order and dtypes."""
    return catalog[list(COLUMNS)].astype(COLUMNS)


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
