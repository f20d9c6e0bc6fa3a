"""What was predicted of files, written down: CSV, JSON or Parquet, complete or absent."""

import json
import math
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pandas as pd

from ichx.errors import IchxError
from ichx.inference.predict import FilePredictions

SUFFIXES: Final = (".csv", ".json", ".parquet")


def check_out(path: Path) -> None:
    """Raise `IchxError` where predictions cannot be written to `path`, before anything is predicted."""
    if path.suffix not in SUFFIXES:
        raise IchxError(f"{path} has no suffix that says its format", f"name it with one of {', '.join(SUFFIXES)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IchxError(f"{path} is a folder", "give --out a file's name")
        if not os.access(path.parent, os.W_OK):
            raise IchxError(f"cannot write to {path.parent}", "make the folder writable or choose another --out")
    except OSError as error:
        raise _unwritable(path, error) from error


def write_files(path: Path, found: FilePredictions) -> list[Path]:
    """Write `found` to `path` by its suffix; return the files.

    A JSON file holds all; CSV and Parquet are two files, the slices in `path`, the studies in `NAME.studies.SUFFIX`.
    Raises `IchxError` on a full disk and where the folder cannot be written.
    """
    if path.suffix == ".json":
        text = json.dumps(as_document(found), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        _write(path, lambda draft: draft.write_text(text, encoding="utf-8"))
        return [path]
    studies = path.with_name(f"{path.stem}.studies{path.suffix}")
    for target, frame in ((path, found.slices), (studies, found.studies)):
        if path.suffix == ".csv":
            _write(target, lambda draft, frame=frame: frame.to_csv(draft, index=False))  # type: ignore[misc]
        else:
            _write(target, lambda draft, frame=frame: frame.to_parquet(draft, index=False))  # type: ignore[misc]
    return [path, studies]


def as_document(found: FilePredictions) -> dict[str, Any]:
    """Return `found` as JSON has it: its fields, with `slices` and `studies` as lists of objects."""
    return vars(found) | {"slices": as_records(found.slices), "studies": as_records(found.studies)}


def as_records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of `frame` as dicts of plain values; None where there is none."""
    columns = [[_plain(value) for value in frame[name].tolist()] for name in frame.columns]
    return [dict(zip(frame.columns, row, strict=True)) for row in zip(*columns, strict=True)]


def _plain(value: Any) -> Any:
    return None if value is pd.NA or (isinstance(value, float) and math.isnan(value)) else value


def _write(path: Path, write: Callable[[Path], Any]) -> None:
    draft = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    try:
        try:
            write(draft)
            with draft.open("rb+") as handle:
                os.fsync(handle.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> IchxError:
    return IchxError(f"cannot write {path}: {error.strerror or error}", "free some space, or choose another --out")
