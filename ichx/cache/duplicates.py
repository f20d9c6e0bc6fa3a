"""Near-duplicate images under different patients, of one dataset or of two, whatever their ids."""

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.cache.hu_cache import Cache
from ichx.cache.image_hash import SIMILAR
from ichx.cache.image_hashes import image_hashes
from ichx.cache.requests import list_caches
from ichx.cache.similar_images import SimilarPairs, find_similar
from ichx.datasets.dataset import LoadedDataset, load_dataset
from ichx.datasets.ingest import ProgressCallback
from ichx.datasets.overlap import load_identity
from ichx.errors import InvalidInputError, NotReadyError

if TYPE_CHECKING:
    from ichx.project import Project

SMALLEST: Final = 96
"""Pixels of a cache in which slices can be recognized."""
WANTED: Final = 256
"""Pixels that suffice: of several caches, the one nearest to it is read."""


@dataclass(frozen=True)
class DuplicatePatients:
    """Two patients with similar images."""

    patient: str
    other_patient: str
    study: str
    other_study: str
    """Studies of the most similar pair."""
    pairs: int
    """Number of similar pairs of slices."""
    slice_id: str
    other_slice_id: str
    """The most similar pair."""
    similarity: float
    """Its similarity."""
    known: bool
    """Whether their ids already show that they are the same patient."""


@dataclass(frozen=True)
class DuplicateReport:
    """Result of `find_duplicates`."""

    dataset: str
    version: int
    other: str
    """The dataset that was compared, or the same."""
    other_version: int
    slices: int
    """Slices with a hash, of both datasets."""
    unhashed: int
    """Slices that show too little brain, or cannot be decoded."""
    least: float
    """Least similarity of a pair."""
    pairs: int
    patients: tuple[DuplicatePatients, ...]
    """Pairs of patients, those with the most pairs of slices first."""


@dataclass(frozen=True)
class _Hashed:
    """A dataset with the hashes of its slices."""

    data: LoadedDataset
    hashes: npt.NDArray[np.int8]


def find_duplicates(
    project: "Project",
    name: str,
    other: str | None = None,
    *,
    least: float = SIMILAR,
    processes: int | None = None,
    progress: ProgressCallback | None = None,
) -> DuplicateReport:
    """Return which patients of a dataset have images that are near-duplicates of those of others.

    Args:
        project: The project.
        name: The dataset; its newest version is read.
        other: Another dataset; None to compare the patients of `name` among themselves.
        least: Least similarity.
        processes: Worker processes for hashes, and threads for their comparison; one per core when None.
        progress: Receives (done, total) slices and blocks.

    Raises:
        NotFoundError: A dataset does not exist.
        NotReadyError: A dataset has no cache.
        InvalidInputError: `least` is invalid, or both datasets are the same.
    """
    if not 0.5 <= least <= 1:
        raise InvalidInputError(f"Invalid similarity: {least:g}.", "Use 0.5 to 1.")
    if other == name:
        raise InvalidInputError(f"{name} cannot be compared with itself.", "Leave out --against.")
    caches = {of: _cache(project, of) for of in (name, *([other] if other else []))}  # report missing ones first
    own = _Hashed(load_dataset(project, name), image_hashes(caches[name], processes=processes, progress=progress))
    second = own
    if other is not None:
        of_other = image_hashes(caches[other], processes=processes, progress=progress)
        second = _Hashed(load_dataset(project, other), of_other)
    found = find_similar(
        own.hashes,
        None if other is None else second.hashes,
        groups=pd.factorize(own.data.slices["patient"])[0],
        least=least,
        processes=processes,
        progress=progress,
    )
    known = _known_patients(project, own.data, second.data) if other else set[tuple[str, str]]()
    hashed = [int(one.hashes.any(axis=1).sum()) for one in ([own] if other is None else [own, second])]
    total = sum(len(one.hashes) for one in ([own] if other is None else [own, second]))
    return DuplicateReport(
        dataset=name,
        version=own.data.version.number,
        other=other or name,
        other_version=second.data.version.number,
        slices=sum(hashed),
        unhashed=total - sum(hashed),
        least=least,
        pairs=len(found.first),
        patients=_by_patients(found, own.data.slices, second.data.slices, known),
    )


def _cache(project: "Project", name: str) -> Cache:
    """Return the complete cache of the newest version of `name` whose size is nearest to `WANTED`."""
    found = [c for c in list_caches(project, name) if c.complete and c.current and c.spec.size >= SMALLEST]
    if not found:
        raise NotReadyError(
            f"{name} has no complete cache of {SMALLEST} pixels or more.",
            f"Build one: `ichx data cache {name} --size {WANTED}`.",
        )
    best = min(found, key=lambda c: (abs(c.spec.size - WANTED), c.folder.name))
    return Cache(best.folder)


def _known_patients(project: "Project", own: LoadedDataset, other: LoadedDataset) -> set[tuple[str, str]]:
    """Return the pairs of patients whose ids show that they are the same."""
    ids, others = (load_identity(project.workspace, of.version) for of in (own, other))
    both = ids.merge(others, on=["kind", "key"], suffixes=("", "_other"))
    return set(zip(both["patient"], both["patient_other"], strict=True))


def _by_patients(
    found: SimilarPairs, slices: pd.DataFrame, others: pd.DataFrame, known: set[tuple[str, str]]
) -> tuple[DuplicatePatients, ...]:
    pairs: dict[tuple[str, str], list[int]] = defaultdict(list)
    patients, other_patients = slices["patient"].to_numpy(object), others["patient"].to_numpy(object)
    for place, (a, b) in enumerate(zip(found.first, found.second, strict=True)):
        pairs[patients[a], other_patients[b]].append(place)
    listed = []
    for (patient, other_patient), places in pairs.items():
        best = max(places, key=lambda place: (float(found.similarity[place]), -place))
        one, two = slices.iloc[found.first[best]], others.iloc[found.second[best]]
        listed.append(
            DuplicatePatients(
                patient=patient,
                other_patient=other_patient,
                study=str(one["study"]),
                other_study=str(two["study"]),
                pairs=len(places),
                slice_id=str(one["slice_id"]),
                other_slice_id=str(two["slice_id"]),
                similarity=round(float(found.similarity[best]), 4),
                known=(patient, other_patient) in known or (slices is not others and patient == other_patient),
            )
        )
    return tuple(sorted(listed, key=lambda one: (-one.pairs, -one.similarity, one.slice_id)))
