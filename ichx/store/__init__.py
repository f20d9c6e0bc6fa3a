"""The store: the SQL database of everything that happened, behind the `Store` class. Files: `ichx.workspace`."""

from ichx.store.dataset_snapshots import Dataset, DatasetVersion, FoldDraft, FoldSet, VersionDraft
from ichx.store.ensemble_snapshots import Ensemble, EnsembleDraft, EnsembleMember
from ichx.store.evaluations import EvaluationCount, EvaluationDraft, EvaluationRecord
from ichx.store.prediction_snapshots import (
    FeatureTableDraft,
    FeatureTableRecord,
    Prediction,
    PredictionDraft,
    StoredPredictor,
)
from ichx.store.reviews import FINDINGS, Finding, Review, ReviewDraft
from ichx.store.run_snapshots import (
    EndState,
    EpochRecord,
    JobChange,
    JobDraft,
    JobRecord,
    JobRecordState,
    Run,
    RunDraft,
)
from ichx.store.score_marks import PooledScore, marks, marks_of_data, pooled_score
from ichx.store.selection import Selection
from ichx.store.snapshots import (
    Experiment,
    ExperimentDraft,
    ExperimentSummary,
    ImportDraft,
    Kind,
    Note,
    ScoreDraft,
    TuningInfo,
    require_network,
)
from ichx.store.store import Store, open_store

__all__ = [
    "FINDINGS",
    "Dataset",
    "DatasetVersion",
    "EndState",
    "Ensemble",
    "EnsembleDraft",
    "EnsembleMember",
    "EpochRecord",
    "EvaluationCount",
    "EvaluationDraft",
    "EvaluationRecord",
    "Experiment",
    "ExperimentDraft",
    "ExperimentSummary",
    "FeatureTableDraft",
    "FeatureTableRecord",
    "Finding",
    "FoldDraft",
    "FoldSet",
    "ImportDraft",
    "JobChange",
    "JobDraft",
    "JobRecord",
    "JobRecordState",
    "Kind",
    "Note",
    "PooledScore",
    "Prediction",
    "PredictionDraft",
    "Review",
    "ReviewDraft",
    "Run",
    "RunDraft",
    "ScoreDraft",
    "Selection",
    "Store",
    "StoredPredictor",
    "TuningInfo",
    "VersionDraft",
    "marks",
    "marks_of_data",
    "open_store",
    "pooled_score",
    "require_network",
]
