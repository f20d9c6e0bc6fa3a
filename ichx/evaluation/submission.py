"""The submission: exactly the sample's ids, in its order, with probabilities."""

import os
import secrets
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv

from ichx.data.label_csv import SampleTable, read_sample
from ichx.errors import IchxError, raise_problems
from ichx.evaluation.metric import FloatArray
from ichx.labels import LABELS

_AS_NUMBERS = pyarrow.csv.ConvertOptions(column_types={"Label": pa.float64()})


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
            check_submission(draft, sample)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise IchxError(f"cannot write {path}: {error.strerror}", "free some space or choose another --out") from error


def check_submission(path: Path, sample: SampleTable) -> None:
    """Raise `IchxError` with everything that keeps the CSV at `path` from being a submission for `sample`."""
    table = read_sample(path)
    problems = []
    if not np.array_equal(table.ids, sample.ids):
        different = len(set(table.ids) ^ set(sample.ids))
        problems.append(
            f"{different} ids differ from the sample's" if different else "the ids are not in the sample's order"
        )
    try:
        values = pyarrow.csv.read_csv(path, convert_options=_AS_NUMBERS).column("Label").to_numpy()
    except pa.ArrowInvalid as error:
        problems.append(f"not every Label is a number: {error}")
        values = np.empty(0)
    bad = int((~((values >= 0) & (values <= 1))).sum())
    if bad:
        problems.append(f"{bad} values are no probabilities in 0..1")
    raise_problems([f"{path.name}: {problem}" for problem in problems], "write it anew with `ichx ensemble`")
