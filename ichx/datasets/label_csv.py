"""The label CSV and the sample submission: read, checked as a whole, and pivoted to six columns.

Long (`ID,Label` with `ID = <image>_<label>`) and wide (`image` and the six labels) are both read, `.gz` too, and from
inside a zip. Every problem of a file is told at once. Images are matched with slices in `id_matching`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ichx.datasets.csv_text import encode, numbers, objects, read_text_columns
from ichx.errors import IchxError, raise_problems
from ichx.labels import ANY, LABELS
from ichx.text import EXAMPLES, format_count, format_examples

FORMS: Final = f"`ID,Label` with `ID = <image>_<label>`, or `image,{','.join(LABELS)}`"


@dataclass(frozen=True)
class LabelTable:
    """A checked label file: `images` (N,) ids in the order of their first row, `values` (N, 6) float32 in [0, 1].

    `merged` rows said again what another row had said; `any_differs` counts images whose `any` is not the maximum of
    the subtypes, with `any_examples` of them.
    """

    images: npt.NDArray[np.object_]
    values: npt.NDArray[np.float32]
    merged: int
    any_differs: int
    any_examples: tuple[str, ...]


@dataclass(frozen=True)
class SampleTable:
    """A checked sample submission: `ids` (6 N,) in its order, and its `images` (N,) in the order of their first row."""

    ids: npt.NDArray[np.object_]
    images: npt.NDArray[np.object_]


def read_labels(path: Path) -> LabelTable:
    """Return the labels in the CSV at `path`; 4.5 M rows take seconds.

    Raises `IchxError` with everything that is wrong: form, ids, values outside 0..1, duplicates that disagree, images
    without six labels.
    """
    table = read_text_columns(path, "a label CSV", FORMS)
    names = [name.strip().lower() for name in table.column_names]
    if sorted(names) == ["id", "label"]:
        ids, texts = table.column(names.index("id")), table.column(names.index("label"))
        return _pivot(path, ids, texts)
    if "image" in names and set(LABELS) <= set(names) and len(set(names)) == len(names):
        return _from_wide(path, table, names)
    raise IchxError(f"{path} has the columns {', '.join(table.column_names)}", f"a label CSV has {FORMS}")


def read_sample(path: Path) -> SampleTable:
    """Return the ids of the sample submission at `path`, in its order.

    Raises `IchxError` with everything that is wrong: form, ids, ids that occur twice, images without six rows.
    """
    table = read_text_columns(path, "a label CSV", FORMS)
    names = [name.strip().lower() for name in table.column_names]
    if sorted(names) != ["id", "label"]:
        problem = f"{path} has the columns {', '.join(table.column_names)}"
        raise IchxError(problem, "a sample submission has `ID,Label` with `ID = <image>_<label>`")
    ids = table.column(names.index("id"))
    problems: list[str] = []
    label, images, image = _split(ids, problems)
    counts = np.bincount(_key(image, label), minlength=6 * len(images)).reshape(-1, 6)
    twice = [f"{images[i]}_{LABELS[k]}" for i, k in np.argwhere(counts > 1)]
    if twice:
        problems.append(f"{format_count(len(twice), 'id')} more than once{format_examples(twice)}")
    problems += _incomplete(counts, images)
    raise_problems([f"{path}: {problem}" for problem in problems], "take the sample submission as it was handed out")
    return SampleTable(objects(ids), images)


def _pivot(path: Path, ids: pa.ChunkedArray, texts: pa.ChunkedArray) -> LabelTable:
    problems: list[str] = []
    label, images, image = _split(ids, problems)
    values = numbers(texts)
    bad = np.flatnonzero(~((values >= 0) & (values <= 1)))
    if len(bad):
        rows = [f"line {i + 2} ({ids[i].as_py()}): {texts[i].as_py()!r}" for i in bad[:EXAMPLES]]
        problems.append(
            f"{format_count(len(bad), 'label')} outside 0..1 or not a number{format_examples(rows, len(bad))}"
        )
    known, key = label >= 0, _key(image, label)
    counts = np.bincount(key, minlength=6 * len(images)).reshape(-1, 6)
    flat = np.full(6 * len(images), np.nan, np.float32)
    flat[key] = values[known]
    disagree = np.unique(key[(flat[key] != values[known]) & np.isfinite(values[known] + flat[key])])
    if len(disagree):
        such = [f"{images[k // 6]}_{LABELS[k % 6]}" for k in disagree[:EXAMPLES]]
        problems.append(
            f"{format_count(len(disagree), 'id')} with rows that disagree{format_examples(such, len(disagree))}"
        )
    problems += _incomplete(counts, images)
    return _checked(path, problems, images, flat.reshape(-1, 6), int(np.maximum(counts - 1, 0).sum()))


def _from_wide(path: Path, table: pa.Table, names: list[str]) -> LabelTable:
    problems: list[str] = []
    column = table.column(names.index("image"))
    empty = np.flatnonzero(np.asarray(pc.equal(pc.utf8_trim_whitespace(column), "")))
    if len(empty):
        problems.append(
            f"{format_count(len(empty), 'row')} without an image{format_examples([f'line {i + 2}' for i in empty])}"
        )
    texts = [table.column(names.index(name)) for name in LABELS]
    values = np.stack([numbers(text) for text in texts], axis=1)
    bad = np.argwhere(~((values >= 0) & (values <= 1)))
    if len(bad):
        rows = [f"line {i + 2} ({LABELS[k]}): {texts[k][int(i)].as_py()!r}" for i, k in bad[:EXAMPLES]]
        problems.append(
            f"{format_count(len(bad), 'label')} outside 0..1 or not a number{format_examples(rows, len(bad))}"
        )
    image, images = encode(column)
    merged = np.full((len(images), 6), np.nan, np.float32)
    merged[image] = values
    disagree = np.unique(image[((merged[image] != values) & np.isfinite(values + merged[image])).any(axis=1)])
    if len(disagree):
        such = [str(images[i]) for i in disagree[:EXAMPLES]]
        problems.append(
            f"{format_count(len(disagree), 'image')} with rows that disagree{format_examples(such, len(disagree))}"
        )
    return _checked(path, problems, images, merged, len(image) - len(images))


def _checked(
    path: Path, problems: list[str], images: npt.NDArray[np.object_], values: npt.NDArray[np.float32], merged: int
) -> LabelTable:
    raise_problems([f"{path}: {problem}" for problem in problems], f"correct the file; a label CSV has {FORMS}")
    differs = np.flatnonzero(values[:, :5].max(axis=1) != values[:, LABELS.index(ANY)])
    return LabelTable(images, values, merged, len(differs), tuple(images[differs[:EXAMPLES]]))


def _split(
    ids: pa.ChunkedArray, problems: list[str]
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.object_], npt.NDArray[np.int32]]:
    """Return each row's label code (-1 unknown), the images, and each row's image code.

    Small types and one copy of the texts at a time: there are six rows for each of 752,803 images.
    """
    label = np.full(len(ids), -1, np.int8)
    cut = np.zeros(len(ids), np.int8)
    for ignore_case in (False, True):  # which takes twice as long and is seldom needed
        for code, name in enumerate(LABELS):
            rows = np.asarray(pc.ends_with(ids, f"_{name}", ignore_case=ignore_case))
            label[rows] = code
            cut[rows] = len(name) + 1
        if (label >= 0).all():
            break
    bad = np.flatnonzero((label < 0) | (np.asarray(pc.binary_length(ids)) <= cut))
    if len(bad):
        rows_of = [f"line {i + 2}: {ids[int(i)].as_py()!r}" for i in bad[:EXAMPLES]]
        problems.append(
            f"{format_count(len(bad), 'id')} not of the form <image>_<label>{format_examples(rows_of, len(bad))}"
        )
        label[bad] = -1
    pieces, places = [], []
    for length in np.unique(cut[label >= 0]):
        rows = (cut == length) & (label >= 0)
        pieces.append(pc.utf8_slice_codeunits(ids.filter(pa.array(rows)), 0, -int(length)))
        places.append(np.flatnonzero(rows))
    image = np.full(len(ids), -1, np.int32)
    if not pieces:
        return label, np.empty(0, object), image
    place = np.concatenate(places)
    codes, names = encode(pa.chunked_array([chunk for piece in pieces for chunk in piece.chunks], pa.string()))
    image[place] = codes
    return (label, *_by_first_row(image, names))


def _key(image: npt.NDArray[np.int32], label: npt.NDArray[np.int8]) -> npt.NDArray[np.int32]:
    """Return the place in a table of images by labels, of the rows that have one."""
    known = label >= 0
    return image[known] * np.int32(len(LABELS)) + label[known]


def _by_first_row(
    image: npt.NDArray[np.int32], names: npt.NDArray[np.object_]
) -> tuple[npt.NDArray[np.object_], npt.NDArray[np.int32]]:
    """Return the names in the order of their first row, and the rows' codes to match."""
    first = np.full(len(names), len(image), np.int64)
    known = np.flatnonzero(image >= 0)
    np.minimum.at(first, image[known], known)
    order = np.argsort(first, kind="stable")
    renumber = np.empty(len(names) + 1, np.int32)
    renumber[order] = np.arange(len(names))
    renumber[-1] = -1
    return names[order], renumber[image]


def _incomplete(counts: npt.NDArray[np.int64], images: npt.NDArray[np.object_]) -> list[str]:
    """Return the problem of images that have fewer than six labels, as a list of one line or none."""
    short = np.flatnonzero((counts == 0).any(axis=1))
    if not len(short):
        return []
    such = []
    for i in short[:EXAMPLES]:
        such.append(f"{images[i]} lacks {', '.join(LABELS[k] for k in np.flatnonzero(counts[i] == 0))}")
    return [f"{format_count(len(short), 'image')} without all six labels{format_examples(such, len(short))}"]
