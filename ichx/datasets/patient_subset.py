"""Subsets of the patients for short trainings. Folds are assigned in `folds`."""

import hashlib

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.datasets.fold_numbers import TRAIN_ONLY
from ichx.errors import InvalidInputError
from ichx.labels import LABELS

EXCLUDED = -2
"""Fold, only in memory, of the slices of patients outside the subset."""


def subset_folds(
    slices: pd.DataFrame, folds: npt.NDArray[np.int16], share: float, seed: int = 0
) -> npt.NDArray[np.int16]:
    """Return `folds` with `EXCLUDED` for all but a `share` of each fold's patients.

    Patients are sampled by combinations of labels, so that the subset has about the prevalences of all patients, above
    all of the rarest label. The names of patients do not matter.

    Args:
        slices: `slice_id`, `patient` and the labels of N slices.
        folds: (N,)
        share: Share of the patients, in (0, 1].
        seed: Seed of the sample.

    Raises:
        InvalidInputError: A fold would have no patient. `TRAIN_ONLY` may have none.
    """
    if share >= 1:
        return folds
    labels = slices[list(LABELS)].to_numpy() > 0.5
    patients_with = pd.DataFrame(labels).groupby(slices["patient"].to_numpy(object)).any().to_numpy().sum(axis=0)
    bits = 1 << np.argsort(np.argsort(-patients_with, kind="stable"))  # the rarest label is the highest bit
    table = pd.DataFrame(
        {
            "patient": slices["patient"].to_numpy(object),
            "fold": folds,
            "first": slices["slice_id"].to_numpy(object),
            "pattern": labels @ bits,
        }
    )
    # In leaky folds a patient has slices in several folds: each part counts as a separate patient.
    parts = table.groupby(["fold", "patient"], sort=False).agg(
        first=("first", "min"), pattern=("pattern", np.bitwise_or.reduce)
    )
    parts["order"] = [hashlib.sha256(f"{seed}/{first}".encode()).hexdigest() for first in parts["first"]]
    sampled = pd.Series(data=False, index=parts.index)
    for fold, group in parts.groupby(level="fold", sort=True):
        ordered = group.sort_values(["pattern", "order"], kind="stable").index
        # One of each 1 / share consecutive patients; adding 1/2 centres the choice within them.
        steps = np.floor(np.arange(len(ordered) + 1) * share + 0.5)
        chosen = ordered[np.diff(steps) > 0]
        if len(chosen) == 0 and int(group.index[0][0]) != TRAIN_ONLY:
            raise InvalidInputError(
                f"A share of {share:g} of the {len(ordered)} patients of fold {fold} contains no patient.",
                "Use a larger share.",
            )
        sampled[chosen] = True
    included = sampled.reindex(pd.MultiIndex.from_frame(table[["fold", "patient"]])).to_numpy(bool)
    return np.where(included, folds, np.int16(EXCLUDED)).astype(np.int16)
