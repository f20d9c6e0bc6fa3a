"""Values that go into the store (drafts) and come out of it (snapshots), as frozen dataclasses. No database here.

Those of experiments are in this module; the others are in `dataset_snapshots`, `prediction_snapshots`,
`ensemble_snapshots` and `run_snapshots`. Datetimes are aware and in UTC. Paths are relative to the workspace root
unless a field says otherwise.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from ichx.errors import NotFoundError, UnsupportedError
from ichx.store.prediction_snapshots import PredictionDraft
from ichx.store.run_snapshots import EpochRecord, Run
from ichx.views import IDENTITY, views_in

Kind = Literal["experiment", "trial"]


@dataclass(frozen=True)
class TuningInfo:
    """Origin of an experiment in hyperparameter tuning: it is a trial, or was promoted from one."""

    study: str
    """Name of the Optuna study."""
    trial: int
    fold: int
    """Fold whose score the study optimizes."""
    values: Mapping[str, float | int | str]
    """Values that replace those of the parent, by name."""
    subset: float = 1.0
    """Share of the patients that a trial is trained on; 1 for a promoted experiment."""
    length: float = 1.0
    """Share of each stage's epochs; 1 for a promoted experiment."""
    score: float | None = None
    """Score of the trial that a promoted experiment was chosen by."""
    objective: str = "score"
    """Name of the score that the study optimizes: `score` in studies of older versions, else `calibrated_score`."""


@dataclass(frozen=True)
class ExperimentDraft:
    """An experiment: a recipe pinned to a dataset version, its labels and folds."""

    name: str
    plugin: str
    size: int
    """Pixels."""
    window_kind: str
    recipe: str
    """TOML."""
    recipe_digest: str
    version_id: int
    label_digest: str
    fold_set_id: int
    fold_digest: str
    epochs: int
    """Epochs of all stages, for one fold."""
    parent: int | None = None
    """Number of the experiment that it was cloned or tuned from."""
    kind: Kind = "experiment"
    selected: bool = False
    """Whether a validation score chose some of its values."""
    origin: Mapping[str, Any] | None = None
    """Number and workspace before an import."""
    tuned: TuningInfo | None = None
    subset: float = 1.0
    """Share of the patients of a quick look; that of a trial is in `tuned`."""
    external: bool = False
    """Whether its predictions are imported from another tool."""
    members: tuple[int, ...] = ()
    """Experiments whose predictions or features it reads; empty unless it is a sequence experiment."""


@dataclass(frozen=True, kw_only=True)
class ExperimentSummary:
    """An experiment in a list, without its recipe. Scores are weighted log losses over all OOF slices."""

    number: int
    name: str
    plugin: str
    size: int
    window_kind: str
    dataset: str
    dataset_version: int
    fold_set: str
    """Name of the folds."""
    folds: int
    folds_done: int
    state: str
    """Derived from the runs: one of `ichx.store.selection.STATES`."""
    stage: str | None
    """Stage of the newest run."""
    seconds: float | None
    """Duration of all runs together."""
    score: float | None
    spread: float | None
    """Standard deviation of `score` over folds."""
    score_tta: float | None
    """Score of the mean over the views."""
    spread_tta: float | None
    selected: bool
    leaked: bool
    """Whether a patient is in more than one of its folds."""
    transductive: bool
    """Whether it trains on pseudo-labels of patients of a test set."""
    archived: bool
    trashed: datetime | None
    """When it was moved to the trash."""
    kind: str
    parent: int | None
    subset: float
    """Share of the patients that it is trained on; less than 1 for quick looks and some tuning trials."""
    external: bool
    """Whether its predictions are imported from another tool."""
    created: datetime
    tags: tuple[str, ...]
    members: tuple[int, ...]
    """Experiments whose predictions or features it reads; empty unless it is a sequence experiment."""
    reads_external: bool
    """Whether a member, or a member of one, is external."""


@dataclass(frozen=True, kw_only=True)
class Experiment(ExperimentSummary):
    """An experiment with everything recorded about it; see `ExperimentDraft` for the fields.

    `score_low` and `score_high` bound the 95 % interval over patients.
    """

    recipe: str
    recipe_digest: str
    version_id: int
    label_digest: str
    fold_set_id: int
    fold_digest: str
    epochs: int
    score_low: float | None
    score_high: float | None
    score_tta_low: float | None
    score_tta_high: float | None
    origin: Mapping[str, Any] | None
    tuned: TuningInfo | None

    @property
    def id(self) -> str:
        """An id that no experiment of another store has; copies of this store have the same."""
        created = f"{self.created.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}"
        parts = (str(self.number), created, self.recipe_digest, self.label_digest, self.fold_digest)
        return hashlib.sha256("/".join(parts).encode()).hexdigest()[:32]

    @property
    def views(self) -> tuple[str, ...]:
        """The views that its folds predict, of its recipe.

        A sequence experiment has one: its inputs are the means over the views of its members. Predictions of other
        tools have one, too.
        """
        return (IDENTITY,) if self.members or self.external else views_in(self.recipe)

    def check_folds(self, folds: Iterable[int]) -> None:
        """Raise `NotFoundError` for a fold that the experiment does not have."""
        for fold in folds:
            if not 0 <= fold < self.folds:
                raise NotFoundError(
                    f"Experiment {self.number} has no fold {fold}.", f"Use a fold from 0 to {self.folds - 1}."
                )


@dataclass(frozen=True)
class Note:
    """A user's note about an experiment."""

    id: int
    experiment: int
    created: datetime
    text: str


@dataclass(frozen=True)
class ScoreDraft:
    """An OOF score with its spread over folds and its interval over patients; None for unknown values."""

    score: float | None = None
    spread: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class ImportDraft:
    """A complete experiment of another store. The store assigns its number and all ids."""

    experiment: ExperimentDraft
    runs: tuple[Run, ...]
    history: Mapping[int, tuple[EpochRecord, ...]]
    """By fold."""
    predictions: tuple[PredictionDraft, ...]
    """With paths relative to the folder of the experiment."""
    tags: tuple[str, ...]
    notes: tuple[Note, ...]


def require_network(experiment: ExperimentSummary, what: str) -> None:
    """Raise `UnsupportedError` for an external experiment, which has no network; `what` needs one, e.g. "predict"."""
    if experiment.external:
        raise UnsupportedError(
            f"Experiment {experiment.number} ({experiment.name}) is external: another tool made its predictions, and "
            f"without its network, ichx cannot {what}.",
            "Blend it with others: `ichx ensemble`.",
        )
