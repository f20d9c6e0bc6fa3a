"""Reads what `ichx predict` wrote: probabilities by slice, from CSV, JSON or Parquet."""

import csv
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ichx.errors import CorruptFileError, InvalidInputError, NotFoundError
from ichx.files import open_file
from ichx.labels import LABELS
from ichx.text import parse_json

REMEDY = "Give the file that `ichx predict --out FILE` wrote."

Probabilities = Mapping[str, tuple[float, ...]]


def read_predicted(path: Path) -> Probabilities:
    """Return the probabilities of each slice that has some, in the order of `LABELS`.

    Raises:
        NotFoundError: There is no such file.
        InvalidInputError: The file is not one of `ichx predict`, or has no probabilities.
        CorruptFileError: The file cannot be read.
    """
    try:
        rows = list(_rows(path))
        found = {str(row["slice_id"]): _probabilities(row) for row in rows if row["slice_id"] and _given(row["any"])}
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} does not exist.", REMEDY) from error
    except OSError as error:
        raise CorruptFileError(f"Cannot read {path}: {error.strerror or error}.", "Check its permissions.") from error
    except (ValueError, KeyError, TypeError, csv.Error) as error:  # pyarrow's errors are ValueErrors
        raise InvalidInputError(f"{path} has no predictions of slices: {error}.", REMEDY) from error
    if not found:
        raise InvalidInputError(f"{path} has no probabilities.", REMEDY)
    return found


def _rows(path: Path) -> Iterable[Mapping[str, Any]]:
    with open_file(path) as file:
        if path.suffix == ".json":
            rows: list[Mapping[str, Any]] = parse_json(file.read())["slices"]
            return rows
        if path.suffix == ".parquet":
            import pyarrow.parquet as pq

            return list(pq.read_table(file, columns=["slice_id", *LABELS]).to_pylist())
        if path.suffix == ".csv":
            return list(csv.DictReader(file.read().decode("utf-8").splitlines()))
    raise ValueError(f"unknown suffix {path.suffix!r}")


def _given(value: object) -> bool:
    """Return whether a cell has a value; slices that cannot be decoded have none."""
    return value not in (None, "") and not (isinstance(value, float) and math.isnan(value))


def _probabilities(row: Mapping[str, Any]) -> tuple[float, ...]:
    values = tuple(float(row[label]) for label in LABELS)
    if not all(0 <= value <= 1 for value in values):
        raise ValueError(f"slice {row['slice_id']} has a value that is no probability")
    return values
