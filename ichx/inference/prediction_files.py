"""Writes predictions of files as CSV, JSON or Parquet."""

import json
import math
import os
from pathlib import Path
from typing import Any, Final, TextIO

import pandas as pd

from ichx.errors import InvalidInputError, StorageError
from ichx.files import atomic_write, write_error, write_text
from ichx.inference.predict import FilePredictions
from ichx.text import csv_text

SUFFIXES: Final = (".csv", ".json", ".parquet")
REMEDY: Final = "Free some space, or choose another --out."


def check_out(path: Path) -> None:
    """Check before predicting that predictions can be written to `path`.

    Raises:
        InvalidInputError: The suffix is unknown, or `path` is a folder.
        StorageError: The folder is not writable.
    """
    if path.suffix not in SUFFIXES:
        raise InvalidInputError(f"Unknown suffix of {path}.", f"Use one of {', '.join(SUFFIXES)}.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise InvalidInputError(f"{path} is a folder.", "Use --out with the name of a file.")
        if not os.access(path.parent, os.W_OK):
            raise StorageError(f"{path.parent} is not writable.", REMEDY)
    except OSError as error:
        raise write_error(path, "the predictions", error, remedy=REMEDY) from error


def write_files(path: Path, found: FilePredictions) -> list[Path]:
    """Write `found` in the format of the suffix of `path`; return the files.

    JSON is one file; CSV and Parquet are three, slices in `path`, studies in `NAME.studies.SUFFIX` and series in
    `NAME.series.SUFFIX`.

    Raises:
        StorageError: A file cannot be written.
    """
    if path.suffix == ".json":
        text = json.dumps(as_document(found), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        write_text(path, text, "the predictions", remedy=REMEDY)
        return [path]
    frames = {path: found.slices}
    for name in ("studies", "series"):
        frames[path.with_name(f"{path.stem}.{name}{path.suffix}")] = getattr(found, name)
    for target, frame in frames.items():
        with atomic_write(target, "the predictions", remedy=REMEDY) as draft:
            write_csv(frame, draft) if path.suffix == ".csv" else frame.to_parquet(draft, index=False)
    return list(frames)


def write_csv(frame: pd.DataFrame, target: Path | TextIO) -> None:
    """Write `frame` as CSV; ids and names that a spreadsheet would compute get an apostrophe."""
    texts = frame.select_dtypes(["object", "string"]).columns
    safe = {name: frame[name].map(lambda value: csv_text(value) if isinstance(value, str) else value) for name in texts}
    frame.assign(**safe).to_csv(target, index=False)


def as_document(found: FilePredictions) -> dict[str, Any]:
    """Return `found` for JSON: its fields, with tables as lists of objects."""
    return {
        name: as_records(value) if isinstance(value, pd.DataFrame) else value for name, value in vars(found).items()
    }


def as_records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of `frame` as dicts of plain values, None for missing ones."""
    columns = [[_plain(value) for value in frame[name].tolist()] for name in frame.columns]
    return [dict(zip(frame.columns, row, strict=True)) for row in zip(*columns, strict=True)]


def _plain(value: Any) -> Any:
    return None if value is pd.NA or (isinstance(value, float) and math.isnan(value)) else value
