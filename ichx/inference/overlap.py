"""Patients of an evaluated dataset that the experiment's dataset has, too: refused, excluded, or scored with a mark."""

from dataclasses import replace
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import numpy.typing as npt

from ichx.datasets.catalog import hash_ids
from ichx.datasets.dataset import LoadedDataset, load_folds, load_version
from ichx.datasets.fold_numbers import TRAIN_ONLY
from ichx.datasets.overlap import KINDS, load_identity, matching_patients, matching_slices
from ichx.errors import ConflictError
from ichx.inference.trained import Trained
from ichx.labels import LABELS
from ichx.text import format_count, format_examples

if TYPE_CHECKING:
    from ichx.project import Project

OverlapChoice = Literal["refuse", "exclude", "mark"]
"""What happens to shared patients: an error, a score without them, or a score of all with the mark `overlap`."""

OVERLAP_MARK: Final = "overlap"
"""Mark of a score on patients that the model may have been trained on."""


def shared_slices(
    project: "Project", trained: Trained, data: LoadedDataset, overlap: OverlapChoice = "refuse"
) -> npt.NDArray[np.bool_]:
    """Return which slices of `data` are of patients in the experiment's dataset, (N,).

    Raises:
        ConflictError: `data` is the experiment's dataset; or there are such patients and `overlap` is `refuse`, or all
            patients are and it is `exclude`.
    """
    experiment = trained.experiment
    if data.version.id == experiment.version_id:
        raise ConflictError(
            f"{data.version.dataset} is the dataset of experiment {experiment.number}. Scores on its "
            f"{format_count(data.version.patients, 'patient')} are not scores on unseen patients.",
            f"Choose another dataset. `ichx scores {experiment.number}` shows the scores on {data.version.dataset}.",
        )
    own = load_version(project.workspace, project.store.version_by_id(experiment.version_id))
    ids, own_ids = (load_identity(project.workspace, of.version) for of in (data, own))
    if experiment.transductive:  # marked: it trains on images of the evaluated patients, without their labels
        folds = load_folds(project.workspace, own.version, own.version.fold_set_of(experiment), own.slices)
        labelled = own.slices[list(LABELS)].notna().any(axis=1).to_numpy() | (folds != TRAIN_ONLY)
        own = replace(own, slices=own.slices[labelled])
        own_ids = own_ids[own_ids["patient"].isin(own.slices["patient"])]
    same = matching_patients(ids, own_ids)
    slices = data.slices
    known_slice = matching_slices(slices, own.slices["slice_id"])
    names = set(same["patient"]) | set(slices["patient"][known_slice])
    shared = slices["patient"].isin(names).to_numpy(bool)
    if not shared.any() or overlap == "mark":
        return shared
    named = slices["patient"][shared].drop_duplicates().sort_values()
    patients = hash_ids(named, project.workspace.privacy_key()) if data.version.summary.get("keep_ids") else named
    kinds = [KINDS[kind] for kind in KINDS if kind in set(same["kind"]) or (kind == "slice" and known_slice.any())]
    problem = (
        f"{data.version.dataset} and {own.version.dataset}, the dataset of experiment {experiment.number}, have "
        f"{format_count(len(patients), 'patient')} in common (by {', '.join(kinds)}), with "
        f"{format_count(int(shared.sum()), 'slice')}{format_examples(map(str, patients), len(patients))}. "
        "Scores on them are not scores on unseen patients."
    )
    shown = f"`ichx scores {experiment.number}` shows the scores on {own.version.dataset}."
    if overlap == "refuse":
        rest = "" if shared.all() else "`ichx evaluate --overlap exclude` scores the others. "
        raise ConflictError(
            problem, f"{rest}`ichx evaluate --overlap mark` scores all of them and marks the score. {shown}"
        )
    if shared.all():
        raise ConflictError(problem, f"No other patients are left. Add a dataset with others. {shown}")
    return shared
