"""Drafts and snapshots of datasets, their versions and folds; see `ichx.store.snapshots`."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ichx.errors import NotFoundError, NotReadyError, did_you_mean

if TYPE_CHECKING:
    from ichx.store.snapshots import Experiment


@dataclass(frozen=True)
class FoldDraft:
    """Folds of a dataset version."""

    name: str
    k: int
    """Number of folds."""
    seed: int
    digest: str
    """SHA-256 of the assignment."""
    leaking_patients: int = 0
    """Number of patients with slices in more than one fold."""
    source: str | None = None
    """Name of the imported file; None for folds that ichx assigned with `seed`."""

    @property
    def leaky(self) -> bool:
        """Whether a patient is in more than one fold, which marks every score on these folds."""
        return self.leaking_patients > 0


@dataclass(frozen=True, kw_only=True)
class FoldSet(FoldDraft):
    """Recorded folds of a dataset version."""

    id: int


@dataclass(frozen=True)
class VersionDraft:
    """A dataset version."""

    dataset: str
    test_of: str | None
    """Name of the training set, for a test set."""
    source: str
    """Absolute path of the files."""
    path: str
    """Folder of the version."""
    digest: str
    """SHA-256 of files, labels and folds."""
    label_digest: str | None
    """SHA-256 of slice ids and labels; None without labels."""
    slices: int
    patients: int
    defects: int
    """Number of excluded files."""
    sample: str | None
    """Sample submission of a test set."""
    summary: Mapping[str, Any]
    folds: tuple[FoldDraft, ...] = ()


def part_names(summary: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the parts of a mixture, from the summary of its version; see `ichx.datasets.mixture`."""
    return tuple(part["dataset"] for part in summary.get("mixture", {}).get("parts", ()))


@dataclass(frozen=True)
class Dataset:
    """A named set of slices."""

    name: str
    trainable: bool
    """Whether its latest version has labels and it is not a test set."""
    test_of: str | None
    versions: int
    """Number of its latest version."""
    created: datetime


@dataclass(frozen=True, kw_only=True)
class DatasetVersion(VersionDraft):
    """A recorded, immutable version of a dataset."""

    id: int
    number: int
    """Counts from 1 within the dataset."""
    folds: tuple[FoldSet, ...]
    created: datetime

    @property
    def kind(self) -> str:
        """What it is, in a word or two, e.g. `mixture` or `unlabelled`."""
        if self.test_of:
            return f"test set of {self.test_of}"
        if self.part_names:
            return "mixture"
        if "pseudo" in self.summary:
            return "pseudo-labels"
        return "labelled" if self.label_digest else "unlabelled"

    @property
    def part_names(self) -> tuple[str, ...]:
        """Names of the datasets of which a mixture consists; none for other versions."""
        return part_names(self.summary)

    @property
    def part_shares(self) -> tuple[tuple[str, float], ...]:
        """Share of each part's slices that an epoch samples; it changes a training and is in no digest."""
        weights = {part["dataset"]: part["weight"] for part in self.summary.get("mixture", {}).get("parts", ())}
        return tuple((name, weight / max(weights.values())) for name, weight in sorted(weights.items()))

    def fold_set(self, name: str | None = None) -> FoldSet:
        """Return the folds called `name`, or the first folds of the version.

        Raises:
            NotReadyError: The version has no folds.
            NotFoundError: It has folds, but none called `name`.
        """
        found = next((folds for folds in self.folds if name in (None, folds.name)), None)
        if found is not None:
            return found
        version = f"{self.dataset} version {self.number}"
        remedy = f"`ichx data folds {self.dataset} --import FILE` adds folds."
        if not self.folds:
            raise NotReadyError(f"{version} has no folds.", remedy)
        known = [folds.name for folds in self.folds]
        raise NotFoundError(
            f"{version} has no folds {name!r}.",
            f"{did_you_mean(name or '', known)}It has {', '.join(known)}; {remedy}",
        )

    def fold_set_of(self, experiment: "Experiment") -> FoldSet:
        """Return the folds that `experiment`, which is trained on this version, uses."""
        return next(folds for folds in self.folds if folds.id == experiment.fold_set_id)
