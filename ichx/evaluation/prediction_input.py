"""Predictions of any tool: CSV or Parquet with slice ids and six probabilities or logits, validated.

Files are wide (a column of slices and the six labels) or long (`ID,Label` with `ID = <image>_<label>`, a submission).
A column `fold` states which fold predicted a row. Other columns are ignored. Labels are read in
`ichx.datasets.label_csv`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy.special import expit

from ichx.datasets import csv_text
from ichx.datasets.csv_text import list_rows
from ichx.datasets.label_csv import split_ids
from ichx.errors import CorruptFileError, InvalidInputError, NotFoundError
from ichx.evaluation.metric import FloatArray
from ichx.files import open_file
from ichx.labels import LABELS

FORMS: Final = (
    f"a column of slices and {', '.join(LABELS)}, or `ID,Label` with `ID = <image>_<label>`; and optionally `fold`"
)
UNKNOWN_FOLD: Final = -1


@dataclass(frozen=True)
class PredictionTable:
    """Valid predictions, one row per slice and fold."""

    images: npt.NDArray[np.object_]
    """Slice ids, `(N,)`."""
    folds: npt.NDArray[np.int64] | None
    """The fold that predicted each row, `(N,)`; None if the file does not state it."""
    probabilities: FloatArray
    """`(N, 6)`; they may be exactly 0 or 1."""

    def take(self, rows: npt.NDArray[Any]) -> "PredictionTable":
        """Return some of the rows."""
        return PredictionTable(
            self.images[rows], None if self.folds is None else self.folds[rows], self.probabilities[rows]
        )


def read_prediction_table(path: Path, *, as_logits: bool = False) -> PredictionTable:
    """Return the predictions in the CSV or Parquet file at `path`.

    Args:
        path: A file that ends in `.parquet`, or a CSV.
        as_logits: The values are logits instead of probabilities.

    Raises:
        InvalidInputError: The columns are not those of predictions, an id or value is invalid or missing, or a slice is
            predicted twice; the message lists all problems.
        NotFoundError: There is no such file.
        CorruptFileError: It cannot be read.
    """
    table = _read(path)
    names = csv_text.plain_names(table.column_names)
    present = [label for label in LABELS if label in names]
    long = not present and {"id", "label"} <= set(names)
    image = "id" if long else next((name for name in csv_text.SLICE_COLUMNS if name in names), "")
    problems = [] if image else ["no column of slices"]
    if not long and len(present) < len(LABELS):
        problems.append(f"no column {', '.join(label for label in LABELS if label not in names)}")
    wanted = (image, "fold", *(("label",) if long else LABELS))
    problems += [f"several columns {name}" for name in wanted if name and names.count(name) > 1]
    if problems:
        raise InvalidInputError(
            f"{path} has the columns {', '.join(table.column_names)}: {'; '.join(problems)}.",
            f"Predictions have {FORMS}.",
        )
    folds = _folds(table.column(names.index("fold")), problems) if "fold" in names else None
    ids = table.column(names.index(image))
    columns = [table.column(names.index(name)) for name in (("label",) if long else LABELS)]
    values = np.stack([_numbers(column) for column in columns], axis=1)
    _check_values(values, ids, problems, as_logits=as_logits)
    images, folds, values = _pivot(table, ids, folds, values, problems) if long else _rows(ids, folds, values, problems)
    csv_text.raise_csv_problems(path, problems, f"Correct the file. Predictions have {FORMS}.")
    return PredictionTable(images, folds, expit(values) if as_logits else values)


def _read(path: Path) -> pa.Table:
    if path.suffix.lower() not in (".parquet", ".pq"):
        return csv_text.read_text_columns(path, "A prediction file", FORMS)
    try:
        open_file(path).close()  # pyarrow would read a folder as a table of several files
        table = pq.read_table(path)
    except FileNotFoundError as error:
        raise NotFoundError(f"There is no file {path}.", f"Predictions have {FORMS}.") from error
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise CorruptFileError(f"Cannot read {path}: {error}", "Write the file again, as CSV or Parquet.") from error
    return table.replace_schema_metadata(None)


def _numbers(column: pa.ChunkedArray) -> FloatArray:
    """Return a column as float64, NaN for what is missing or not a number."""
    if pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
        return np.asarray(pc.cast(column, pa.float64()).to_numpy(zero_copy_only=False), np.float64)
    return np.asarray(csv_text.parse_numbers(_texts(column), pa.float64()), np.float64)


def _texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column as text, empty for what is missing or has no text form."""
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        try:
            column = pc.cast(column, pa.string())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            return pa.chunked_array([pa.array([str(value) for value in column.to_pylist()], pa.string())])
    return pc.fill_null(pc.cast(column, pa.string()), "")


def _folds(column: pa.ChunkedArray, problems: list[str]) -> npt.NDArray[np.int64]:
    values = _numbers(column)
    valid = np.isfinite(values) & (values >= 0) & (values == np.round(values))
    texts = _texts(column)
    problems += list_rows(
        "row", "without a valid fold", np.flatnonzero(~valid), lambda row: f"row {row + 1}: {texts[row].as_py()!r}"
    )
    return np.where(valid, values, UNKNOWN_FOLD).astype(np.int64)


def _check_values(values: FloatArray, ids: pa.ChunkedArray, problems: list[str], *, as_logits: bool) -> None:
    def example(row: int) -> str:
        return f"row {row + 1} ({ids[row].as_py()}): {', '.join(f'{value:g}' for value in values[row])}"

    finite = np.isfinite(values)
    bad = np.flatnonzero(~finite.all(axis=1))
    problems += list_rows("row", "with a value that is missing, NaN, infinite or not a number", bad, example)
    if not as_logits:
        outside = np.flatnonzero((finite & ((values < 0) | (values > 1))).any(axis=1))
        problems += list_rows("row", "with a value outside 0..1 (--logits reads logits)", outside, example)


def _rows(
    ids: pa.ChunkedArray, folds: npt.NDArray[np.int64] | None, values: FloatArray, problems: list[str]
) -> tuple[npt.NDArray[np.object_], npt.NDArray[np.int64] | None, FloatArray]:
    """Check the slices of a wide table."""
    texts = _texts(ids)
    problems += list_rows("row", "without a slice", csv_text.empty_rows(texts), lambda row: f"row {row + 1}")
    code, images = csv_text.encode_texts(texts)
    first = _first_of(code, folds)
    repeated = np.flatnonzero(first != np.arange(len(code)))
    problems += list_rows("slice", "more than once", repeated, lambda row: str(images[code[row]]))
    return images[code], folds, values


def _pivot(
    table: pa.Table,
    ids: pa.ChunkedArray,
    folds: npt.NDArray[np.int64] | None,
    values: FloatArray,
    problems: list[str],
) -> tuple[npt.NDArray[np.object_], npt.NDArray[np.int64] | None, FloatArray]:
    """Return the rows of a long table with all six labels in one row."""
    label, images, image = split_ids(table, _texts(ids), problems)
    known = np.flatnonzero(label >= 0)
    code, place = image[known], label[known].astype(np.int64)
    of_fold = None if folds is None else folds[known]
    first = _first_of(code, of_fold)
    starts, row = np.unique(first, return_inverse=True)
    counts = np.bincount(row * len(LABELS) + place, minlength=len(LABELS) * len(starts)).reshape(-1, len(LABELS))
    names = images[code[starts]] if len(starts) else np.empty(0, object)
    twice, lacking = np.flatnonzero((counts > 1).any(axis=1)), np.flatnonzero((counts == 0).any(axis=1))
    problems += list_rows("slice", "more than once", twice, lambda i: str(names[i]))
    problems += list_rows(
        "slice",
        "without all six labels",
        lacking,
        lambda i: f"{names[i]} lacks {', '.join(np.array(LABELS)[counts[i] == 0])}",
    )
    pivoted = np.full((len(starts), len(LABELS)), np.nan)
    pivoted[row, place] = values[known, 0]
    return names, None if of_fold is None else of_fold[starts], pivoted


def _first_of(code: npt.NDArray[np.int32], folds: npt.NDArray[np.int64] | None) -> npt.NDArray[np.int64]:
    """Return for each row the first row with its slice and fold."""
    key = code.astype(np.int64)
    if folds is not None and len(folds):
        key = key * (int(folds.max()) + 2) + folds + 1
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    found: npt.NDArray[np.int64] = first[inverse].astype(np.int64)
    return found
