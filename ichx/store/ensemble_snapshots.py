"""Drafts and snapshots of ensembles; see `ichx.store.snapshots`."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class EnsembleMember:
    """A member of an ensemble with its weight and its OOF score."""

    experiment: int
    weight: float
    score: float


@dataclass(frozen=True)
class EnsembleDraft:
    """An ensemble."""

    dataset: str
    version_id: int
    fold_digest: str
    tta: str
    method: str
    score: float
    """In-sample."""
    nested_score: float | None
    """With every data-driven choice made on other folds."""
    partial: str | None
    """Folds that it covers, if not all."""
    submissions: tuple[str, ...]
    """Paths."""
    members: tuple[EnsembleMember, ...]
    average: str = "probability"
    """What is averaged over folds: `logit` or `probability`."""
    digest: str | None = None
    """SHA-256 of the stored model; None if there is none."""
    name: str | None = None
    """Chosen by the user."""


@dataclass(frozen=True, kw_only=True)
class Ensemble(EnsembleDraft):
    """A recorded ensemble; `selected`, `leaked` and `transductive` if one of its members is."""

    number: int
    created: datetime
    selected: bool
    leaked: bool
    transductive: bool
    external: bool
    """Whether a member is external, or reads an external experiment."""
