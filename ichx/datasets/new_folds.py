"""Folds of a new version, with the advice for datasets that have too few patients for them."""

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.datasets.folds import assign_folds, rare_labels
from ichx.datasets.ingest_report import IngestReport
from ichx.datasets.study_labels import possible_labels
from ichx.errors import InvalidInputError
from ichx.text import format_count


def new_folds(slices: pd.DataFrame, k: int, seed: int, report: IngestReport) -> npt.NDArray[np.int16]:
    """Return the fold of each of the usable `slices`, `(N,)`; warn of labels that are too rare for `k` folds.

    Raises `InvalidInputError` if there are fewer patients than folds.
    """
    patients, labels = slices["patient"].to_numpy(object), possible_labels(slices)
    if (count := slices["patient"].nunique()) < k:
        studies = slices["study"].nunique()
        ways = [f"use `--folds {count}` or fewer"] if count > 1 else []
        if studies > count:
            ways.append(f"use `--group-by study` if the PatientIDs are placeholders ({studies:,} studies)")
        ways.append("use `--folds 0` for a dataset that is only used for evaluation")
        remedy = ", or ".join(ways)
        raise InvalidInputError(
            f"Cannot split {format_count(count, 'patient')} into {k} folds.",
            f"{remedy[0].upper()}{remedy[1:]}.",
        )
    folds = assign_folds(slices["slice_id"].to_numpy(object), patients, labels, k, seed)
    if rare := rare_labels(patients, labels, k):
        listed = ", ".join(f"{label} ({count})" for label, count in rare.items())
        report.warn(f"Labels positive in fewer than {k} patients, missing in some folds: {listed}.")
    return folds
