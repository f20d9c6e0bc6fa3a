"""Creating versions of mixtures: datasets whose slices are those of other datasets. What a mixture is: `mixture`.

Folds stay within each part: a slice keeps the fold that it has in its part. Slices of a part that trains only get the
fold -1.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from ichx.datasets.add import AddReport
from ichx.datasets.catalog import (
    COLUMNS,
    catalog_digest,
    usable_slices,
    write_catalog,
    write_parquet,
)
from ichx.datasets.dataset import (
    CATALOG_FILE,
    DEFAULT_FOLDS,
    folds_file,
    read_version_table,
)
from ichx.datasets.fold_labels import joint_fold_labels, training_label_digest
from ichx.datasets.folds import find_leaks, fold_digest
from ichx.datasets.label_table import count_labels
from ichx.datasets.mask_png import MASKS_FILE
from ichx.datasets.mix_parts import LoadedPart, check_patients, load_part
from ichx.datasets.mix_request import JOINT, MixRequest, check_request, fold_sets_of, joint_request
from ichx.datasets.mixture import describe_parts, shares
from ichx.datasets.new_version import store_version
from ichx.datasets.overlap import write_identity
from ichx.datasets.pseudo_parts import AssignedFolds, check_pseudo_folds, pseudo_summary
from ichx.datasets.study_labels import STUDY_LABELS_FILE, with_study_labels
from ichx.datasets.summary import summarize
from ichx.datasets.unscored_labels import with_unscored_labels
from ichx.labels import LABELS
from ichx.store import DatasetVersion, FoldDraft, VersionDraft
from ichx.text import format_count

if TYPE_CHECKING:
    from ichx.project import Project

MASK_COUNTS: Final = ("slices", "absent", "defective", "others", "undrawn", "beyond_labels", "short_of_labels")
"""Counts of masks that are added up over parts."""


def mix_datasets(project: "Project", request: MixRequest) -> AddReport:
    """Create a mixture, or its next version; unchanged parts create no version.

    Raises:
        NotFoundError: A dataset, version or fold set does not exist.
        InvalidInputError: A name, weight or part is invalid.
        ConflictError: Parts have different numbers of folds, or patients in common.
        IchxError: The files of a version cannot be read or written. No error leaves files or rows in the store.
    """
    check_request(project.store, request)
    versions = [project.store.version(part.dataset, part.number) for part in request.parts]
    fold_sets = fold_sets_of(request, versions)
    keep_ids = all(version.summary["keep_ids"] for version in versions)
    parts = sorted(
        (load_part(project, *one, keep_ids=keep_ids) for one in zip(request.parts, versions, fold_sets, strict=True)),
        key=lambda part: part.part.dataset,
    )
    check_patients(parts)
    joined = pd.concat([part.slices for part in parts], ignore_index=True)
    groups = _concat(part.groups for part in parts)
    known = with_unscored_labels(joined if groups is None else with_study_labels(joined, groups))
    slices = usable_slices(known)
    folds = slices["fold"].to_numpy(np.int16)
    masks, mask_summary = _masks(project, parts)
    leaks = find_leaks(slices["slice_id"].to_numpy(object), slices["patient"].to_numpy(object), folds)
    k = next(fold_set.k for fold_set in fold_sets if fold_set is not None)
    digest = fold_digest(slices["slice_id"].to_numpy(object), folds)
    identity = pd.concat([part.identity for part in parts], ignore_index=True)
    check_pseudo_folds(project, versions, AssignedFolds(k, slices, folds, identity))
    summary = _summary(known, slices, parts, keep_ids=keep_ids) | mask_summary | pseudo_summary(versions)
    draft = VersionDraft(
        dataset=request.name,
        test_of=None,
        source=describe_parts(tuple(part.part for part in parts)),
        path="",
        digest=catalog_digest(joined[list(COLUMNS)]),
        label_digest=training_label_digest(slices, joint_fold_labels(project.workspace, versions)),
        slices=len(slices),
        patients=int(slices["patient"].nunique()),
        defects=0,
        sample=None,
        summary=summary,
        folds=(FoldDraft(DEFAULT_FOLDS, k, 0, digest, leaking_patients=len(leaks), source="its parts"),),
    )
    exists = any(dataset.name == request.name for dataset in project.store.datasets())
    latest = project.store.version(request.name) if exists else None
    messages, warnings = _describe(parts), _warnings(leaks_count=len(leaks), patients=draft.patients)
    if latest is not None and _same(latest, draft):
        return AddReport(latest, False, tuple(messages), tuple(warnings))

    def write(folder: Path) -> None:
        write_catalog(joined, folder / CATALOG_FILE)
        write_identity(identity, folder)
        owner = "slice_id" if leaks else "patient"
        frame = pd.DataFrame({owner: slices[owner], "fold": folds}).drop_duplicates()
        write_parquet(frame, folder / folds_file(DEFAULT_FOLDS))
        if groups is not None:
            write_parquet(groups, folder / STUDY_LABELS_FILE)
        if masks is not None:
            write_parquet(masks, folder / MASKS_FILE)

    version = store_version(project, draft, 1 if latest is None else latest.number + 1, write)
    return AddReport(version, True, tuple(messages), tuple(warnings))


def ensure_joint(project: "Project", dataset: str | None) -> AddReport | None:
    """Create the mixture `dataset` if its name is e.g. `rsna+ours`, with the newest versions of its parts.

    Return None for other names. Raises like `mix_datasets`.
    """
    return None if dataset is None or JOINT not in dataset else mix_datasets(project, joint_request(dataset))


def _masks(project: "Project", parts: Sequence[LoadedPart]) -> tuple[pd.DataFrame | None, dict[str, Any]]:
    """Return the masks of all parts and the entry of the summary; nothing if no part has masks."""
    having = [part for part in parts if part.part.masks is not None]
    if not having:
        return None, {}
    frames = [read_version_table(project.workspace, part.version, MASKS_FILE) for part in having]
    counts = {name: sum(int(part.version.summary["masks"].get(name, 0)) for part in having) for name in MASK_COUNTS}
    digest = hashlib.sha256("\n".join(str(part.part.masks) for part in having).encode()).hexdigest()[:16]
    frame = pd.concat(frames, ignore_index=True).sort_values("slice_id", ignore_index=True)
    by = having[0].version.summary["masks"].get("by", "slice_id")
    return frame, {"masks": counts | {"digest": digest, "by": by}}


def _summary(
    known: pd.DataFrame, slices: pd.DataFrame, parts: Sequence[LoadedPart], *, keep_ids: bool
) -> dict[str, Any]:
    summary = summarize(known) | {"keep_ids": keep_ids}
    if any(part.version.summary.get("group_by") == "study" for part in parts):
        summary["group_by"] = "study"
    if any("label_counts" in part.version.summary for part in parts):
        summary["label_counts"] = _label_counts(slices, _concat(part.groups for part in parts))
    return summary | {"mixture": {"parts": [part.part.to_dict() for part in parts]}}


def _label_counts(slices: pd.DataFrame, groups: pd.DataFrame | None) -> dict[str, Any]:
    """Return the numbers of known labels, as `JoinedLabels.counts`."""
    found: dict[str, Any] = {"slices": count_labels(slices[list(LABELS)].to_numpy(np.float32))}
    if groups is not None:
        found["groups"] = count_labels(groups[list(LABELS)].to_numpy(np.float32))
        found["level"] = "series" if (groups["series"] != "").all() else "study"
    return found


def _concat(frames: "Iterable[pd.DataFrame | None]") -> pd.DataFrame | None:
    """Return the rows of all frames that are not None; None without any."""
    found = [frame for frame in frames if frame is not None]
    return pd.concat(found, ignore_index=True) if found else None


def _same(latest: DatasetVersion, draft: VersionDraft) -> bool:
    """Return whether `latest` is what `draft` would create."""
    folds = [(fold_set.k, fold_set.digest) for fold_set in latest.folds if fold_set.name == DEFAULT_FOLDS]
    return (
        latest.summary.get("mixture") == draft.summary["mixture"]
        and (latest.digest, latest.label_digest) == (draft.digest, draft.label_digest)
        and folds == [(fold_set.k, fold_set.digest) for fold_set in draft.folds]
    )


def _describe(parts: Sequence[LoadedPart]) -> list[str]:
    """Return a line about each part."""
    share = shares(tuple(part.part for part in parts))
    lines = []
    for part in parts:
        one = part.part
        size = f"{format_count(one.slices, 'slice')} of {format_count(one.patients, 'patient')}"
        folds = "trains in every fold and is scored in none" if part.fold_set is None else f"folds {part.fold_set.name}"
        thinned = "" if share[one.dataset] == 1 else f"; an epoch samples {share[one.dataset]:.3g} of its slices"
        lines.append(f"{one.dataset} version {one.number}: {size}, {folds}{thinned}.")
    return lines


def _warnings(*, leaks_count: int, patients: int) -> list[str]:
    if not leaks_count:
        return []
    count = f"{leaks_count:,} of {format_count(patients, 'patient')}"
    return [f"{count} in more than one fold: every score is marked `leaky folds`."]
