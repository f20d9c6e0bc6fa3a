"""Drafts and snapshots of predictions and feature tables; see `ichx.store.snapshots`."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class PredictionDraft:
    """A file of logits: the prediction of one fold for a dataset version in one view."""

    experiment: int
    fold: int
    version_id: int
    role: str
    """`oof`, `test` or `evaluation`."""
    view: str
    """A name of `ichx.views`, e.g. `identity` or `hflip`."""
    path: str
    slices: int
    digest: str
    """SHA-256 of the file."""
    score: float | None
    """None without labels."""


@dataclass(frozen=True)
class Prediction(PredictionDraft):
    """A recorded prediction."""

    created: datetime


@dataclass(frozen=True)
class StoredPredictor:
    """An experiment that has predicted a dataset version."""

    experiment: int
    name: str
    score: float | None
    role: str
    """`oof`, `test` or `evaluation`."""
    folds: tuple[int, ...]


@dataclass(frozen=True)
class FeatureTableDraft:
    """A file of pooled features: those of one fold's network for all slices of a dataset version in one view."""

    experiment: int
    fold: int
    version_id: int
    view: str
    """A name of `ichx.views`, e.g. `identity` or `hflip`."""
    path: str
    slices: int
    width: int
    """Features per slice."""
    digest: str
    """SHA-256 of the file."""


@dataclass(frozen=True)
class FeatureTableRecord(FeatureTableDraft):
    """A recorded feature table."""

    created: datetime
