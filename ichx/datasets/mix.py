"""Creating versions of mixtures: datasets whose slices are those of other datasets. What a mixture is: `mixture`.

Folds stay within each part: a slice keeps the fold that it has in its part. Slices of a part that trains only get the
fold -1.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from ichx.datasets.add import AddReport
from ichx.datasets.catalog import (
    COLUMNS,
    catalog_digest,
    hash_ids,
    usable_slices,
    write_catalog,
    write_parquet,
)
from ichx.datasets.dataset import (
    CATALOG_FILE,
    DEFAULT_FOLDS,
    folds_file,
    load_folds,
    load_version,
    read_version_table,
)
from ichx.datasets.fold_labels import PSEUDO, joint_fold_labels, training_label_digest
from ichx.datasets.fold_numbers import TRAIN_ONLY
from ichx.datasets.folds import find_leaks, fold_digest
from ichx.datasets.label_table import count_labels
from ichx.datasets.mask_png import MASKS_FILE
from ichx.datasets.mixture import PART, MixturePart, describe_parts, mixture_parts, shares
from ichx.datasets.new_version import check_name, store_version
from ichx.datasets.overlap import KINDS, load_identity, matching_patients, matching_slices, write_identity
from ichx.datasets.pseudo_parts import AssignedFolds, check_pseudo_folds, pseudo_summary
from ichx.datasets.study_labels import STUDY_LABELS_FILE, with_study_labels
from ichx.datasets.summary import summarize
from ichx.errors import ConflictError, raise_problems
from ichx.labels import LABELS
from ichx.store import DatasetVersion, FoldDraft, FoldSet, Store, VersionDraft
from ichx.text import format_count, format_examples

if TYPE_CHECKING:
    from ichx.project import Project

JOINT: Final = "+"
"""Between the names of the parts in the name of a mixture of equal parts, e.g. `rsna+ours`."""
MAX_WEIGHT: Final = 1000.0
ID_COLUMNS: Final = ("patient", "study", "series", "patient_id")
MASK_COUNTS: Final = ("slices", "absent", "defective", "others", "undrawn", "beyond_labels", "short_of_labels")
"""Counts of masks that are added up over parts."""


@dataclass(frozen=True)
class PartRequest:
    """A part of a requested mixture."""

    dataset: str
    number: int | None = None
    """Version; None for the newest."""
    weight: float = 1.0
    train_only: bool = False
    """Its slices train in every fold and are scored in none; it needs no folds."""
    separate: bool = False
    """Its patients are other people even where their ids are those of patients of other parts."""


@dataclass(frozen=True)
class MixRequest:
    """What `mix_datasets` creates."""

    name: str
    parts: tuple[PartRequest, ...]
    folds: str | None = None
    """Name of the folds of each part that is scored; None for the default ones."""


@dataclass(frozen=True)
class _Part:
    """A part with its slices."""

    part: MixturePart
    version: DatasetVersion
    fold_set: FoldSet | None
    slices: pd.DataFrame
    """Usable rows of its catalog with `PART` and the column `fold`."""
    groups: pd.DataFrame | None
    """Labels of its studies and series."""
    identity: pd.DataFrame
    """Hashes of ids by which its patients are recognized, see `ichx.datasets.overlap`."""


def joint_request(name: str) -> MixRequest:
    """Return the request for a mixture of equal parts with a name such as `rsna+ours`."""
    return MixRequest(name, tuple(PartRequest(part) for part in name.split(JOINT)))


def mix_datasets(project: "Project", request: MixRequest) -> AddReport:
    """Create a mixture, or its next version; unchanged parts create no version.

    Raises:
        NotFoundError: A dataset, version or fold set does not exist.
        InvalidInputError: A name, weight or part is invalid.
        ConflictError: Parts have different numbers of folds, or patients in common.
        IchxError: The files of a version cannot be read or written. No error leaves files or rows in the store.
    """
    _check_request(project.store, request)
    versions = [project.store.version(part.dataset, part.number) for part in request.parts]
    fold_sets = _fold_sets(request, versions)
    keep_ids = all(version.summary["keep_ids"] for version in versions)
    parts = sorted(
        (_load(project, *one, keep_ids=keep_ids) for one in zip(request.parts, versions, fold_sets, strict=True)),
        key=lambda part: part.part.dataset,
    )
    _check_patients(parts)
    joined = pd.concat([part.slices for part in parts], ignore_index=True)
    groups = _concat(part.groups for part in parts)
    known = joined if groups is None else with_study_labels(joined, groups)
    slices = usable_slices(known)
    folds = slices["fold"].to_numpy(np.int16)
    masks, mask_summary = _masks(project, parts)
    leaks = find_leaks(slices["slice_id"].to_numpy(object), slices["patient"].to_numpy(object), folds)
    k = next(fold_set.k for fold_set in fold_sets if fold_set is not None)
    digest = fold_digest(slices["slice_id"].to_numpy(object), folds)
    identity = pd.concat([part.identity for part in parts], ignore_index=True)
    check_pseudo_folds(project, versions, AssignedFolds(k, slices, folds, identity))
    summary = _summary(joined, slices, parts, keep_ids=keep_ids) | mask_summary | pseudo_summary(versions)
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


def _check_request(store: Store, request: MixRequest) -> None:
    """Raise an error that names all problems of a request."""
    names = [part.dataset for part in request.parts]
    if request.name != JOINT.join(names):
        check_name(request.name, "a mixture")
    problems = [f"Dataset {name!r} is named twice." for name in sorted({n for n in names if names.count(n) > 1})]
    if len(names) < 2:
        problems.append(f"A mixture has at least two parts, not {len(names)}.")
    for part in request.parts:
        if not 0 < part.weight <= MAX_WEIGHT:
            problems.append(f"Invalid weight of {part.dataset}: {part.weight:g}. Use a number over 0, up to 1000.")
    if request.parts and all(part.train_only for part in request.parts):
        problems.append("All parts train only: no slice would be scored.")
    raise_problems(problems, "Name each part once, e.g. `ichx data mix both --of rsna --of ours=0.5`.")
    datasets = {dataset.name: dataset for dataset in store.datasets()}
    for name in names:
        if not store.dataset(name).trainable:
            problems.append(f"Dataset {name!r} has no labels.")
        elif mixture_parts(store.version(name)):
            problems.append(f"Dataset {name!r} is a mixture itself: name its parts.")
    if request.name in datasets and not mixture_parts(store.version(request.name)):
        problems.append(f"Dataset {request.name!r} exists and is not a mixture.")
    if problems:
        raise ConflictError("\n".join(problems), "Mix labelled datasets under a new name.")


def _fold_sets(request: MixRequest, versions: Sequence[DatasetVersion]) -> list[FoldSet | None]:
    """Return the folds of each part, None for one that trains only."""
    pairs = list(zip(request.parts, versions, strict=True))
    without = [version.dataset for part, version in pairs if not part.train_only and not version.folds]
    if without:
        raise ConflictError(
            f"{', '.join(without)} has no folds, so that its slices cannot be scored out of fold.",
            f"Let it train only (`--train-only {without[0]}`), or give it folds (`ichx data add ... --folds 5`).",
        )
    found = [
        None if part.train_only or PSEUDO in version.summary else version.fold_set(request.folds)
        for part, version in pairs
    ]
    if not any(found):
        raise ConflictError("All parts train only: no slice would be scored.", "Mix with a labelled dataset.")
    sizes = {part.dataset: fold_set.k for part, fold_set in zip(request.parts, found, strict=True) if fold_set}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} {k}" for name, k in sizes.items())
        raise ConflictError(
            f"The parts have different numbers of folds: {listed}.",
            "Add one again with the folds of the other (`ichx data add ... --folds`), import folds and name them with "
            "--folds, or let it train only (`--train-only`).",
        )
    return found


def _load(
    project: "Project", request: PartRequest, version: DatasetVersion, fold_set: FoldSet | None, *, keep_ids: bool
) -> _Part:
    """Return a part with its slices; ids are hashed unless all parts keep them."""
    slices = load_version(project.workspace, version).slices
    folds = np.full(len(slices), TRAIN_ONLY, np.int16)
    if fold_set is not None:
        folds = load_folds(project.workspace, version, fold_set, slices)
    slices = slices[list(COLUMNS)].assign(fold=folds, **{PART: version.dataset})
    groups = None
    if "groups" in version.summary.get("label_counts", {}):
        groups = read_version_table(project.workspace, version, STUDY_LABELS_FILE)
    if version.summary["keep_ids"] and not keep_ids:
        key = project.workspace.privacy_key()
        slices = slices.assign(**{name: _hashed(slices[name], key) for name in ID_COLUMNS})
        if groups is not None:
            groups = groups.assign(**{name: _hashed(groups[name], key) for name in ("study", "series")})
    identity = load_identity(project.workspace, version)
    if version.summary["keep_ids"] and not keep_ids:
        identity = identity.assign(patient=_hashed(identity["patient"], project.workspace.privacy_key()))
    if request.separate:
        slices["patient"] = f"{version.dataset}:" + slices["patient"].astype(object)
        identity = identity[identity["kind"] != "patient"]
        identity = identity.assign(patient=f"{version.dataset}:" + identity["patient"].astype(object))
    part = MixturePart(
        dataset=version.dataset,
        number=version.number,
        digest=version.digest,
        label_digest=version.label_digest or "",
        source=version.source,
        path=version.path,
        slices=len(slices),
        patients=int(slices["patient"].nunique()),
        weight=float(request.weight),
        train_only=fold_set is None,
        folds=None if fold_set is None else fold_set.name,
        masks=version.summary.get("masks", {}).get("digest"),
        separate=request.separate,
    )
    return _Part(part, version, fold_set, slices, groups, identity)


def _hashed(ids: "pd.Series[str]", key: bytes) -> "pd.Series[str]":
    return hash_ids(ids, key).where(ids != "", "")


def _check_patients(parts: Sequence[_Part]) -> None:
    """Raise `ConflictError` if a slice, study or patient is in two parts."""
    problems, numbers = [], False
    for one, two in combinations(parts, 2):
        shared = _shared_patients(one, two)
        kinds = [KINDS[kind] for kind in KINDS if kind in set(shared["kind"])]
        patients = shared["patient"].drop_duplicates().sort_values()
        if len(patients):
            names = f"{one.part.dataset} and {two.part.dataset}"
            verb = "is" if len(patients) == 1 else "are"
            problems.append(
                f"{format_count(len(patients), 'patient')} {verb} in {names} (by {', '.join(kinds)})"
                f"{format_examples(map(str, patients), len(patients))}."
            )
            numbers |= set(shared["kind"]) == {"patient"}
    if problems:
        remedy = "A patient must be in one part only: remove the files from one of the datasets and add it again."
        if numbers:
            remedy += (
                " If the PatientIDs of a part are numbers of its own, not of the same people, use "
                "`--separate-patients NAME`."
            )
        raise ConflictError("\n".join(problems), remedy)


def _shared_patients(one: _Part, two: _Part) -> pd.DataFrame:
    """Return the `patient` and the kind of id (see `ichx.datasets.overlap`) of the patients of `one` in `two`."""
    known = matching_slices(one.slices, two.slices["slice_id"])
    of_slices = pd.DataFrame({"patient": one.slices["patient"][known].unique(), "kind": "slice"})
    same = matching_patients(one.identity, two.identity)
    return pd.concat([same[same["patient"].isin(one.slices["patient"])], of_slices], ignore_index=True)


def _masks(project: "Project", parts: Sequence[_Part]) -> tuple[pd.DataFrame | None, dict[str, Any]]:
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


def _summary(joined: pd.DataFrame, slices: pd.DataFrame, parts: Sequence[_Part], *, keep_ids: bool) -> dict[str, Any]:
    summary = summarize(joined) | {"keep_ids": keep_ids}
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


def _describe(parts: Sequence[_Part]) -> list[str]:
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
