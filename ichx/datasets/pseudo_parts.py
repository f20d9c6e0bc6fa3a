"""Pseudo-labels in mixtures: what a mixture records of them, and whether its folds are those of their networks."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.datasets.dataset import load_folds, load_version
from ichx.datasets.fold_labels import PSEUDO_PARTS, TRANSDUCTIVE
from ichx.datasets.fold_masks import part_facts
from ichx.datasets.fold_numbers import TRAIN_ONLY
from ichx.datasets.mixture import PART
from ichx.datasets.overlap import load_identity
from ichx.errors import ConflictError
from ichx.labels import PSEUDO
from ichx.text import format_count, format_examples

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import DatasetVersion


def pseudo_summary(versions: "Iterable[DatasetVersion]") -> dict[str, Any]:
    """Return what the summary of a mixture of `versions` records of their pseudo-labels; nothing without any."""
    having = [version for version in versions if PSEUDO in version.summary]
    if not having:
        return {}
    parts = {version.dataset: part_facts(version) for version in having}
    return {PSEUDO_PARTS: parts, TRANSDUCTIVE: any(v.summary[TRANSDUCTIVE] for v in having)}


def labelled_parts(version: "DatasetVersion") -> list[str]:
    """Return the names of the parts of a mixture that have no pseudo-labels; that of the dataset for others."""
    pseudo = version.summary.get(PSEUDO_PARTS, {})
    parts = version.summary.get("mixture", {}).get("parts", ())
    return [part["dataset"] for part in parts if part["dataset"] not in pseudo] or [version.dataset]


def pseudo_versions(project: "Project", version: "DatasetVersion") -> "list[DatasetVersion]":
    """Return the versions whose pseudo-labels `version` consists of or has in its parts."""
    if PSEUDO in version.summary:
        return [version]
    names = version.summary.get(PSEUDO_PARTS, {})
    parts = version.summary.get("mixture", {}).get("parts", ())
    return [project.store.version(p["dataset"], p["number"]) for p in parts if p["dataset"] in names]


@dataclass(frozen=True)
class AssignedFolds:
    """The folds of a mixture, or of another version that trains on pseudo-labels."""

    k: int
    slices: pd.DataFrame
    """Rows of its catalog, `(N,)`."""
    folds: npt.NDArray[np.int16]
    """Their folds, `(N,)`."""
    identity: pd.DataFrame
    """Hashes of ids by which its patients are recognized, see `ichx.datasets.overlap`."""


def check_imported_folds(
    project: "Project", version: "DatasetVersion", k: int, slices: pd.DataFrame, folds: npt.NDArray[np.int16]
) -> None:
    """Raise `ConflictError` unless imported folds of `version` suit its pseudo-labels, if it has some.

    Args:
        project: The open project.
        version: The version that gets the folds.
        k: Their number.
        slices: Rows of its catalog, `(N,)`.
        folds: Their folds, `(N,)`.
    """
    pseudo = pseudo_versions(project, version)
    if not pseudo:
        return
    labelled = np.asarray(slices[PART].isin([one.dataset for one in pseudo]), bool)
    if PSEUDO in version.summary:
        labelled[:] = True
    if scored := slices["slice_id"].to_numpy(object)[labelled & (folds != TRAIN_ONLY)].astype(str).tolist():
        raise ConflictError(
            f"{format_count(len(scored), 'slice')} with pseudo-labels would be scored"
            f"{format_examples(scored, len(scored))}.",
            f"Give them the fold {TRAIN_ONLY}: they train in every fold and are scored in none.",
        )
    check_pseudo_folds(project, pseudo, AssignedFolds(k, slices, folds, load_identity(project.workspace, version)))


def check_pseudo_folds(project: "Project", versions: "Iterable[DatasetVersion]", assigned: AssignedFolds) -> None:
    """Raise `ConflictError` unless each fold has the patients of that fold of the pseudo-labels' networks.

    Args:
        project: The open project.
        versions: The parts of a mixture.
        assigned: Its folds.
    """
    for version in versions:
        if PSEUDO not in version.summary:
            continue
        origin = version.summary[PSEUDO]
        by, trained = f"{origin['by']['kind']} {origin['by']['number']}", origin["trained_on"]
        remedy = (
            f"Mix with {trained['dataset']} and its folds {trained['fold_set']}, or create the labels by an experiment "
            "on the folds of this mixture."
        )
        if origin["folds"] != assigned.k:
            raise ConflictError(
                f"The pseudo-labels {version.dataset} are by {by} with {origin['folds']} folds, not {assigned.k}.",
                remedy,
            )
        known, differs = different_folds(project, origin, assigned)
        if differs:
            count = f"{len(differs):,} of {format_count(known, 'labelled slice')}"
            raise ConflictError(
                f"{count} are of patients in another fold than in the training of {by}, whose predictions "
                f"{version.dataset} is{format_examples(differs, len(differs))}. Its labels of a fold would know "
                "patients that the fold validates on.",
                remedy,
            )


def different_folds(project: "Project", origin: Mapping[str, Any], assigned: AssignedFolds) -> tuple[int, list[str]]:
    """Compare the folds of patients with those in the training of the networks behind pseudo-labels.

    Patients are the same if a slice or an id is, so that other files of a patient count, too.

    Args:
        project: The open project.
        origin: What is recorded of the labels.
        assigned: The folds of an experiment.

    Returns:
        The number of scored slices of patients that both trainings have, and the ids of those in different folds.
    """
    trained = origin["trained_on"]
    version = project.store.version(trained["dataset"], trained["version"])
    before = load_version(project.workspace, version).slices
    folds = load_folds(project.workspace, version, version.fold_set(trained["fold_set"]), before)
    slices, scored = assigned.slices, assigned.folds > TRAIN_ONLY
    of_slices = pd.DataFrame({"slice_id": before["slice_id"], "patient_before": before["patient"], "before": folds})
    of_slices = of_slices[folds > TRAIN_ONLY]
    now = pd.DataFrame({"slice_id": slices["slice_id"], "patient": slices["patient"], "now": assigned.folds})[scored]
    by_slice = now.merge(of_slices, on="slice_id")[["patient", "now", "before"]]
    known = load_identity(project.workspace, version).rename(columns={"patient": "patient_before"})
    same = assigned.identity.merge(known, on=["kind", "key"])[["patient", "patient_before"]].drop_duplicates()
    by_id = same.merge(of_slices[["patient_before", "before"]].drop_duplicates(), on="patient_before")
    by_id = by_id.merge(now[["patient", "now"]].drop_duplicates(), on="patient")[["patient", "now", "before"]]
    pairs = pd.concat([by_slice, by_id], ignore_index=True).drop_duplicates()
    wrong = pairs["patient"][pairs["now"] != pairs["before"]]
    differs = now["slice_id"][now["patient"].isin(wrong)]
    return int(now["patient"].isin(pairs["patient"]).sum()), differs.astype(str).tolist()
