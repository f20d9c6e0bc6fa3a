"""What goes into the store (drafts) and what comes out of it (snapshots): frozen dataclasses, never live rows.

Datetimes are aware and in UTC; paths are relative to the workspace root unless said otherwise. No database here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ichx.errors import NotFoundError, did_you_mean


@dataclass(frozen=True)
class FoldDraft:
    """Folds of a dataset version to be recorded: `leaking_patients` have slices in more than one of them.

    `source` is the name of the file that they were imported from; without, they are drawn with `seed`.
    """

    name: str
    k: int
    seed: int
    digest: str
    leaking_patients: int = 0
    source: str | None = None

    @property
    def leaky(self) -> bool:
        """Whether the folds split a patient, so that every score on them is marked."""
        return self.leaking_patients > 0


@dataclass(frozen=True, kw_only=True)
class FoldSet(FoldDraft):
    """Recorded folds of a dataset version."""

    id: int


@dataclass(frozen=True)
class VersionDraft:
    """A dataset version to be recorded. `source` is the absolute path of its files, `path` its folder."""

    dataset: str
    test_of: str | None
    source: str
    path: str
    digest: str
    label_digest: str | None
    slices: int
    patients: int
    defects: int
    sample: str | None
    summary: Mapping[str, Any]
    folds: tuple[FoldDraft, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """A named set of slices; `versions` is its latest version's number.

    It is trainable when its latest version has labels and it is no test set of another.
    """

    name: str
    trainable: bool
    test_of: str | None
    versions: int
    created: datetime


@dataclass(frozen=True)
class DatasetVersion:
    """An immutable version of a dataset; its `number` counts from 1 within the dataset."""

    id: int
    dataset: str
    number: int
    test_of: str | None
    source: str
    path: str
    digest: str
    label_digest: str | None
    slices: int
    patients: int
    defects: int
    sample: str | None
    summary: Mapping[str, Any]
    folds: tuple[FoldSet, ...]
    created: datetime

    def fold_set(self, name: str | None = None) -> FoldSet:
        """Return the folds called `name`, or those that came with the version; `NotFoundError` where there are none."""
        found = next((folds for folds in self.folds if name in (None, folds.name)), None)
        if found is None:
            known = [folds.name for folds in self.folds]
            has = f"it has {', '.join(known)}" if known else "it is not trained on"
            raise NotFoundError(
                f"{self.dataset} version {self.number} has no folds" + (f" {name!r}" if name else ""),
                f"{did_you_mean(name or '', known)}{has}; `ichx data folds {self.dataset} --import FILE` adds folds",
            )
        return found


@dataclass(frozen=True)
class Tuned:
    """The place of an experiment in a search for better values: a trial of `study`, or one promoted from a trial.

    `values` are what the trial tries in place of its parent's, by name; `fold` is the one whose score the search looks
    at. `subset` is the share of the patients that a trial has, `length` the share of each stage's epochs. A promoted
    experiment has all of both; its `score` is the trial's, which chose it.
    """

    study: str
    trial: int
    fold: int
    values: Mapping[str, float | int | str]
    subset: float = 1.0
    length: float = 1.0
    score: float | None = None


@dataclass(frozen=True)
class ExperimentDraft:
    """An experiment to be registered: a recipe (TOML text) pinned to a dataset version, its labels and its folds.

    `epochs` is the total per fold. `kind` is `experiment`, or `trial` for one of a study's; `selected` says that its
    values were chosen by a validation score.
    """

    name: str
    plugin: str
    size: int
    window_kind: str
    recipe: str
    recipe_digest: str
    version_id: int
    label_digest: str
    fold_set_id: int
    fold_digest: str
    epochs: int
    parent: int | None = None
    kind: str = "experiment"
    selected: bool = False
    origin: Mapping[str, Any] | None = None
    tuned: Tuned | None = None


@dataclass(frozen=True, kw_only=True)
class ExperimentSummary:
    """What a list shows of an experiment, without its recipe.

    `leaked` says that its folds, the `fold_set` of its dataset version, split patients.
    `state` is derived from the runs: `new`, `running`, `stalled`, `dead`, `stopped`, `failed`, `partial` or `done`;
    `stage` is the newest run's, `seconds` what all runs took together. `trashed` is since when it waits to be deleted.
    Scores are weighted log losses over all OOF slices, `_tta` of the views' mean; spreads are over folds.
    `subset` is the share of the patients that it sees: 1, but for a tuning trial that was given less.
    """

    number: int
    name: str
    plugin: str
    size: int
    window_kind: str
    dataset: str
    dataset_version: int
    fold_set: str
    folds: int
    folds_done: int
    state: str
    stage: str | None
    seconds: float | None
    score: float | None
    spread: float | None
    score_tta: float | None
    spread_tta: float | None
    selected: bool
    leaked: bool
    archived: bool
    trashed: datetime | None
    kind: str
    parent: int | None
    subset: float
    created: datetime
    tags: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Experiment(ExperimentSummary):
    """Everything recorded of an experiment; `low` and `high` bound the scores' 95 % intervals over patients.

    `origin` tells of an imported one which `number` it had in which workspace, `tuned` of a trial what it tries.
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
    tuned: Tuned | None


@dataclass(frozen=True)
class Note:
    """Something that a user wrote down about an experiment."""

    id: int
    experiment: int
    created: datetime
    text: str


@dataclass(frozen=True)
class ScoreDraft:
    """An OOF score to be recorded: its `spread` over folds, and `low` and `high` of its interval over patients."""

    score: float | None = None
    spread: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class RunDraft:
    """An attempt at one fold that is about to start, in process `pid` of `host` (`socket.gethostname()`)."""

    experiment: int
    fold: int
    host: str
    pid: int
    code_version: str
    libraries: Mapping[str, str]
    device: str
    command: str
    provenance: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Run:
    """One attempt at executing one fold.

    `state` is `running`, `stalled`, `done`, `failed`, `stopped` or `dead`: a run recorded as running is shown as
    stalled when its heartbeat is late, and as dead when its process is gone or its host has long been silent.
    `provenance` is what it says of its code and machine beside the versions.
    """

    id: int
    experiment: int
    fold: int
    attempt: int
    state: str
    host: str
    pid: int
    started: datetime
    heartbeat: datetime
    ended: datetime | None
    code_version: str
    libraries: Mapping[str, str]
    device: str
    command: str
    stage: str | None
    epoch: int | None
    epochs_done: int
    error: str | None
    provenance: Mapping[str, Any] | None


@dataclass(frozen=True)
class EpochRecord:
    """The metrics of one epoch of one stage; a value that is not a number comes back as NaN."""

    stage: str
    stage_index: int
    epoch: int
    values: Mapping[str, float]


@dataclass(frozen=True)
class PredictionDraft:
    """A file of logits: one fold's prediction of a dataset version in one view.

    `role` is `oof` or `test`, `view` is `identity` or `hflip`; `slices` its rows; `score` where labels are known.
    """

    experiment: int
    fold: int
    version_id: int
    role: str
    view: str
    path: str
    slices: int
    digest: str
    score: float | None


@dataclass(frozen=True)
class Prediction(PredictionDraft):
    """A recorded prediction."""

    created: datetime


@dataclass(frozen=True)
class EnsembleMember:
    """An experiment in an ensemble with its weight and its own OOF score."""

    experiment: int
    weight: float
    score: float


@dataclass(frozen=True)
class EnsembleDraft:
    """A blend to be recorded.

    `score` is in-sample, `nested_score` from weights fitted on other folds; `partial` says which folds it covers where
    these are not all; `submissions` are paths.
    """

    dataset: str
    version_id: int
    fold_digest: str
    tta: str
    method: str
    score: float
    nested_score: float | None
    partial: str | None
    submissions: tuple[str, ...]
    members: tuple[EnsembleMember, ...]


@dataclass(frozen=True)
class Ensemble(EnsembleDraft):
    """A recorded blend; `selected` and `leaked` where a member is."""

    number: int
    created: datetime
    selected: bool
    leaked: bool


@dataclass(frozen=True)
class ImportedRun:
    """A run that ended in another store, with its fold's history; of several, the newest attempt's is kept."""

    fold: int
    attempt: int
    state: str
    host: str
    pid: int
    started: datetime
    heartbeat: datetime
    ended: datetime | None
    stage: str | None
    epoch: int | None
    epochs_done: int
    code_version: str
    device: str
    command: str
    libraries: Mapping[str, str]
    provenance: Mapping[str, Any] | None
    error: str | None
    history: tuple[EpochRecord, ...]


@dataclass(frozen=True)
class ImportDraft:
    """An experiment of another store, whole; its predictions' paths are relative to its own folder."""

    experiment: ExperimentDraft
    runs: tuple[ImportedRun, ...]
    predictions: tuple[PredictionDraft, ...]
    tags: tuple[str, ...]
    notes: tuple[Note, ...]


def marks(scored: ExperimentSummary | Ensemble) -> tuple[str, ...]:
    """Return what must be said beside a score wherever it is shown; nothing for a whole, honest one."""
    found = [mark for mark, on in (("selected", scored.selected), ("leaky folds", scored.leaked)) if on]
    if isinstance(scored, ExperimentSummary) and scored.subset < 1:
        found.append(f"{100 * scored.subset:.3g} % of the patients")
    if isinstance(scored, Ensemble):
        found += [f"partial ({scored.partial})"] if scored.partial else []
    elif scored.folds_done < scored.folds:
        found.append(f"partial ({scored.folds_done} of {scored.folds} folds)")
    return tuple(found)
