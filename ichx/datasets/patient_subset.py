"""A share of the patients, for trials that need not see all; the same seed gives the same ones."""

import hashlib

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.errors import IchxError
from ichx.labels import LABELS

EXCLUDED = -1
"""The fold of a slice whose patient is not in the subset."""


def subset_folds(
    slices: pd.DataFrame, folds: npt.NDArray[np.int16], share: float, seed: int = 0
) -> npt.NDArray[np.int16]:
    """Return `folds` (N,) with `EXCLUDED` for the slices of all but a `share` of each fold's patients.

    `slices` has `slice_id`, `patient` and the labels. The patients of a fold who have the same labels are thinned
    alike, and those who have a rare label stand together, so that the subset has about the prevalences of the whole, of
    the rarest label most closely; no name of a patient counts. Raises `IchxError` where a fold would have no patient
    left.
    """
    if share >= 1:
        return folds
    labels = slices[list(LABELS)].to_numpy() > 0.5
    bits = 1 << np.argsort(np.argsort(-_patients_with(slices["patient"], labels), kind="stable"))  # the rarest highest
    table = pd.DataFrame(
        {
            "patient": slices["patient"].to_numpy(object),
            "fold": folds,
            "first": slices["slice_id"].to_numpy(object),
            "pattern": labels @ bits,
        }
    )
    # A patient may have slices in several folds where these leak: each part is thinned as a patient of its own.
    parts = table.groupby(["fold", "patient"], sort=False).agg(
        first=("first", "min"), pattern=("pattern", np.bitwise_or.reduce)
    )
    parts["order"] = [hashlib.sha256(f"{seed}/{first}".encode()).hexdigest() for first in parts["first"]]
    kept = pd.Series(data=False, index=parts.index)
    for fold, group in parts.groupby(level="fold", sort=True):
        ordered = group.sort_values(["pattern", "order"], kind="stable").index
        # One of each 1 / share in a row is kept; the half evens out where a pattern's patients end and the next begin.
        steps = np.floor(np.arange(len(ordered) + 1) * share + 0.5)
        chosen = ordered[np.diff(steps) > 0]
        if len(chosen) == 0:
            raise IchxError(
                f"a share of {share:g} leaves none of the {len(ordered)} patients of fold {fold}", "take a larger share"
            )
        kept[chosen] = True
    stays = kept.reindex(pd.MultiIndex.from_frame(table[["fold", "patient"]])).to_numpy(bool)
    return np.where(stays, folds, np.int16(EXCLUDED)).astype(np.int16)


def _patients_with(patients: pd.Series, labels: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Return how many patients have each label in some slice."""
    found: npt.NDArray[np.int64] = pd.DataFrame(labels).groupby(patients.to_numpy(object)).any().to_numpy().sum(axis=0)
    return found
