"""Pseudo-labels in mixtures: what a mixture records of them, and whether its folds are those of their networks."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.datasets.dataset import load_folds, load_version
from ichx.datasets.fold_labels import PSEUDO, PSEUDO_PARTS, TRANSDUCTIVE
from ichx.datasets.fold_masks import part_facts
from ichx.datasets.fold_numbers import TRAIN_ONLY
from ichx.errors import ConflictError
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


def check_pseudo_folds(
    project: "Project",
    versions: "Iterable[DatasetVersion]",
    k: int,
    slices: pd.DataFrame,
    folds: npt.NDArray[np.int16],
) -> None:
    """Raise `ConflictError` unless each fold of a mixture has the patients of that fold of the pseudo-labels' networks.

    Args:
        project: The open project.
        versions: The parts.
        k: Number of folds of the mixture.
        slices: Rows of its catalog, `(N,)`.
        folds: Their folds, `(N,)`.
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
        if origin["folds"] != k:
            raise ConflictError(
                f"The pseudo-labels {version.dataset} are by {by} with {origin['folds']} folds; the mixture has {k}.",
                remedy,
            )
        known, differs = different_folds(project, origin, slices, folds)
        if differs:
            count = f"{len(differs):,} of {format_count(known, 'labelled slice')}"
            raise ConflictError(
                f"{count} are in another fold than in the training of {by}, whose predictions {version.dataset} is"
                f"{format_examples(differs, len(differs))}. Its labels of a fold would know patients that the fold "
                "validates on.",
                remedy,
            )


def different_folds(
    project: "Project", origin: Mapping[str, Any], slices: pd.DataFrame, folds: npt.NDArray[np.int16]
) -> tuple[int, list[str]]:
    """Compare the folds of labelled slices with those in the training of the networks behind pseudo-labels.

    Args:
        project: The open project.
        origin: What is recorded of the labels.
        slices: Rows of the catalog of an experiment, `(N,)`.
        folds: Their folds, `(N,)`.

    Returns:
        The number of slices that both trainings have, and the ids of those in different folds.
    """
    trained = origin["trained_on"]
    version = project.store.version(trained["dataset"], trained["version"])
    before = load_version(project.workspace, version).slices
    assigned = load_folds(project.workspace, version, version.fold_set(trained["fold_set"]), before)
    rows = pd.Index(before["slice_id"]).get_indexer(pd.Index(slices["slice_id"]))
    known = (rows >= 0) & (folds != TRAIN_ONLY)
    known[known] = assigned[rows[known]] != TRAIN_ONLY
    differs = known.copy()
    differs[known] = assigned[rows[known]] != folds[known]
    return int(known.sum()), slices["slice_id"].to_numpy(object)[differs].astype(str).tolist()
