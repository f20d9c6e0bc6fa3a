"""Versions of datasets with pseudo-labels: their files, and whether the newest version has them already."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ichx.datasets.catalog import write_catalog, write_parquet
from ichx.datasets.dataset import CATALOG_FILE, DEFAULT_FOLDS, LoadedDataset, folds_file, load_catalog
from ichx.datasets.fold_labels import TRANSDUCTIVE, FoldLabels, read_fold_labels, training_label_digest
from ichx.datasets.fold_masks import MASKS, FoldMasks, masks_of_parts
from ichx.datasets.fold_numbers import TRAIN_ONLY
from ichx.datasets.folds import fold_digest
from ichx.datasets.new_version import store_version
from ichx.datasets.overlap import load_identity, write_identity
from ichx.datasets.summary import summarize
from ichx.errors import IchxError
from ichx.evaluation.nested_score import FittedBlend
from ichx.evaluation.pseudo_blends import write_blends
from ichx.labels import LABELS, PSEUDO
from ichx.store import DatasetVersion, FoldDraft, VersionDraft

if TYPE_CHECKING:
    from ichx.project import Project


@dataclass(frozen=True)
class CreatedLabels:
    """What a version with pseudo-labels consists of besides the slices."""

    labels: FoldLabels
    blends: dict[int, FittedBlend] | None
    """Those of an ensemble for each fold."""
    origin: dict[str, Any]
    """What is recorded of them."""
    transductive: bool = False
    """Whether some patients are those of a test set."""
    masks: dict[int, FoldMasks] = field(default_factory=dict)
    """Masks by fold; empty without any."""


def store_labels(
    project: "Project", name: str, data: LoadedDataset, made: CreatedLabels
) -> tuple[DatasetVersion, bool]:
    """Store a version with labels, unless the newest one has the same ones of the same origin.

    Files of the newest one that are missing or damaged are written again.

    Returns:
        The version, and whether it is a new one.

    Raises:
        StorageError: A file cannot be written; nothing is added.
    """
    of = data.version
    catalog = load_catalog(project.workspace, of)
    catalog = catalog.assign(**dict.fromkeys(LABELS, np.float32(np.nan)))
    slices = data.slices.assign(**dict.fromkeys(LABELS, np.float32(np.nan)))
    folds = np.full(len(slices), TRAIN_ONLY, np.int16)
    digest = fold_digest(slices["slice_id"].to_numpy(object), folds)
    summary = summarize(catalog) | {key: of.summary[key] for key in ("keep_ids", "group_by") if key in of.summary}
    summary |= {PSEUDO: made.origin, TRANSDUCTIVE: made.transductive}
    draft = VersionDraft(
        dataset=name,
        test_of=None,
        source=of.source,
        path="",
        digest=of.digest,
        label_digest=training_label_digest(slices, made.labels),
        slices=of.slices,
        patients=of.patients,
        defects=of.defects,
        sample=None,
        summary=summary,
        folds=(FoldDraft(DEFAULT_FOLDS, int(made.origin["folds"]), 0, digest),),
    )
    latest = newest_version(project, name)
    if latest is not None and _same(latest, draft):
        _restore(project, latest, made)
        return latest, False

    def write(folder: Path) -> None:
        write_catalog(catalog, folder / CATALOG_FILE)
        by_patient = pd.DataFrame({"patient": slices["patient"], "fold": folds}).drop_duplicates()
        write_parquet(by_patient, folder / folds_file(DEFAULT_FOLDS))
        made.labels.write(folder)
        for fold, masks in made.masks.items():
            masks.write(folder, fold)
        write_identity(load_identity(project.workspace, of), folder)
        if made.blends is not None:
            write_blends(folder, made.blends)

    return store_version(project, draft, 1 if latest is None else latest.number + 1, write), True


def _same(latest: DatasetVersion, draft: VersionDraft) -> bool:
    """Return whether two versions differ in nothing but the time."""
    timeless = ({**version.summary[PSEUDO], "created": "", "ichx": ""} for version in (latest, draft))
    first, second = timeless
    same_files = (latest.digest, latest.label_digest) == (draft.digest, draft.label_digest)
    return same_files and first == second and latest.summary[TRANSDUCTIVE] == draft.summary[TRANSDUCTIVE]


def _restore(project: "Project", latest: DatasetVersion, made: CreatedLabels) -> None:
    """Write what cannot be read of `latest`, whose labels and masks have the recorded digests."""
    folder = project.workspace.root / latest.path
    try:
        read_fold_labels(project.workspace, latest)
    except IchxError:
        made.labels.write(folder)
    for fold, masks in made.masks.items():
        try:
            masks_of_parts(latest)[latest.dataset].read(project.workspace, fold)
        except IchxError:
            masks.write(folder, fold)


def newest_version(project: "Project", name: str) -> DatasetVersion | None:
    """Return the newest version of the dataset `name`; None if it does not exist."""
    exists = any(dataset.name == name for dataset in project.store.datasets())
    return project.store.version(name) if exists else None


def stored_masks(
    project: "Project", name: str, origin: dict[str, Any], requested: dict[str, Any]
) -> tuple[dict[int, FoldMasks], dict[str, Any]] | None:
    """Return the masks of the newest version of `name` and their origin, if predicting them would give the same.

    Args:
        project: The open project.
        name: The dataset.
        origin: That of the labels, without masks.
        requested: See `ichx.inference.pseudo_masks.requested_masks`.

    Returns:
        None if the labels, the networks or the request differ, or a file is missing or damaged.
    """
    latest = newest_version(project, name)
    if latest is None or MASKS not in latest.summary[PSEUDO]:
        return None
    before: dict[str, Any] = latest.summary[PSEUDO]
    if _timeless(before) != _timeless(origin) or any(before[MASKS].get(k) != v for k, v in requested.items()):
        return None
    try:
        of_dataset = masks_of_parts(latest)[name]
        return {fold: of_dataset.read(project.workspace, fold) for fold in of_dataset.digests}, before[MASKS]
    except IchxError:
        return None


def _timeless(origin: dict[str, Any]) -> dict[str, Any]:
    """Return what determines the labels, without their masks and what differs between equal ones."""
    return {key: value for key, value in origin.items() if key not in ("created", "ichx", MASKS)}
