"""Labels in a spreadsheet as people make them: CSV or XLSX, any columns, empty cells, words for numbers.

The columns of the ids and labels are named by the user. Label CSVs with the six columns of a challenge, all filled in,
are read in `label_csv`; text files in `csv_text`, XLSX in `xlsx_text`.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ichx.datasets import csv_text
from ichx.datasets.label_table import IdKind, LabelTable, Level, derive_labels
from ichx.datasets.xlsx_text import is_xlsx, read_xlsx_columns
from ichx.errors import InvalidInputError, did_you_mean
from ichx.labels import ANY, LABELS
from ichx.text import EXAMPLES

KINDS_BY_NAME: Final[Mapping[str, IdKind]] = {
    "sopinstanceuid": "SOPInstanceUID",
    "seriesinstanceuid": "SeriesInstanceUID",
    "seriesuid": "SeriesInstanceUID",
    "studyinstanceuid": "StudyInstanceUID",
    "studyuid": "StudyInstanceUID",
    "accessionnumber": "AccessionNumber",
    "accession": "AccessionNumber",
    "accessionno": "AccessionNumber",
    "patientid": "PatientID",
    "folder": "folder",
    "directory": "folder",
    "filename": "file",
    "filepath": "file",
    "file": "file",
}
"""Kinds of ids by the plain name of their column, see `plain_names`; ids under another name are matched in all ways."""

WORDS: Final = {
    "1": ("true", "yes", "y", "t", "positive", "pos", "present", "+", *("ja", "wahr", "positiv", "oui", "vrai", "sí")),
    "0": ("false", "no", "n", "f", "negative", "neg", "absent", *("nein", "falsch", "negativ", "non", "faux")),
}
"""Words for a label, in any case: English, and what spreadsheets and people write in other languages."""

UNKNOWN: Final = ("", "na", "n/a", "nan", "null", "unknown", "?")
"""Words for a label that is not known, in any case."""

_REMEDY: Final = (
    "Correct the file: labels are numbers from 0 to 1, yes or no, true or false; an empty cell is an unknown label."
)


@dataclass(frozen=True)
class SheetColumns:
    """Which columns of a spreadsheet mean what."""

    id_column: str | None = None
    """Column of the ids; None: the first one whose name is in `KINDS_BY_NAME`."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Column by label; empty: columns with the names of labels."""
    sheet: str | None = None
    """Sheet of an XLSX; None: the only one that is not empty."""
    kind: IdKind | None = None
    """What the ids are; None: as the name of the column says, or what matches."""
    level: Level | None = None
    """What a row describes; None: as the ids say."""


def read_label_sheet(path: Path, columns: SheetColumns) -> LabelTable:
    """Return the labels in the spreadsheet at `path`; empty cells are unknown labels.

    Rows that repeat an id are merged if their known labels agree.

    Raises:
        InvalidInputError: A column does not exist, a value is invalid, or rows contradict each other.
        IchxError: The file cannot be read.
    """
    forms = "a column of ids (`--id-column`) and columns of labels (`--label any=COLUMN`)"
    if is_xlsx(path):
        table = read_xlsx_columns(path, columns.sheet)
    elif columns.sheet is not None:
        raise InvalidInputError(f"{path} is no XLSX, so it has no sheets.", "Omit --sheet.")
    else:
        table = csv_text.read_text_columns(path, "A spreadsheet", forms)
    names = table.column_names
    id_at = _id_column(path, names, columns.id_column)
    label_at = _label_columns(path, names, columns.labels)
    ids = table.column(id_at)
    problems: list[str] = []
    values = np.full((len(ids), len(LABELS)), np.nan, np.float32)
    for label, at in label_at.items():
        values[:, LABELS.index(label)] = _parse_labels(table, at, problems)
    blank = np.zeros(len(ids), bool)
    blank[csv_text.empty_rows(ids)] = True
    nameless = np.flatnonzero(blank & ~np.isnan(values).all(axis=1))
    problems += csv_text.list_rows("row", "with labels and no id", nameless, functools.partial(csv_text.line, table))
    if len(rounded := _rounded(ids)):
        problems += csv_text.list_rows("id", "cut to 15 digits by a spreadsheet", rounded, lambda row: ids[row].as_py())
    kept = ids.filter(pa.array(~blank))
    codes, texts = csv_text.encode_texts(kept)
    merged, repeated, disagree = _merge(codes, values[~blank], len(texts))
    problems += csv_text.list_rows("id", "with rows that contradict each other", disagree, lambda i: str(texts[i]))
    csv_text.raise_csv_problems(path, problems, _REMEDY)
    if not len(texts):
        raise InvalidInputError(f"{path}: the column {names[id_at]!r} is empty.", "Name another one: --id-column.")
    return _label_table(path, names[id_at], columns, texts, merged, repeated, with_any=ANY in label_at)


def _label_table(
    path: Path,
    id_column: str,
    columns: SheetColumns,
    ids: npt.NDArray[np.object_],
    values: npt.NDArray[np.float32],
    duplicates: int,
    *,
    with_any: bool,
) -> LabelTable:
    kind = columns.kind or KINDS_BY_NAME.get(csv_text.plain_names([id_column])[0])
    found = values[:, LABELS.index(ANY)]
    largest = np.where(np.isnan(values[:, :5]), -np.inf, values[:, :5]).max(axis=1)
    complete = ~np.isnan(values[:, :5]).any(axis=1)
    differs = np.flatnonzero((largest > found) | (complete & (largest < found)))
    return LabelTable(
        ids,
        derive_labels(values),
        level=columns.level,
        kind=kind,
        origin=str(path),
        duplicates=duplicates,
        any_differs=len(differs),
        any_examples=tuple(map(str, ids[differs[:EXAMPLES]])),
        any_computed=not with_any,
    )


def _id_column(path: Path, names: list[str], wanted: str | None) -> int:
    if wanted is not None:
        return _find_column(path, names, wanted, "--id-column")
    plain = csv_text.plain_names(names)
    known = [at for kind in KINDS_BY_NAME for at, name in enumerate(plain) if name == kind]
    if not known:
        raise InvalidInputError(
            f"{path} has the columns {csv_text.list_columns(names)}: none is known to have ids.",
            "Name it: --id-column COLUMN.",
        )
    return known[0]


def _label_columns(path: Path, names: list[str], wanted: Mapping[str, str]) -> dict[str, int]:
    for label in wanted:
        if label not in LABELS:
            raise InvalidInputError(
                f"Unknown label: {label!r}.", f"{did_you_mean(label, LABELS)}Labels are {', '.join(LABELS)}."
            )
    if wanted:
        return {label: _find_column(path, names, column, f"--label {label}") for label, column in wanted.items()}
    plain = csv_text.plain_names(names)
    found: dict[str, int] = {label: plain.index(label) for label in LABELS if label in plain}
    if not found:
        raise InvalidInputError(
            f"{path} has the columns {csv_text.list_columns(names)}: none has the name of a label.",
            f"Name them, e.g. --label {ANY}=COLUMN; labels are {', '.join(LABELS)}.",
        )
    return found


def _find_column(path: Path, names: list[str], wanted: str, option: str) -> int:
    """Return the place of a column by its name, exact or plain."""
    plain, key = csv_text.plain_names(names), csv_text.plain_names([wanted])[0]
    places = [at for at, name in enumerate(names) if name == wanted] or [
        at for at, name in enumerate(plain) if name == key and key
    ]
    if len(places) == 1:
        return places[0]
    if places:
        raise InvalidInputError(
            f"{path} has {len(places)} columns {wanted!r} ({option}).", "Rename the columns that are not meant."
        )
    raise InvalidInputError(
        f"{path} has no column {wanted!r} ({option}); it has {csv_text.list_columns(names)}.",
        f"{did_you_mean(wanted, names)}Name a column of the file.",
    )


def _parse_labels(table: pa.Table, at: int, problems: list[str]) -> npt.NDArray[np.float32]:
    """Return the labels of a column, NaN where unknown; add invalid values to `problems`."""
    texts = pc.utf8_lower(pc.utf8_trim_whitespace(table.column(at)))
    unknown = np.asarray(pc.is_in(texts, pa.array(UNKNOWN)))
    values = csv_text.parse_numbers_and_words(texts, WORDS)
    invalid = np.flatnonzero(~((values >= 0) & (values <= 1)) & ~unknown)
    name, column = table.column_names[at], table.column(at)
    problems += csv_text.list_rows(
        "invalid label",
        f"in the column {name!r}",
        invalid,
        lambda row: f"{csv_text.line(table, row)}: {column[row].as_py()!r}",
    )
    return np.where(unknown, np.float32(np.nan), values)


def _merge(
    codes: npt.NDArray[np.int32], values: npt.NDArray[np.float32], count: int
) -> tuple[npt.NDArray[np.float32], int, npt.NDArray[np.int64]]:
    """Return the known labels of each id (`count`, 6), the number of repeating rows, and the ids that disagree."""
    low, high = np.full((count, values.shape[1]), np.inf, np.float32), np.full((count, values.shape[1]), -np.inf)
    known = ~np.isnan(values)
    np.minimum.at(low, codes, np.where(known, values, np.inf))
    np.maximum.at(high, codes, np.where(known, values, -np.inf))
    merged = np.where(np.isfinite(low), low, np.nan).astype(np.float32)
    return merged, len(codes) - count, np.flatnonzero((low < high).any(axis=1))


def _rounded(ids: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Return the rows whose id a spreadsheet turned into a number and rounded, e.g. `1.28401136192462E+17`."""
    return np.flatnonzero(np.asarray(pc.match_substring_regex(ids, r"^\d[.,]\d+[eE]\+\d+$")))
