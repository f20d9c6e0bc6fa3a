"""Patients that some slices of two dataset versions have in common; who is the same is decided in `overlap`."""

from typing import TYPE_CHECKING

import numpy.typing as npt
import pandas as pd

from ichx.datasets.dataset import LoadedDataset
from ichx.datasets.identity import of_known_patients
from ichx.datasets.overlap import load_identity, matching_patients, matching_slices

if TYPE_CHECKING:
    import numpy as np

    from ichx.store import DatasetVersion
    from ichx.workspace import Workspace


def count_in_training(
    workspace: "Workspace", slices: pd.DataFrame, identity: pd.DataFrame, train: LoadedDataset, *, by_study: bool
) -> tuple[int, int]:
    """Return how many slices of a new test set, and how many of its patients, are also in its training set.

    Args:
        workspace: The workspace.
        slices: The usable slices of the test set.
        identity: The hashes by which its patients are recognized, see `ichx.datasets.overlap`.
        train: The training set.
        by_study: See `of_known_patients`.
    """
    recognized = matching_patients(identity, load_identity(workspace, train.version))["patient"]
    same = of_known_patients(slices, train.slices, by_study=by_study) | slices["patient"].isin(recognized).to_numpy(
        bool
    )
    return int(matching_slices(slices, train.slices["slice_id"]).sum()), int(slices["patient"][same].nunique())


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
