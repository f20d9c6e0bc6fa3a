"""Patients that some slices of two dataset versions have in common; who is the same is decided in `overlap`."""

from typing import TYPE_CHECKING

import numpy.typing as npt
import pandas as pd

from ichx.datasets.overlap import load_identity, matching_patients, matching_slices

if TYPE_CHECKING:
    import numpy as np

    from ichx.store import DatasetVersion
    from ichx.workspace import Workspace


def of_shared_patients(
    workspace: "Workspace",
    version: "DatasetVersion",
    slices: pd.DataFrame,
    other: "DatasetVersion",
    known: pd.DataFrame,
) -> "npt.NDArray[np.bool_]":
    """Return which `slices` of `version` are of patients with slices among `known`, those of `other`, `(N,)`."""
    keys, others = load_identity(workspace, version), load_identity(workspace, other)
    same = matching_patients(keys, others[others["patient"].isin(known["patient"])])
    names = set(same["patient"]) | set(slices["patient"][matching_slices(slices, known["slice_id"])])
    found: npt.NDArray[np.bool_] = slices["patient"].isin(names).to_numpy(bool)
    return found
