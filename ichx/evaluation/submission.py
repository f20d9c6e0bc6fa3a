"""The submission: exactly the sample's ids, in its order, with probabilities."""

import os
import secrets
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ichx.datasets.csv_text import parse_numbers, read_text_columns, to_objects
from ichx.datasets.label_csv import SampleTable
from ichx.errors import IchxError, raise_problems
from ichx.evaluation.metric import FloatArray
from ichx.labels import LABELS
from ichx.text import EXAMPLES, format_count, format_examples


def write_submission(path: Path, sample: SampleTable, images: npt.NDArray[np.object_], predicted: FloatArray) -> None:
    """Write `predicted` (N, 6) probabilities of the sample's `images` (N,) to `path`, atomically and checked.

    `images` must cover the sample's images; more than those is an error too. Raises `IchxError`.
    """
    row_of = {image: row for row, image in enumerate(images)}
    missing = [image for image in sample.images if image not in row_of]
    if missing or len(row_of) != len(sample.images) or len(images) != len(row_of):
        raise IchxError(
            f"the predictions ({len(images)} images) do not match the sample's {len(sample.images)} images",
            "predict anew",
        )
    column_of = {label: column for column, label in enumerate(LABELS)}
    lines = ["ID,Label"]
    for name in sample.ids:
        image, _, label = name.rpartition("_")
        lines.append(f"{name},{float(predicted[row_of[image], column_of[label]])!r}")
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with draft.open("w", encoding="utf-8") as handle:
                handle.write("\n".join(lines) + "\n")
                handle.flush()
                os.fsync(handle.fileno())
            check_submission(draft, sample, path.name)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise IchxError(f"cannot write {path}: {error.strerror}", "free some space or choose another --out") from error


def check_submission(path: Path, sample: SampleTable, name: str | None = None) -> None:
    """Raise `IchxError` with everything that keeps the CSV at `path` from being a submission for `sample`.

    It is called `name` in there, or what it is called.
    """
    problems = submission_problems(path, sample)
    raise_problems([f"{name or path.name}: {problem}" for problem in problems], "write it anew with `ichx ensemble`")


def submission_problems(path: Path, sample: SampleTable) -> list[str]:
    """Return everything that keeps the CSV at `path` from being a submission for `sample`, with counts and examples.

    It must have the columns `ID,Label`, exactly the sample's ids, each once, in its order, and probabilities. Raises
    `IchxError` where there is no file, or none that can be read as CSV.
    """
    table = read_text_columns(path, "a submission", "`ID,Label` with the ids of the sample submission")
    if table.column_names != ["ID", "Label"]:
        return [f"its columns are {', '.join(table.column_names)} instead of ID, Label"]
    return _id_problems(to_objects(table["ID"]), sample) + _value_problems(table["ID"], table["Label"])


def _id_problems(ids: npt.NDArray[np.object_], sample: SampleTable) -> list[str]:
    if np.array_equal(ids, sample.ids):
        return []
    wanted, times = set(sample.ids), Counter(ids)
    problems = []
    for what, found in (
        ("{} of the sample missing", [i for i in sample.ids if i not in times]),
        ("{} that the sample does not have", [i for i in times if i not in wanted]),
        ("{} more than once", [i for i, count in times.items() if count > 1]),
    ):
        if found:
            problems.append(f"{what.format(format_count(len(found), 'id'))}{format_examples(map(repr, found))}")
    if not problems:
        moved = np.flatnonzero(ids != sample.ids)
        such = [f"line {i + 2} has {ids[i]!r} where the sample has {sample.ids[i]!r}" for i in moved[:EXAMPLES]]
        problems.append(
            f"{format_count(len(moved), 'id')} not in the sample's order{format_examples(such, len(moved))}"
        )
    return problems


def _value_problems(ids: pa.ChunkedArray, texts: pa.ChunkedArray) -> list[str]:
    values = parse_numbers(texts, pa.float64())
    trimmed = pc.utf8_trim_whitespace(texts)
    empty = np.asarray(pc.equal(trimmed, ""))
    nan = np.asarray(pc.equal(pc.utf8_lower(trimmed), "nan"))
    outside = np.isfinite(values) & ((values < 0) | (values > 1))
    problems = []
    for what, bad in (
        ("without a value", empty),
        ("whose value is NaN", nan),
        ("whose value is no number", ~np.isfinite(values) & ~empty & ~nan),
        ("whose value is outside 0..1", outside),
    ):
        rows = np.flatnonzero(bad)
        if len(rows):
            such = [f"line {i + 2} ({ids[int(i)].as_py()}): {texts[int(i)].as_py()!r}" for i in rows[:EXAMPLES]]
            problems.append(f"{format_count(len(rows), 'id')} {what}{format_examples(such, len(rows))}")
    return problems
