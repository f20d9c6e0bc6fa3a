"""The store: tables, migrations, and the `Store` class that hands out frozen snapshots."""

from ichx.store.snapshots import (
    Dataset,
    DatasetVersion,
    Ensemble,
    EnsembleDraft,
    EnsembleMember,
    EpochRecord,
    Experiment,
    ExperimentDraft,
    ExperimentSummary,
    FoldDraft,
    FoldSet,
    Prediction,
    PredictionDraft,
    Run,
    RunDraft,
    VersionDraft,
    marks,
)
from ichx.store.store import Store, open_store

__all__ = [
    "Dataset",
    "DatasetVersion",
    "Ensemble",
    "EnsembleDraft",
    "EnsembleMember",
    "EpochRecord",
    "Experiment",
    "ExperimentDraft",
    "ExperimentSummary",
    "FoldDraft",
    "FoldSet",
    "Prediction",
    "PredictionDraft",
    "Run",
    "RunDraft",
    "Store",
    "VersionDraft",
    "marks",
    "open_store",
]
