"""Pseudo-labels: what the networks of one fold predict for unlabelled slices, as labels for the training of that fold.

A training of fold k with labels of another fold's network would learn from its own validation patients. So the labels
of fold k follow from the predictions of fold k's networks alone. They are computed here from the stored predictions of
an experiment or an ensemble, when they are created (`ichx.inference.pseudo`) and when they are audited.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.datasets.fold_labels import Float32Array, FoldLabels
from ichx.datasets.keep_rule import KeepRule, parse_keep_rule
from ichx.errors import ChangedDataError, ConflictError
from ichx.evaluation.choices import Average, Tta, views_of
from ichx.evaluation.ensemble_file import EnsembleModel, read_model
from ichx.evaluation.member_outputs import inputs_of
from ichx.evaluation.metric import FloatArray
from ichx.evaluation.nested_score import FittedBlend
from ichx.evaluation.oof import read_fold
from ichx.evaluation.series_neighbours import SeriesNeighbours
from ichx.evaluation.stored_members import check_networks, describe_member
from ichx.labels import ANY, LABELS, SUBTYPES

if TYPE_CHECKING:
    from ichx.datasets.dataset import LoadedDataset
    from ichx.evaluation.ensemble_file import ModelMember
    from ichx.project import Project
    from ichx.store import Experiment, Prediction

    BlendsOf = Callable[[EnsembleModel, dict[int, Experiment]], dict[int, FittedBlend]]

POSITIVE: Final = 0.5
"""Probability from which a hard label is 1."""

ROLE: Final = "evaluation"
"""Role of the predictions in the store: those of `ichx evaluate`."""


@dataclass(frozen=True)
class LabelRule:
    """How probabilities become labels."""

    hard: bool = False
    """Labels are 0 and 1 instead of probabilities."""
    keep: KeepRule | None = None
    """The slices that are labelled; None for all."""

    @classmethod
    def parse(cls, keep: str | None, *, hard: bool) -> "LabelRule":
        """Return a rule with the condition `keep`. Raises `InvalidInputError`."""
        return cls(hard, None if keep is None else parse_keep_rule(keep))

    def kept(self, p: FloatArray) -> npt.NDArray[np.bool_]:
        """Return whether each slice with the probabilities `p` `(N, 6)` is labelled, `(N,)`."""
        return np.ones(len(p), bool) if self.keep is None else self.keep.matches(p)

    def labels(self, p: FloatArray) -> Float32Array:
        """Return the labels `(N, 6)` for the probabilities `p`; a hard `any` is the maximum of all labels."""
        if not self.hard:
            return p.astype(np.float32)
        labels = (p >= POSITIVE).astype(np.float32)
        labels[:, LABELS.index(ANY)] = labels.max(axis=1, initial=0)
        return labels


@dataclass(frozen=True)
class PseudoSource:
    """The experiment or the ensemble that predicts."""

    kind: str
    """`experiment` or `ensemble`."""
    number: int
    name: str
    experiments: "dict[int, Experiment]"
    """Those that predict, by their place in `blends`."""
    folds: tuple[int, ...]
    tta: Tta
    average: Average
    blends: dict[int, FittedBlend] | None = None
    """The blend for each fold, fitted without it; None for an experiment."""
    model: str | None = None
    """SHA-256 of an ensemble's model."""

    def networks(self, project: "Project") -> dict[str, str]:
        """Return the SHA-256 of the weights by `EXPERIMENT/FOLD`, also of the members of sequence experiments."""
        found: dict[str, str] = {}

        def add(member: "ModelMember") -> None:
            found.update({f"{member.experiment}/{fold}": digest or "" for fold, digest in member.weights.items()})
            for below in member.members:
                add(below)

        for experiment in self.experiments.values():
            add(describe_member(project, experiment, self.folds, self.tta))
        return found

    def digest(self, networks: Mapping[str, str]) -> str:
        """Return a SHA-256 of an ensemble's model, or of an experiment's recipe and weights."""
        if self.model is not None:
            return self.model
        facts = [[e.recipe_digest, e.label_digest, e.fold_digest] for e in self.experiments.values()]
        return hashlib.sha256(json.dumps([facts, sorted(networks.values())]).encode()).hexdigest()


def find_source(project: "Project", kind: str, number: int, tta: Tta, blends: "BlendsOf | None" = None) -> PseudoSource:
    """Return an `experiment`, or an `ensemble`, which has its own `tta`, with the `blends` of its model and members.

    Raises:
        NotFoundError: There is none.
        ChangedDataError: The ensemble or the weights of a member have changed.
        ConflictError: The networks of a fold have trained on patients that it validates on.
    """
    if kind == "experiment":
        one = project.store.experiment(number)
        _check_networks(project, one)
        return PseudoSource(kind, number, one.name, {0: one}, tuple(range(one.folds)), tta, "logit")
    ensemble = project.store.ensemble(number)
    model = read_model(project.workspace, ensemble)
    check_networks(project, ensemble, model)
    members = dict(enumerate(project.store.experiment(member.experiment) for member in model.used))
    for member in members.values():
        _check_networks(project, member)
    return PseudoSource(
        kind,
        number,
        ensemble.name or f"ensemble {number}",
        members,
        model.folds,
        model.tta,
        model.average,
        {} if blends is None else blends(model, members),
        ensemble.digest,
    )


def _check_networks(project: "Project", experiment: "Experiment") -> None:
    """Raise `ConflictError` if the networks of a fold have trained on patients of that fold."""
    if experiment.leaked:
        raise ConflictError(
            f"The folds of experiment {experiment.number} split patients: a fold has trained on patients that it "
            "validates on.",
            "Use experiments on patient-grouped folds.",
        )
    if experiment.members and inputs_of(experiment) == ("logits",):
        raise ConflictError(
            f"The heads of experiment {experiment.number} read logits alone: those of a fold have trained on parts of "
            "the patients that it validates on.",
            "Use its members, or a sequence experiment that reads features.",
        )
    for member in experiment.members:
        _check_networks(project, project.store.experiment(member))


def predicted_by_fold(
    project: "Project", source: PseudoSource, data: "LoadedDataset", fold: int
) -> tuple[npt.NDArray[np.object_], FloatArray, dict[str, str]]:
    """Return what the networks of `fold`, and no others, predict for `data`.

    An ensemble applies the blend that was fitted without the fold to the predictions of the fold's networks.

    Returns:
        Ids of the slices that can be decoded `(N,)`, their probabilities `(N, 6)`, and the SHA-256 of the prediction
        files that were read by `EXPERIMENT/FOLD/VIEW`.

    Raises:
        NotReadyError: A view is not predicted.
        ChangedDataError: Predictions are missing, or of different slices.
    """
    ids: npt.NDArray[np.object_] | None = None
    members: dict[int, FloatArray] = {}
    files: dict[str, str] = {}
    for place, experiment in source.experiments.items():
        stored = project.store.predictions(experiment.number, role=ROLE, version_id=data.version.id)
        views = views_of(experiment, source.tta)
        found, members[place] = read_fold(project.workspace, _require(stored, experiment, fold), fold, views)
        files |= {f"{p.experiment}/{p.fold}/{p.view}": p.digest for p in stored if p.fold == fold and p.view in views}
        if ids is not None and not np.array_equal(ids, found):
            raise ChangedDataError(
                f"The stored predictions of fold {fold} are of different slices of {data.version.dataset}.",
                "Remove the evaluation files of this dataset from the folders of the experiments.",
            )
        ids = found
    assert ids is not None  # a source has an experiment
    if source.blends is None:
        return ids, members[0], files
    rows = pd.Index(data.slices["slice_id"]).get_indexer(pd.Index(ids))
    return ids, source.blends[fold].apply(members, SeriesNeighbours.of(data.slices.iloc[rows])), files


def pseudo_labels(
    project: "Project", source: PseudoSource, data: "LoadedDataset", rule: LabelRule
) -> tuple[FoldLabels, dict[str, str]]:
    """Return the labels of every fold of `source` for `data`, and the prediction files behind them by name."""
    by_fold, files = {}, dict[str, str]()
    for fold in source.folds:
        ids, p, read = predicted_by_fold(project, source, data, fold)
        kept = rule.kept(p)
        by_fold[fold] = ids[kept], rule.labels(p[kept])
        files |= read
    return FoldLabels.of(by_fold), files


def count_labels(labels: FoldLabels, folds: Sequence[int]) -> list[dict[str, Any]]:
    """Return of each fold: `fold`, the number of labelled `slices`, and of `positive` and `negative` ones per label."""
    counts = []
    for fold in folds:
        part = labels.table[labels.table["fold"] == fold]
        positive = {label: int((part[label] >= POSITIVE).sum()) for label in (*SUBTYPES, ANY)}
        negative = {label: int((part[label] < POSITIVE).sum()) for label in (*SUBTYPES, ANY)}
        counts.append({"fold": fold, "slices": len(part), "positive": positive, "negative": negative})
    return counts


def _require(stored: "list[Prediction]", experiment: "Experiment", fold: int) -> "list[Prediction]":
    if not any(p.fold == fold for p in stored):
        raise ChangedDataError(
            f"The predictions of fold {fold} of experiment {experiment.number} are gone.",
            "Create the labels again with `ichx data pseudo`, which predicts what is missing.",
        )
    return stored
