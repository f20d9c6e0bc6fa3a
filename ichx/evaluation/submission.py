"""Submission files: the sample's ids, in its order, with probabilities. Sending is in `ichx.evaluation.kaggle`."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ichx.datasets.csv_text import parse_numbers, read_text_columns, to_objects
from ichx.datasets.label_csv import SampleTable
from ichx.errors import InvalidInputError, NotReadyError, raise_problems
from ichx.evaluation.metric import FloatArray
from ichx.files import atomic_write
from ichx.labels import LABELS
from ichx.text import EXAMPLES, format_count, format_examples

if TYPE_CHECKING:
    from ichx.project import Project


def write_submission(path: Path, sample: SampleTable, images: npt.NDArray[np.object_], predicted: FloatArray) -> None:
    """Write a submission atomically, after the same check as `check_submission`.

    Args:
        path: The file to write.
        sample: The sample submission.
        images: Exactly the sample's images, in any order, `(N,)`.
        predicted: Their probabilities, `(N, 6)`.

    Raises:
        InvalidInputError: The images differ from the sample's, or a value is not a probability.
        StorageError: The file cannot be written.
    """
    row_of = {image: row for row, image in enumerate(images)}
    if len(images) != len(row_of) or set(row_of) != set(sample.images):
        raise InvalidInputError(
            f"The predictions ({len(images)} images) do not match the sample's {len(sample.images)} images.",
            "Pass one prediction for each image of the sample.",
        )
    column_of = {label: column for column, label in enumerate(LABELS)}
    lines = ["ID,Label"]
    for name in sample.ids:
        image, _, label = name.rpartition("_")
        lines.append(f"{name},{float(predicted[row_of[image], column_of[label.lower()]])!r}")
    with atomic_write(path, "the submission", remedy="Free some space or choose another `--out`.") as draft:
        draft.write_text("\n".join(lines) + "\n", encoding="utf-8")
        check_submission(draft, sample, path.name)


def check_submission(path: Path, sample: SampleTable, name: str | None = None) -> None:
    """Check that the CSV at `path` is a submission for `sample`.

    Args:
        path: The file.
        sample: The sample submission.
        name: What messages call the file; None: its name.

    Raises:
        InvalidInputError: It is not; the message lists all problems.
        NotFoundError: There is no such file.
    """
    problems = [f"{name or path.name}: {problem}." for problem in submission_problems(path, sample)]
    raise_problems(problems, "Write the submission with `ichx ensemble`.")


def submission_problems(path: Path, sample: SampleTable) -> list[str]:
    """Return all reasons why the CSV at `path` is not a submission for `sample`, with counts and examples.

    It must have the columns `ID,Label`, exactly the sample's ids, each once, in its order, and probabilities.

    Raises:
        NotFoundError: There is no such file.
        InvalidInputError: The file is not a CSV.
    """
    table = read_text_columns(path, "a submission", "`ID,Label` with the ids of the sample submission", exact=True)
    if table.column_names != ["ID", "Label"]:
        return [f"the columns are {', '.join(table.column_names)} instead of ID, Label"]
    return _id_problems(to_objects(table["ID"]), sample) + _value_problems(table["ID"], table["Label"])


def _id_problems(ids: npt.NDArray[np.object_], sample: SampleTable) -> list[str]:
    if np.array_equal(ids, sample.ids):
        return []
    expected, times = set(sample.ids), Counter(ids)
    problems = [
        f"{format_count(len(found), 'id')} {what}{format_examples(map(repr, found))}"
        for what, found in (
            ("missing", [i for i in sample.ids if i not in times]),
            ("not in the sample", [i for i in times if i not in expected]),
            ("more than once", [i for i, count in times.items() if count > 1]),
        )
        if found
    ]
    if not problems:
        moved = np.flatnonzero(ids != sample.ids)
        examples = [f"line {i + 2} is {ids[i]!r} instead of {sample.ids[i]!r}" for i in moved[:EXAMPLES]]
        problems.append(f"{format_count(len(moved), 'id')} out of order{format_examples(examples, len(moved))}")
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
        ("with the value NaN", nan),
        ("with an invalid number", ~np.isfinite(values) & ~empty & ~nan),
        ("with a value outside 0..1", outside),
    ):
        rows = np.flatnonzero(bad)
        if len(rows):
            examples = [f"line {i + 2} ({ids[int(i)].as_py()}) is {texts[int(i)].as_py()!r}" for i in rows[:EXAMPLES]]
            problems.append(f"{format_count(len(rows), 'id')} {what}{format_examples(examples, len(rows))}")
    return problems


def recorded_sample(project: "Project", file: Path) -> Path:
    """Return the sample submission of the test set after which the submission `file` is named, or of the only one.

    Raises:
        NotReadyError: No test set has a sample submission.
        InvalidInputError: Several have one, and the file is named after none of them.
    """
    versions = [project.store.version(dataset.name) for dataset in project.store.datasets()]
    samples = {v.dataset: project.workspace.root / v.sample for v in versions if v.sample is not None}
    remedy = "Name the sample submission: --sample FILE."
    if not samples:
        raise NotReadyError(f"No test set of {project.workspace.root} has a sample submission.", remedy)
    if file.stem in samples:
        return samples[file.stem]
    if len(samples) > 1:
        raise InvalidInputError(
            f"{file.name} is not named after a test set, and {len(samples)} have a sample: {', '.join(samples)}.",
            remedy,
        )
    return next(iter(samples.values()))
