"""Values that go into the store (drafts) and come out of it (snapshots), as frozen dataclasses. No database here.

Datetimes are aware and in UTC. Paths are relative to the workspace root unless a field says otherwise.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from ichx.errors import NotFoundError, NotReadyError, UnsupportedError, did_you_mean
from ichx.store.run_snapshots import (
    EpochRecord,
    Run,
)
from ichx.views import IDENTITY, views_in

Kind = Literal["experiment", "trial"]


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


def require_objects(*values: object) -> None:
    """Raise `TypeError` unless all JSON values are objects or None; `database.reading` names the row."""
    if not all(value is None or isinstance(value, dict) for value in values):
        raise TypeError("a JSON value is not an object")


def marks_of_data(scored: ExperimentSummary | Ensemble) -> tuple[str, ...]:
    """Return the caveats of the folds and labels, which every score on them shares."""
    caveats = (("leaky folds", scored.leaked), ("transductive", scored.transductive))
    return tuple(mark for mark, applies in caveats if applies)


def marks(scored: ExperimentSummary | Ensemble) -> tuple[str, ...]:
    """Return the caveats that must accompany a score wherever it appears, e.g. `selected`; empty for most scores."""
    found = [*["selected"] * scored.selected, *marks_of_data(scored)]
    if isinstance(scored, ExperimentSummary) and scored.subset < 1:
        found.append(f"{100 * scored.subset:.3g} % of the patients")
    if scored.external or (isinstance(scored, ExperimentSummary) and scored.reads_external):
        found.append("external")
    if isinstance(scored, Ensemble):
        found += [f"partial ({scored.partial})"] if scored.partial else []
    elif scored.folds_done < scored.folds:
        found.append(f"partial ({scored.folds_done} of {scored.folds} folds)")
    return tuple(found)


def require_network(experiment: ExperimentSummary, what: str) -> None:
    """Raise `UnsupportedError` for an external experiment, which has no network; `what` needs one, e.g. "predict"."""
    if experiment.external:
        raise UnsupportedError(
            f"Experiment {experiment.number} ({experiment.name}) is external: another tool made its predictions, and "
            f"without its network, ichx cannot {what}.",
            "Blend it with others: `ichx ensemble`.",
        )


@dataclass(frozen=True, kw_only=True)
class PooledScore:
    """OOF score of an experiment, pooled over its finished folds."""

    experiment: int
    folds_done: int
    folds: int
    score: float | None
    score_low: float | None
    """Lower bound of the score's 95 % interval over patients."""
    score_high: float | None
    spread: float | None
    score_tta: float | None
    """Score of the mean over `views`."""
    views: tuple[str, ...]
    marks: tuple[str, ...]


def pooled_score(experiment: Experiment) -> PooledScore:
    """Return the score of `experiment` and what must accompany it."""
    return PooledScore(
        experiment=experiment.number,
        folds_done=experiment.folds_done,
        folds=experiment.folds,
        score=experiment.score,
        score_low=experiment.score_low,
        score_high=experiment.score_high,
        spread=experiment.spread,
        score_tta=experiment.score_tta,
        views=experiment.views,
        marks=marks(experiment),
    )
