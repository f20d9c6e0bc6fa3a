"""A CSV of someone else's folds, read and checked as a whole: which slice or patient is in which fold.

Every problem of a file is told at once. Not for matching its ids with slices (`ichx.datasets.fold_import`).
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ichx.datasets.csv_text import encode, numbers, read_text_columns
from ichx.errors import IchxError, raise_problems
from ichx.text import EXAMPLES, format_count, format_examples

SLICE_COLUMNS: Final = (
    "sopinstanceuid",
    "sliceid",
    "imageid",
    "image",
    "filename",
    "filepath",
    "path",
    "file",
    "stem",
    "id",
)
PATIENT_COLUMNS: Final = ("patientid", "patient")
FOLD_COLUMNS: Final = ("fold", "foldid", "foldnumber", "kfold", "cvfold")
"""Names of columns, the ones that say most first; case, spaces, dots, dashes and underscores do not count."""

FORMS: Final = (
    "a column `fold`, and one of slices (`slice_id`, `SOPInstanceUID`, `image`, `filename` or `ID`) "
    "or of patients (`patient_id`)"
)

MOST_FOLDS: Final = 100
"""More are a column that was taken for the folds by mistake."""


@dataclass(frozen=True)
class FoldTable:
    """A checked CSV of folds: `ids` (N,) unique, in the order of their first row, `folds` (N,) from 0 to `k` - 1.

    The ids stand in `id_column` and are patients if `of_patients`, else slices; the folds stand in `fold_column`,
    counted from 1 there if `from_one`. `merged` rows said again what another row had said.
    """

    ids: npt.NDArray[np.object_]
    folds: npt.NDArray[np.int16]
    k: int
    id_column: str
    of_patients: bool
    fold_column: str
    from_one: bool
    merged: int

    @property
    def told(self) -> str:
        """Which columns were read, in words."""
        what = "patients" if self.of_patients else "slices"
        counting = ", counted from 1 there and from 0 here" if self.from_one else ""
        return f"{what} in the column {self.id_column!r}, folds in {self.fold_column!r}{counting}"


def read_folds(path: Path) -> FoldTable:
    """Return the folds in the CSV at `path`, one row per slice or per patient.

    Raises `IchxError` with everything that is wrong: columns, empty ids, ids whose rows disagree, folds that are not
    0 to k - 1 or 1 to k.
    """
    table = read_text_columns(path, "a CSV of folds", FORMS)
    at, of_patients, fold_at = _columns(path, table.column_names)
    texts, fold_texts = table.column(at), table.column(fold_at)
    problems: list[str] = []
    empty = np.flatnonzero(np.asarray(pc.equal(pc.utf8_trim_whitespace(texts), "")))
    if len(empty):
        problems.append(
            f"{format_count(len(empty), 'row')} without an id{format_examples([f'line {i + 2}' for i in empty])}"
        )
    values, k, from_one = _fold_numbers(fold_texts, problems)
    row_id, ids = encode(texts)
    folds = np.full(len(ids), -1, np.int16)
    folds[row_id] = values
    disagree = np.unique(row_id[folds[row_id] != values])
    if len(disagree):
        such = [f"{ids[i]} in {_listed(values[row_id == i] + from_one)}" for i in disagree[:EXAMPLES]]
        what = "patient" if of_patients else "id"
        hint = "; a patient split over folds needs a row per slice, with a column of slices" if of_patients else ""
        problems.append(
            f"{format_count(len(disagree), what)} with rows that disagree{format_examples(such, len(disagree))}{hint}"
        )
    raise_problems([f"{path}: {problem}" for problem in problems], f"correct the file; a CSV of folds has {FORMS}")
    return FoldTable(
        ids=ids,
        folds=folds,
        k=k,
        id_column=table.column_names[at],
        of_patients=of_patients,
        fold_column=table.column_names[fold_at],
        from_one=from_one,
        merged=len(row_id) - len(ids),
    )


def _columns(path: Path, names: list[str]) -> tuple[int, bool, int]:
    """Return the column of the ids, whether they are patients, and the column of the folds."""
    plain = [re.sub(r"[^a-z0-9]", "", name.lower()) for name in names]
    twice = sorted({name for name, bare in zip(names, plain, strict=True) if bare and plain.count(bare) > 1})
    slices, patients, folds = (
        [plain.index(name) for name in known if name in plain]
        for known in (SLICE_COLUMNS, PATIENT_COLUMNS, FOLD_COLUMNS)
    )
    problems = []
    if twice:
        problems.append(f"columns that mean the same: {', '.join(twice)}")
    if not folds:
        problems.append("no column of folds")
    if not slices and not patients:
        problems.append("no column of slices or patients")
    if problems:
        has = f"{path} has the columns {', '.join(names)}"
        raise IchxError(f"{has}: {'; '.join(problems)}", f"a CSV of folds has {FORMS}")
    return (slices or patients)[0], not slices, folds[0]


def _fold_numbers(texts: pa.ChunkedArray, problems: list[str]) -> tuple[npt.NDArray[np.int16], int, bool]:
    """Return each row's fold from 0 on, the number of folds, and whether the file counts from 1."""
    found = numbers(texts)
    bad = np.flatnonzero(~(np.isfinite(found) & (found == np.floor(found))))
    if len(bad):
        rows = [f"line {i + 2}: {texts[int(i)].as_py()!r}" for i in bad[:EXAMPLES]]
        problems.append(
            f"{format_count(len(bad), 'row')} whose fold is no whole number{format_examples(rows, len(bad))}"
        )
        return np.zeros(len(found), np.int16), 0, False
    used = np.unique(found)
    first, k = int(used[0]), len(used)
    if first not in (0, 1) or int(used[-1]) != first + k - 1 or not 2 <= k <= MOST_FOLDS:
        problems.append(
            f"the folds are numbered {_listed(used)}: they must be 0 to k - 1 or 1 to k, without gaps, "
            f"for 2 to {MOST_FOLDS} folds"
        )
        return np.zeros(len(found), np.int16), 0, False
    return (found - first).astype(np.int16), k, first == 1


def _listed(values: npt.NDArray[np.generic]) -> str:
    """Return the different numbers among `values`, the first ten of them."""
    different = np.unique(values)
    shown = ", ".join(f"{int(value)}" for value in different[:10])
    return f"{shown} ... {int(different[-1])}" if len(different) > 10 else shown
