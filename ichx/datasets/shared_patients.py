"""Patients that two dataset versions have in common, by the keyed hashes of their ids or by slice ids."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.datasets.catalog import hash_ids
from ichx.datasets.identity import of_known_patients

if TYPE_CHECKING:
    from ichx.store import DatasetVersion
    from ichx.workspace import Workspace


def hashed_patient_ids(workspace: "Workspace", version: "DatasetVersion", slices: pd.DataFrame) -> pd.DataFrame:
    """Return the ids of patient and study of `slices` as keyed hashes, also of a version that stores ids."""
    ids = slices[["patient", "patient_id", "study"]]
    if not version.summary.get("keep_ids"):
        return ids
    key = workspace.privacy_key()
    return pd.DataFrame({name: hash_ids(ids[name], key).where(ids[name] != "", "") for name in ids})


def of_shared_patients(
    workspace: "Workspace",
    version: "DatasetVersion",
    slices: pd.DataFrame,
    other: "DatasetVersion",
    known: pd.DataFrame,
) -> npt.NDArray[np.bool_]:
    """Return which `slices` of `version` are of patients with slices among `known`, those of `other`, `(N,)`."""
    ids, others = hashed_patient_ids(workspace, version, slices), hashed_patient_ids(workspace, other, known)
    by_study = "study" in (version.summary.get("group_by"), other.summary.get("group_by"))
    same = of_known_patients(ids, others, by_study=by_study) | slices["slice_id"].isin(known["slice_id"]).to_numpy()
    found: npt.NDArray[np.bool_] = slices["patient"].isin(slices["patient"][same]).to_numpy(bool)
    return found
