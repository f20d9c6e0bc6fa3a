"""Series of slices with the outputs of other experiments: what the folds of a sequence experiment train on.

Fold k reads pooled features of the members' fold-k networks, or logits that the members predicted out of fold, or both.
It never reads outputs for fold k of a network that was trained on fold k.

With features, its heads learn from the training patients of fold k. With logits alone they learn from all patients
but a part of fold k, which they predict: each part has separate heads. Slices that train in every fold have features
and no OOF logits, so heads that read logits do not learn from them.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd
from torch import nn

from ichx.datasets.dataset import LoadedDataset, load_folds, load_version
from ichx.datasets.fold_labels import FoldLabels, read_fold_labels
from ichx.datasets.fold_numbers import TRAIN_ONLY
from ichx.datasets.patient_subset import EXCLUDED, subset_folds
from ichx.datasets.study_labels import group_codes, has_study_labels, informative, study_labels_of
from ichx.errors import ChangedDataError, NotReadyError
from ichx.evaluation.feature_tables import FeatureTable
from ichx.evaluation.member_outputs import (
    FoldInputs,
    current_inputs,
    inputs_of,
    oof_logits,
    set_logits,
)
from ichx.evaluation.scored_rows import Truth
from ichx.evaluation.series_neighbours import SeriesNeighbours
from ichx.experiments.fold_status import missing_tests
from ichx.experiments.member_features import TableOptions, TableRequest, ensure_tables, plan_tables
from ichx.experiments.prepare import pins, test_data
from ichx.labels import LABELS
from ichx.recipe import Recipe
from ichx.recipe_text import from_toml
from ichx.sequences.data import NO_PART, SequenceData
from ichx.sequences.feed import SequenceFeed
from ichx.sequences.network import build_network, fit_components
from ichx.training.callbacks import Callbacks
from ichx.training.control import Control
from ichx.training.feed import Rows
from ichx.training.stop_request import StopRequest
from ichx.training.weights import Start

if TYPE_CHECKING:
    from ichx.plugins import Plugin
    from ichx.project import Project
    from ichx.store import DatasetVersion, Experiment

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PreparedSeries:
    """The series of a sequence experiment's dataset, for all of its folds; see `PreparedFolds` for the methods."""

    project: "Project"
    experiment: "Experiment"
    plugin: "Plugin"
    recipe: Recipe
    data: LoadedDataset
    folds: npt.NDArray[np.int16]
    """`(N,)` fold of each row of `data`; `EXCLUDED` for patients outside the experiment's subset."""
    members: "tuple[Experiment, ...]"
    options: TableOptions
    callbacks: Callbacks
    stop: StopRequest
    masks: None = None
    _inputs: dict[int, FoldInputs] = field(default_factory=dict, repr=False)
    """What each fold reads, computed once."""
    _read: dict[int, SequenceData] = field(default_factory=dict, repr=False)
    """The series as the latest fold reads them."""

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """What is read of the members: `logits`, `features`."""
        return inputs_of(self.experiment)

    @cached_property
    def logits(self) -> npt.NDArray[np.float32] | None:
        """OOF logits `(N, M, 6)` of the members; None without logits among the inputs."""
        if "logits" not in self.kinds:
            return None
        version = self.data.version
        folds = load_folds(self.project.workspace, version, version.fold_set_of(self.experiment), self.data.slices)
        return oof_logits(self.project, self.members, self.data.slices["slice_id"].to_numpy(object), folds)

    @cached_property
    def fold_labels(self) -> FoldLabels | None:
        """Labels that differ between folds; None for none."""
        return read_fold_labels(self.project.workspace, self.data.version)

    def inputs(self, fold: int) -> FoldInputs:
        """Return what the fold reads of the members."""
        if fold not in self._inputs:
            self._inputs[fold] = current_inputs(self.project, self.experiment, fold)
        return self._inputs[fold]

    def fits(self, fold: int) -> str:
        """Return the digests of the experiment and of what it reads."""
        return f"{pins(self.experiment)}/{self.inputs(fold).digest}"

    def described(self, fold: int) -> dict[str, str]:
        """Return the digests of the experiment and of what it reads, and record the latter next to the weights."""
        files = self.project.workspace.experiment_files(self.experiment.number)
        self.inputs(fold).write(files.fold(fold).inputs)
        return {"fits": pins(self.experiment), "inputs": self.inputs(fold).digest}

    def check(self, folds: Sequence[int], only: int | None = None) -> None:
        """Raise `StorageError` if the features that the `folds` read do not fit on the disk.

        These are of the dataset and of the test sets that a fold has not predicted, or of the dataset version `only`.
        """
        requests = self._requests(folds, only)
        if only is None:
            tests = [(fold, v.id) for fold in folds for v in missing_tests(self.project, self.experiment, fold)]
            requests += [request for fold, test in tests for request in self._requests([fold], test)]
        plan = plan_tables(self.project, requests, self.options)
        if plan.missing:
            self.callbacks.note(str(plan))
            plan.check_space()

    def training_rows(self, fold: int) -> Rows:
        """Return the slices of the other folds; with logits alone those of all folds: see this module."""
        usable = self._usable(fold)
        return np.flatnonzero(usable & (self.folds != fold) if "features" in self.kinds else usable)

    def validation_rows(self, fold: int) -> Rows:
        """Return the slices of the fold."""
        return np.flatnonzero(self._usable(fold) & (self.folds == fold))

    def network(self, fold: int, start: Start, note: Callable[[str], None]) -> nn.Module:
        """Return the heads with random weights, and with principal components if the recipe has them."""
        network = build_network(self.plugin, self.recipe, self._data(fold).widths(self.recipe))
        fit_components(network, self.feed(fold, 0))
        return network

    def trained_network(self, fold: int) -> nn.Module:
        """Return the heads of the trained fold, with random weights."""
        return build_network(self.plugin, self.recipe, self._data(fold).widths(self.recipe))

    def feed(self, fold: int, workers: int) -> SequenceFeed:
        """Return the series of the fold."""
        data = self._data(fold)
        of_series = np.array([self.folds[rows[0]] for rows in data.series], np.int64)
        own = of_series == fold
        return SequenceFeed(
            data,
            self.recipe,
            fold=fold,
            training_series=np.flatnonzero(~own if "features" in self.kinds else np.ones(len(own), bool)),
            validation_series=np.flatnonzero(own),
        )

    def test_feed(
        self, fold: int, version: "DatasetVersion", workers: int, control: Control
    ) -> tuple[SequenceFeed, Rows]:
        """Return all series of a test set."""
        feed = SequenceFeed(self.other_data(fold, test_data(self.project.workspace, version)), self.recipe, fold=fold)
        return feed, feed.rows(np.arange(len(feed.data.series)))

    def other_data(self, fold: int, data: LoadedDataset) -> SequenceData:
        """Return the series of another dataset, which the members' fold has predicted."""
        ids, version = data.slices["slice_id"].to_numpy(object), data.version
        usable, features, logits = np.ones(len(ids), bool), list[npt.NDArray[np.float16]](), None
        if "features" in self.kinds:
            tables = self._tables(fold, version.id)
            usable &= np.all([table.valid for table in tables], axis=0)
            features = [table.open() for table in tables]
        if "logits" in self.kinds:
            logits = set_logits(self.project, self.members, ids, fold, version.id)
            usable &= np.isfinite(logits).all(axis=(1, 2))
        return sequence_data(data.slices, usable, features, logits)

    def _tables(self, fold: int, version_id: int) -> list[FeatureTable]:
        requests = self._requests([fold], version_id)
        found = ensure_tables(self.project, requests, self.options, callbacks=self.callbacks, stop=self.stop)
        tables = [found[request] for request in requests]
        recorded = [member.weights for member in self.inputs(fold).members]
        if [table.source.weights for table in tables] != recorded:
            raise ChangedDataError(
                f"The weights of a member in fold {fold} have changed since the run began.",
                f"Rerun `ichx run {self.experiment.number}` when no member is being trained.",
            )
        return tables

    def _requests(self, folds: Sequence[int], version_id: int | None = None) -> list[TableRequest]:
        """Return the feature tables that `folds` read; none without features."""
        version_id = self.data.version.id if version_id is None else version_id
        wanted = self.members if "features" in self.kinds else ()
        return [TableRequest(member.number, fold, version_id) for fold in folds for member in wanted]

    def _data(self, fold: int) -> SequenceData:
        """Return the series of the dataset as the fold reads them."""
        if fold not in self._read:
            tables = self._tables(fold, self.data.version.id) if "features" in self.kinds else []
            usable = self.folds != EXCLUDED
            if tables:
                usable &= np.all([table.valid for table in tables], axis=0)
            if self.logits is not None:
                usable &= np.isfinite(self.logits).all(axis=(1, 2))
            part = None if "features" in self.kinds else self._parts(fold)
            features = [table.open() for table in tables]
            slices = self.data.slices
            if self.fold_labels is not None:
                slices = self.fold_labels.training_slices(slices, fold)
                usable &= (self.folds != TRAIN_ONLY) | informative(slices)
            self._read.clear()  # one fold at a time
            self._read[fold] = sequence_data(slices, usable, features, self.logits, part)
        return self._read[fold]

    def _usable(self, fold: int) -> npt.NDArray[np.bool_]:
        usable = np.zeros(len(self.folds), bool)
        for rows in self._data(fold).series:
            usable[rows] = True
        return usable

    def _parts(self, fold: int) -> IntArray:
        """Return the part of each slice's patient, `(N,)`: `NO_PART` outside the fold."""
        assert self.recipe.sequence is not None
        own, slices = self.folds == fold, self.data.slices
        part = np.full(len(own), NO_PART, np.int64)
        part[own] = draw_parts(slices[own], self.recipe.sequence.parts, self.recipe.seed)
        return part


def draw_parts(slices: pd.DataFrame, count: int, seed: int) -> IntArray:
    """Return the part of each slice's patient, `(N,)`, of `count` parts of equal size, drawn by `seed`.

    A patient counts as its first slice id: the names of patients are hashes that differ between workspaces.
    """
    first = slices["slice_id"].astype(str).groupby(slices["patient"].to_numpy(object)).transform("min")
    drawn = sorted(set(first), key=lambda slice_id: hashlib.sha256(f"{seed}/{slice_id}".encode()).digest())
    return first.map({slice_id: at % count for at, slice_id in enumerate(drawn)}).to_numpy(np.int64)


def sequence_data(
    slices: pd.DataFrame,
    usable: npt.NDArray[np.bool_],
    features: Sequence[npt.NDArray[np.float16]] = (),
    logits: npt.NDArray[np.float32] | None = None,
    part: IntArray | None = None,
) -> SequenceData:
    """Return the runs of a catalog's slices as series.

    Args:
        slices: N rows of a catalog.
        usable: `(N,)` slices that have all inputs; the others are left out.
        features: `(N, D)` of each member.
        logits: `(N, M, 6)` of M members.
        part: See `SequenceData`.
    """
    rows = np.flatnonzero(usable)
    if not len(rows):
        raise NotReadyError("No slice has all inputs of the sequence experiment.", "Check its members: `ichx audit`.")
    neighbours = SeriesNeighbours.of(slices)
    series = [rows[run] for run in neighbours.take(usable).sequences()]
    known = set(slices.columns) >= set(LABELS)
    return SequenceData(
        series=series,
        slice_ids=slices["slice_id"].to_numpy(object),
        labels=slices[list(LABELS)].to_numpy(np.float64) if known else np.full((len(slices), len(LABELS)), np.nan),
        position=neighbours.position,
        study=pd.factorize(slices["study"])[0].astype(np.int64),
        features=features,
        logits=logits,
        part=part,
        study_labels=study_labels_of(slices) if known else None,
        group=group_codes(slices) if known and has_study_labels(slices) else None,
        shares=slices["share"].to_numpy(np.float64) if "share" in slices else None,
        scored=Truth.of(slices) if known else None,
    )


def prepare_series(
    project: "Project",
    experiment: "Experiment",
    callbacks: Callbacks,
    options: TableOptions | None = None,
    stop: StopRequest | None = None,
) -> PreparedSeries:
    """Return a sequence experiment ready to train, if its members are.

    Raises:
        ChangedDataError: The dataset was changed.
    """
    version = project.store.version_by_id(experiment.version_id)
    fold_set = version.fold_set_of(experiment)
    data = load_version(project.workspace, version)
    folds = subset_folds(data.slices, load_folds(project.workspace, version, fold_set, data.slices), experiment.subset)
    members = tuple(project.store.experiment(number) for number in experiment.members)
    for member in members:
        if member.external:
            callbacks.note(f"member {member.number} is of another tool: nothing shows what its models were trained on")
    return PreparedSeries(
        project,
        experiment,
        project.registry.get(experiment.plugin),
        from_toml(experiment.recipe, source=f"the recipe of experiment {experiment.number}"),
        data,
        folds,
        members,
        options or TableOptions(),
        callbacks,
        stop or StopRequest(),
    )
