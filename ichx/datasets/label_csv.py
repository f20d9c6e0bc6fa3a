"""The label CSV and the sample submission, validated and pivoted to six columns.

Labels are long (`ID,Label` with `ID = <image>_<label>`) or wide (a column of slices, see `SLICE_COLUMNS`, and the six
labels). Other columns are ignored. All problems of a file are reported at once. Images are matched with slices in
`id_matching`.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ichx.datasets import csv_text
from ichx.datasets.csv_text import line, list_rows
from ichx.datasets.label_table import LabelTable
from ichx.errors import InvalidInputError
from ichx.labels import ANY, LABELS
from ichx.text import EXAMPLES

FORMS: Final = f"`ID,Label` with `ID = <image>_<label>`, or the columns image, {', '.join(LABELS)}"

OTHER_FORMS: Final = "Name other columns with --id-column and --label."
"""Advice for a file of another form."""

WORDS: Final = {"1": ("true", "yes", "t", "y"), "0": ("false", "no", "f", "n")}
"""Words for a label, in any case."""


@dataclass(frozen=True)
class SampleTable:
    """A valid sample submission."""

    ids: npt.NDArray[np.object_]
    """(6 N,) in the order of the file."""
    images: npt.NDArray[np.object_]
    """(N,) in the order of their first rows."""


def read_labels(path: Path) -> LabelTable:
    """Return the labels in the CSV at `path`; 4.5 million rows take seconds.

    Raises `InvalidInputError` for unknown columns, invalid ids or values, duplicates that disagree and images without
    all labels, and like `read_text_columns`.
    """
    table = csv_text.read_text_columns(path, "A label CSV", FORMS)
    names = csv_text.plain_names(table.column_names)
    missing = [label for label in LABELS if label not in names]
    if len(missing) == len(LABELS) and {"id", "label"} <= set(names):
        _check_unique(path, table.column_names, names, ("id", "label"))
        return _read_long(path, table, names)
    problems = []
    image = next((name for name in csv_text.SLICE_COLUMNS if name in names), "")
    if not image:
        problems.append("no column of slices")
    if missing not in ([], [ANY]):
        problems.append(f"no column {', '.join(missing)}")
    if problems:
        problem = f"{path} has the columns {csv_text.list_columns(table.column_names)}: {'; '.join(problems)}."
        raise InvalidInputError(problem, f"A label CSV has {FORMS}. {OTHER_FORMS}")
    _check_unique(path, table.column_names, names, (image, *LABELS))
    return _read_wide(path, table, names, names.index(image))


def read_sample(path: Path) -> SampleTable:
    """Return the ids of the sample submission at `path`, in its order.

    Raises `InvalidInputError` for unknown columns, invalid or repeated ids and images without all rows, and like
    `read_text_columns`.
    """
    table = csv_text.read_text_columns(path, "A label CSV", FORMS)
    names = csv_text.plain_names(table.column_names)
    if not {"id", "label"} <= set(names):
        problem = f"{path} has the columns {csv_text.list_columns(table.column_names)}."
        raise InvalidInputError(problem, "A sample submission has `ID,Label` with `ID = <image>_<label>`.")
    _check_unique(path, table.column_names, names, ("id",))
    ids = table.column(names.index("id"))
    problems: list[str] = []
    label, images, image = split_ids(table, ids, problems)
    counts = np.bincount(_cells(image, label), minlength=6 * len(images))
    problems += list_rows("id", "more than once", np.flatnonzero(counts > 1), lambda cell: _cell_name(images, cell))
    problems += _incomplete(counts, images)
    csv_text.raise_csv_problems(path, problems, "Use the sample submission as it was distributed.")
    return SampleTable(csv_text.to_objects(ids), images)


def _check_unique(path: Path, columns: list[str], names: list[str], used: tuple[str, ...]) -> None:
    """Raise `InvalidInputError` if the CSV has several of the `used` columns; `names` are its plain names."""
    if several := [name for name in used if names.count(name) > 1]:
        raise InvalidInputError(
            f"{path} has the columns {csv_text.list_columns(columns)}: several columns {', '.join(several)}.",
            f"A label CSV has {FORMS}.",
        )


def _read_long(path: Path, table: pa.Table, names: list[str]) -> LabelTable:
    problems: list[str] = []
    ids = table.column(names.index("id"))
    label, images, image = split_ids(table, ids, problems)
    values = _parse_labels(table, [names.index("label")], problems, lambda row: (ids[row].as_py(),))
    cells = _cells(image, label)
    merged, disagree = csv_text.merge_rows(cells, 6 * len(images), values[label >= 0])
    problems += list_rows("id", "with rows that disagree", disagree, lambda cell: _cell_name(images, cell))
    counts = np.bincount(cells, minlength=6 * len(images))
    duplicates = int(np.maximum(counts - 1, 0).sum())
    without_any = not counts[LABELS.index(ANY) :: len(LABELS)].any()
    if without_any:
        counts[LABELS.index(ANY) :: len(LABELS)] = 1
    problems += _incomplete(counts, images)
    return _label_table(path, problems, images, merged.reshape(-1, 6), duplicates, without_any)


def _read_wide(path: Path, table: pa.Table, names: list[str], image_at: int) -> LabelTable:
    column = table.column(image_at)
    problems = list_rows("row", "without an image", csv_text.empty_rows(column), functools.partial(line, table))
    without_any = ANY not in names
    present = LABELS[:-1] if without_any else LABELS
    values = np.zeros((len(column), len(LABELS)), np.float32)
    columns = [names.index(label) for label in present]
    values[:, : len(present)] = _parse_labels(table, columns, problems, lambda _: present)
    image, images = csv_text.encode_texts(column)
    merged, disagree = csv_text.merge_rows(image, len(images), values)
    problems += list_rows("image", "with rows that disagree", disagree, lambda i: str(images[i]))
    return _label_table(path, problems, images, merged, len(image) - len(images), without_any)


def _parse_labels(
    table: pa.Table, at: Sequence[int], problems: list[str], names: Callable[[int], Sequence[str]]
) -> npt.NDArray[np.float32]:
    """Return the labels in the columns `at`, (N, C), and add to `problems` the rows with missing or invalid ones.

    `names` returns the names of the labels of a row, (C,).
    """
    columns = [table.column(k) for k in at]
    values = np.stack([_parse_column(texts) for texts in columns], axis=1)
    blank = np.zeros(values.shape, bool)
    for k, texts in enumerate(columns):
        blank[csv_text.empty_rows(texts), k] = True
    invalid = ~((values >= 0) & (values <= 1)) & ~blank

    def place(row: int, wrong: npt.NDArray[np.bool_], *, shown: bool) -> str:
        found = np.flatnonzero(wrong[row])
        cells = [names(row)[k] + (f" {columns[k][row].as_py()!r}" if shown else "") for k in found.tolist()]
        return f"{line(table, row)} ({', '.join(cells)})"

    for what, wrong, shown in (("missing", blank, False), ("outside 0..1 or not a number", invalid, True)):
        rows = np.flatnonzero(wrong.any(axis=1))
        example = functools.partial(place, wrong=wrong, shown=shown)
        problems += list_rows("row", f"with labels {what}", rows, example)
    return values


def _parse_column(texts: pa.ChunkedArray) -> npt.NDArray[np.float32]:
    """Return the numbers of a column, (N,), NaN for texts that are neither numbers nor `WORDS`."""
    values: npt.NDArray[np.float32] = csv_text.parse_numbers(texts)
    return csv_text.parse_numbers_and_words(texts, WORDS) if np.isnan(values).any() else values


def _label_table(
    path: Path,
    problems: list[str],
    images: npt.NDArray[np.object_],
    values: npt.NDArray[np.float32],
    duplicates: int,
    without_any: bool,
) -> LabelTable:
    csv_text.raise_csv_problems(path, problems, f"Correct the file. A label CSV has {FORMS}.")
    maximum = values[:, :5].max(axis=1)
    if without_any:
        values[:, LABELS.index(ANY)] = maximum
    differs = np.flatnonzero(maximum != values[:, LABELS.index(ANY)])
    return LabelTable(
        images,
        values,
        origin=str(path),
        duplicates=duplicates,
        any_differs=len(differs),
        any_examples=tuple(images[differs[:EXAMPLES]]),
        any_computed=without_any,
    )


def split_ids(
    table: pa.Table, ids: pa.ChunkedArray, problems: list[str]
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.object_], npt.NDArray[np.int32]]:
    """Return the label code of each row (-1 if unknown), the images, and the image code of each row.

    Small dtypes and one copy of the texts at a time save memory: there are six rows for each of 752,803 images.
    """
    label = np.full(len(ids), -1, np.int8)
    suffix = np.zeros(len(ids), np.int8)
    for ignore_case in (False, True):  # True takes twice as long and is rarely needed
        for code, name in enumerate(LABELS):
            rows = np.asarray(pc.ends_with(ids, f"_{name}", ignore_case=ignore_case))
            label[rows] = code
            suffix[rows] = len(name) + 1
        if (label >= 0).all():
            break
    invalid = np.flatnonzero((label < 0) | (np.asarray(pc.binary_length(ids)) <= suffix))
    problems += list_rows(
        "id", "not of the form <image>_<label>", invalid, lambda row: f"{line(table, row)}: {ids[row].as_py()!r}"
    )
    label[invalid] = -1
    parts, positions = [], []
    for length in np.unique(suffix[label >= 0]):
        rows = (suffix == length) & (label >= 0)
        parts.append(pc.utf8_slice_codeunits(ids.filter(pa.array(rows)), 0, -int(length)))
        positions.append(np.flatnonzero(rows))
    image = np.full(len(ids), -1, np.int32)
    if not parts:
        return label, np.empty(0, object), image
    codes, names = csv_text.encode_texts(
        pa.chunked_array([chunk for part in parts for chunk in part.chunks], pa.string())
    )
    image[np.concatenate(positions)] = codes
    return (label, *_sort_by_first_row(image, names))


def _sort_by_first_row(
    image: npt.NDArray[np.int32], names: npt.NDArray[np.object_]
) -> tuple[npt.NDArray[np.object_], npt.NDArray[np.int32]]:
    """Return the names in the order of their first rows, and the image code of each row in that order."""
    first = np.full(len(names), len(image), np.int64)
    known = np.flatnonzero(image >= 0)
    np.minimum.at(first, image[known], known)
    order = np.argsort(first, kind="stable")
    renumber = np.empty(len(names) + 1, np.int32)
    renumber[order] = np.arange(len(names))
    renumber[-1] = -1
    return names[order], renumber[image]


def _cells(image: npt.NDArray[np.int32], label: npt.NDArray[np.int8]) -> npt.NDArray[np.int32]:
    """Return the cells of the rows with a known label in the flattened table of images by labels."""
    known = label >= 0
    return image[known] * np.int32(len(LABELS)) + label[known]


def _cell_name(images: npt.NDArray[np.object_], cell: int) -> str:
    return f"{images[cell // len(LABELS)]}_{LABELS[cell % len(LABELS)]}"


def _incomplete(counts: npt.NDArray[Any], images: npt.NDArray[np.object_]) -> list[str]:
    """Return the problem of images that lack labels, given the number of rows of each cell."""
    missing = counts.reshape(-1, len(LABELS)) == 0

    def example(i: int) -> str:
        return f"{images[i]} lacks {', '.join(np.array(LABELS)[missing[i]])}"

    return list_rows("image", "without all six labels", np.flatnonzero(missing.any(axis=1)), example)
