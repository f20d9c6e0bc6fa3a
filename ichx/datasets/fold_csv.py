"""A CSV of imported folds, validated: the fold of each slice or patient. Its ids are matched in `fold_import`."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ichx.datasets import csv_text
from ichx.datasets.csv_text import line, list_rows
from ichx.datasets.fold_numbers import TRAIN_ONLY
from ichx.errors import InvalidInputError

PATIENT_COLUMNS: Final = ["patientid", "patient"]
FOLD_COLUMNS: Final = ["fold", "foldid", "foldnumber", "kfold", "cvfold"]
"""Accepted column names, the most specific first; see `csv_text.plain_names`."""

FORMS: Final = (
    "a column `fold`, and one of slices (`slice_id`, `SOPInstanceUID`, `image`, `filename` or `ID`) "
    "or of patients (`patient_id`)"
)

MAX_FOLDS: Final = 100
"""A column with more distinct numbers does not contain folds."""


@dataclass(frozen=True)
class FoldTable:
    """A valid CSV of folds."""

    ids: npt.NDArray[np.object_]
    """(N,) distinct ids in the order of their first rows."""
    folds: npt.NDArray[np.int16]
    """(N,) from 0 to `k` - 1, or `TRAIN_ONLY`."""
    k: int
    id_column: str
    of_patients: bool
    """The ids are patients; otherwise slices."""
    fold_column: str
    one_based: bool
    """The file numbers folds from 1."""
    duplicates: int
    """Rows that repeat another row."""


def read_folds(path: Path) -> FoldTable:
    """Return the folds in the CSV at `path`, one row per slice or per patient.

    Slices with the fold -1 train in every fold and are scored in none. Raises `InvalidInputError` for missing columns
    or ids, rows that disagree and folds other than -1 and 0 to k - 1 or 1 to k, and like `read_text_columns`.
    """
    table = csv_text.read_text_columns(path, "A CSV of folds", FORMS)
    id_at, of_patients, fold_at = _find_columns(path, table.column_names)
    texts = table.column(id_at)
    problems = list_rows("row", "without an id", csv_text.empty_rows(texts), functools.partial(line, table))
    values, k, one_based = _fold_numbers(table, fold_at, problems)
    row_id, ids = csv_text.encode_texts(texts)
    folds, disagree = csv_text.merge_rows(row_id, len(ids), values[:, None])
    what = "with rows that disagree"
    if of_patients:
        what += "; to split a patient over folds, give one row per slice with a column of slices"
    problems += list_rows(
        "patient" if of_patients else "id",
        what,
        disagree,
        lambda i: f"{ids[i]} in {_format_numbers(_written(values[row_id == i], one_based=one_based))}",
    )
    csv_text.raise_csv_problems(path, problems, f"Correct the file. A CSV of folds has {FORMS}.")
    return FoldTable(
        ids=ids,
        folds=folds[:, 0],
        k=k,
        id_column=table.column_names[id_at],
        of_patients=of_patients,
        fold_column=table.column_names[fold_at],
        one_based=one_based,
        duplicates=len(row_id) - len(ids),
    )


def _find_columns(path: Path, names: list[str]) -> tuple[int, bool, int]:
    """Return the column of the ids, whether they are patients, and the column of the folds."""
    plain = csv_text.plain_names(names)
    ambiguous = sorted({name for name, bare in zip(names, plain, strict=True) if bare and plain.count(bare) > 1})
    slices, patients, folds = (
        [plain.index(name) for name in known if name in plain]
        for known in (csv_text.SLICE_COLUMNS, PATIENT_COLUMNS, FOLD_COLUMNS)
    )
    problems = []
    if ambiguous:
        problems.append(f"columns with the same meaning ({', '.join(ambiguous)})")
    if not folds:
        problems.append("no column of folds")
    if not slices and not patients:
        problems.append("no column of slices or patients")
    if problems:
        problem = f"{path} has the columns {csv_text.list_columns(names)}: {', '.join(problems)}."
        raise InvalidInputError(problem, f"A CSV of folds has {FORMS}.")
    return (slices or patients)[0], not slices, folds[0]


def _fold_numbers(table: pa.Table, fold_at: int, problems: list[str]) -> tuple[npt.NDArray[np.int16], int, bool]:
    """Return the fold of each row from 0, the number of folds, and whether the file numbers them from 1."""
    texts = table.column(fold_at)
    numbers = csv_text.parse_numbers(texts)
    found = list_rows(
        "row",
        "whose fold is not an integer",
        np.flatnonzero(~(np.isfinite(numbers) & (numbers == np.floor(numbers)))),
        lambda row: f"{line(table, row)}: {texts[row].as_py()!r}",
    )
    if not found:
        scored = np.unique(numbers[numbers != TRAIN_ONLY])
        first, k = int(scored[0]) if len(scored) else TRAIN_ONLY, len(scored)
        if first in (0, 1) and int(scored[-1]) == first + k - 1 and 2 <= k <= MAX_FOLDS:
            return np.where(numbers == TRAIN_ONLY, TRAIN_ONLY, numbers - first).astype(np.int16), k, first == 1
        found = [
            f"invalid fold numbers {_format_numbers(numbers)}: use 0 to k - 1 or 1 to k without gaps, "
            f"for 2 to {MAX_FOLDS} folds, and {TRAIN_ONLY} for slices that train in every fold"
        ]
    problems += found
    return np.zeros(len(numbers), np.int16), 0, False


def _written(folds: npt.NDArray[np.int16], *, one_based: bool) -> npt.NDArray[np.int16]:
    """Return `folds` as the file numbers them."""
    return np.where(folds == TRAIN_ONLY, folds, folds + one_based).astype(np.int16)


def _format_numbers(values: npt.NDArray[Any]) -> str:
    """Return the first ten distinct `values`, and the last one."""
    distinct = np.unique(values)
    shown = ", ".join(f"{int(value)}" for value in distinct[:10])
    return f"{shown} ... {int(distinct[-1])}" if len(distinct) > 10 else shown
