"""Audit of mixtures: whether slices are in the fold of their part, and patients in one part only.

The check is part of `ichx.evaluation.audit`.
"""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.datasets.dataset import DEFAULT_FOLDS, load_folds, load_version
from ichx.datasets.fold_numbers import TRAIN_ONLY
from ichx.datasets.mixture import PART, MixturePart, describe_parts, mixture_parts
from ichx.errors import NotFoundError
from ichx.evaluation.checks import UnknownError, WrongError
from ichx.text import format_count, format_examples

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import DatasetVersion


def check_parts(
    project: "Project",
    version: "DatasetVersion",
    fold_set: str,
    slices: pd.DataFrame,
    folds: npt.NDArray[np.int16],
) -> tuple[str, None]:
    """Return the detail of the check of the parts of a mixture.

    Args:
        project: The open project.
        version: The mixture.
        fold_set: Name of the folds of the experiment; imported ones are not compared with those of the parts.
        slices: Its usable slices, `(N,)`.
        folds: Their folds, `(N,)`.

    Raises:
        WrongError: A patient is in two parts, a slice is in another fold than in its part, or one of a part that trains
            only has a fold.
        UnknownError: A part is gone.
    """
    parts = mixture_parts(version)
    several = slices.groupby("patient")[PART].nunique()
    if shared := [str(patient) for patient in several.index[several > 1]]:
        count = format_count(len(shared), "patient")
        raise WrongError(f"{count} in several parts{format_examples(shared, len(shared))}")
    listed = f"{describe_parts(parts)}; no patient is in two parts"
    if fold_set != DEFAULT_FOLDS:
        return f"{listed}; the folds {fold_set} are imported", None
    for part in parts:
        own = np.asarray(slices[PART] == part.dataset, bool)
        expected = _expected(project, part, slices[own])
        if wrong := slices["slice_id"].to_numpy(object)[own][folds[own] != expected].astype(str).tolist():
            count = format_count(len(wrong), "slice")
            raise WrongError(
                f"{count} of {part.dataset} in another fold than there{format_examples(wrong, len(wrong))}"
            )
    return f"{listed}; slices have the folds of their parts", None


def _expected(project: "Project", part: MixturePart, slices: pd.DataFrame) -> npt.NDArray[np.int16]:
    """Return the fold of each of `slices` in their part, `(N,)`."""
    if part.train_only:
        return np.full(len(slices), TRAIN_ONLY, np.int16)
    try:
        version = project.store.version(part.dataset, part.number)
    except NotFoundError as error:
        raise UnknownError(f"the part {part} is gone, so its folds are not known") from error
    own = load_version(project.workspace, version).slices
    folds = load_folds(project.workspace, version, version.fold_set(part.folds), own)
    rows = pd.Index(own["slice_id"]).get_indexer(pd.Index(slices["slice_id"]))
    expected: npt.NDArray[np.int16] = np.where(rows >= 0, folds[rows], TRAIN_ONLY - 1).astype(np.int16)
    return expected
