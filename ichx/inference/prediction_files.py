"""Writes predictions of files as CSV, JSON or Parquet."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd

from ichx.errors import InvalidInputError
from ichx.files import atomic_write, check_writable, write_text
from ichx.inference.predict import FilePredictions
from ichx.text import csv_text

SUFFIXES: Final = (".csv", ".json", ".parquet")
REMEDY: Final = "Free some space, or choose another --out."


def check_out(path: Path, suffixes: Sequence[str] | None = None) -> None:
    """Check before predicting that a file with one of `suffixes` (`SUFFIXES` if None) can be written to `path`.

    Raises:
        InvalidInputError: The suffix is unknown, or `path` is a folder.
        StorageError: The folder is not writable.
    """
    allowed = SUFFIXES if suffixes is None else suffixes
    if path.suffix not in allowed:
        raise InvalidInputError(f"Unknown suffix of {path}.", f"Use one of {', '.join(allowed)}.")
    check_writable(path, "the predictions", remedy=REMEDY)


def write_files(path: Path, found: FilePredictions) -> list[Path]:
    """Write `found` in the format of the suffix of `path`; return the files.

    JSON is one file; CSV and Parquet are three, slices in `path`, studies in `NAME.studies.SUFFIX` and series in
    `NAME.series.SUFFIX`.

    Raises:
        StorageError: A file cannot be written.
    """
    tables = {"slices": found.slices, "studies": found.studies, "series": found.series}
    return write_tables(path, tables, as_document(found))


def write_tables(path: Path, tables: dict[str, pd.DataFrame], document: dict[str, Any]) -> list[Path]:
    """Write `document` as JSON, or `tables` as CSV or Parquet, by the suffix of `path`; return the files.

    The first table is written to `path`, others to `STEM.NAME.SUFFIX`. Raises `StorageError`.
    """
    if path.suffix == ".json":
        text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        write_text(path, text, "the predictions", remedy=REMEDY)
        return [path]
    first = next(iter(tables))
    written = []
    for name, frame in tables.items():
        target = path if name == first else path.with_name(f"{path.stem}.{name}{path.suffix}")
        with atomic_write(target, "the predictions", remedy=REMEDY) as draft:
            if path.suffix == ".csv":
                draft.write_text(as_csv(frame), encoding="utf-8")
            else:
                frame.to_parquet(draft, index=False)
        written.append(target)
    return written


def write_id_map(path: Path, ids: pd.DataFrame) -> None:
    """Write the result of `ScannedFiles.id_map` as CSV that only its owner can read. Raises `StorageError`."""
    with atomic_write(path, "the map of ids", remedy=REMEDY, private=True) as draft:
        draft.write_text(as_csv(ids), encoding="utf-8")


def as_document(found: FilePredictions) -> dict[str, Any]:
    """Return `found` for JSON: its fields without ids behind hashes, with tables as lists of objects."""
    fields = {name: value for name, value in vars(found).items() if name not in ("source", "catalog", "id_map")}
    return {name: as_records(value) if isinstance(value, pd.DataFrame) else value for name, value in fields.items()}


def as_csv(frame: pd.DataFrame) -> str:
    """Return `frame` as CSV, in which file names and ids cannot be formulas or control characters."""
    texts = [str(name) for name in frame if not pd.api.types.is_numeric_dtype(frame[name])]
    safe = {name: frame[name].map(csv_text, na_action="ignore") for name in texts}
    return frame.assign(**safe).to_csv(index=False)


def as_records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of `frame` as dicts of plain values, None for missing ones."""
    columns = [[_plain(value) for value in frame[name].tolist()] for name in frame.columns]
    return [dict(zip(frame.columns, row, strict=True)) for row in zip(*columns, strict=True)]


def _plain(value: Any) -> Any:
    return None if value is pd.NA or (isinstance(value, float) and math.isnan(value)) else value
