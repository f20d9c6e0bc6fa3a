"""The parts of a mixture that is created: their slices, folds and patients."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from ichx.datasets.catalog import COLUMNS, hash_ids
from ichx.datasets.dataset import load_folds, load_version, read_version_table
from ichx.datasets.fold_numbers import TRAIN_ONLY
from ichx.datasets.mix_request import PartRequest
from ichx.datasets.mixture import PART, MixturePart
from ichx.datasets.overlap import KINDS, load_identity, matching_patients, matching_slices
from ichx.datasets.study_labels import STUDY_LABELS_FILE
from ichx.errors import ConflictError
from ichx.store import DatasetVersion, FoldSet
from ichx.text import format_count, format_examples

if TYPE_CHECKING:
    from ichx.project import Project

ID_COLUMNS: Final = ("patient", "study", "series", "patient_id")


@dataclass(frozen=True)
class LoadedPart:
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


def load_part(
    project: "Project", request: PartRequest, version: DatasetVersion, fold_set: FoldSet | None, *, keep_ids: bool
) -> LoadedPart:
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
    return LoadedPart(part, version, fold_set, slices, groups, identity)


def _hashed(ids: "pd.Series[str]", key: bytes) -> "pd.Series[str]":
    return hash_ids(ids, key).where(ids != "", "")


def check_patients(parts: Sequence[LoadedPart]) -> None:
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


def _shared_patients(one: LoadedPart, two: LoadedPart) -> pd.DataFrame:
    """Return the `patient` and the kind of id (see `ichx.datasets.overlap`) of the patients of `one` in `two`."""
    known = matching_slices(one.slices, two.slices["slice_id"])
    of_slices = pd.DataFrame({"patient": one.slices["patient"][known].unique(), "kind": "slice"})
    same = matching_patients(one.identity, two.identity)
    return pd.concat([same[same["patient"].isin(one.slices["patient"])], of_slices], ignore_index=True)
