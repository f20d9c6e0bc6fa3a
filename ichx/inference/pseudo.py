"""Creates datasets with pseudo-labels: an unlabelled dataset, labelled for each fold by that fold's networks.

The labels follow from stored predictions in `ichx.evaluation.pseudo_labels`. Predictions are computed once and stored,
so an interrupted command resumes, and other thresholds need no second prediction.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from ichx import __version__
from ichx.datasets.dataset import LoadedDataset, load_folds, load_version
from ichx.datasets.fold_labels import TRANSDUCTIVE
from ichx.datasets.fold_masks import MASKS
from ichx.datasets.fold_numbers import TRAIN_ONLY
from ichx.datasets.new_version import check_name
from ichx.datasets.pseudo_parts import labelled_parts
from ichx.datasets.shared_patients import of_shared_patients
from ichx.errors import ConflictError, InvalidInputError, NotReadyError
from ichx.evaluation.choices import views_of
from ichx.evaluation.pseudo_blends import blends_without_each_fold
from ichx.evaluation.pseudo_labels import ROLE, LabelRule, count_labels, find_source, pseudo_labels
from ichx.evaluation.pseudo_masks import MaskRule
from ichx.evaluation.subject import Subject
from ichx.inference.member_predictions import predict_dataset_by_fold
from ichx.inference.pseudo_masks import PredictedMasks, mask_members, predict_masks, requested_masks
from ichx.inference.pseudo_request import parse_source
from ichx.inference.pseudo_version import CreatedLabels, store_labels, stored_masks
from ichx.inference.ready_model import ReadyModel, ready_model
from ichx.inference.trained import InferenceOptions
from ichx.labels import LABELS, PSEUDO
from ichx.store import DatasetVersion
from ichx.text import format_count, format_examples

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.training.callbacks import Callbacks


@dataclass(frozen=True)
class PseudoRequest:
    """Which pseudo-labels to create."""

    name: str
    """Name of the new dataset; a known one gets a new version."""
    of: str
    """The dataset whose slices are labelled; its own labels are not read."""
    by: str
    """`ensemble:3`, or the number of an experiment."""
    rule: LabelRule
    transductive: bool = False
    """Allow patients of test sets, which marks every later score."""
    options: InferenceOptions = field(default_factory=InferenceOptions)
    masks: MaskRule | None = None
    """The pixels that are labelled, too; None for no masks."""


@dataclass(frozen=True)
class PseudoReport:
    """The result of `create_pseudo_labels`."""

    version: DatasetVersion
    created: bool
    """False if the newest version has these labels already; `version` is that one then."""
    folds: tuple[dict[str, Any], ...]
    """See `ichx.evaluation.pseudo_labels.count_labels`."""
    seconds: float
    """Duration of the predictions."""
    warnings: tuple[str, ...]


def create_pseudo_labels(project: "Project", request: PseudoRequest, *, callbacks: "Callbacks") -> PseudoReport:
    """Predict a dataset with each fold of an experiment or an ensemble, and store the labels as a dataset version.

    Args:
        project: The open project.
        request: What to label, and how.
        callbacks: Receives progress and notes.

    Raises:
        InvalidInputError: A name or a number is invalid, or no slice is kept.
        NotFoundError: A dataset, an experiment or an ensemble does not exist.
        NotReadyError: A fold is not finished.
        UnsupportedError: Masks are requested, and no network predicts some.
        ConflictError: The name is taken, or patients are in the labelled data or in a test set.
    """
    _check_name(project, request)
    model = _ready(project, request, callbacks.note)
    if request.masks is not None:
        mask_members(project, model)  # raises before anything is predicted
    source = find_source(
        project,
        *parse_source(request.by),
        tta=model.options.tta,
        blends=lambda fitted, members: blends_without_each_fold(project, fitted, members, callbacks.note),
    )
    data = load_version(project.workspace, project.store.version(request.of))
    _check_labelled(project, model, data)
    tested = _tested(project, data)
    if tested and not request.transductive:
        listed = "; ".join(f"{format_count(count, 'patient')} of {name}" for name, count in tested.items())
        raise ConflictError(
            f"{request.of} contains patients that are only for evaluation: {listed}. A model that trains on their "
            "images is not tested on unseen patients.",
            "Add the dataset without them, or use --transductive, which marks every later score.",
        )
    started = time.monotonic()
    callbacks.note(_cost(project, model, data))
    for member in model.members.values():
        predict_dataset_by_fold(project, member, data, model.options, callbacks)
    seconds = time.monotonic() - started
    labels, files = pseudo_labels(project, source, data, request.rule)
    counts = count_labels(labels, source.folds)
    warnings = _check_kept(request, counts)
    if request.transductive and not tested:
        warnings.append("No patient is of a test set: --transductive has no effect, and no score is marked.")
    networks = source.networks(project)
    of, shown = data.version, model.shown.experiment
    trained = project.store.version_by_id(shown.version_id)
    origin = {
        "of": {"dataset": of.dataset, "version": of.number, "digest": of.digest},
        "by": {
            "kind": source.kind,
            "number": source.number,
            "name": source.name,
            "digest": source.digest(networks),
            "marks": list(model.marks),
            "experiments": [experiment.number for experiment in source.experiments.values()],
            "networks": networks,
        },
        "trained_on": {
            "dataset": shown.dataset,
            "version": shown.dataset_version,
            "labelled": "+".join(labelled_parts(trained)),
            "fold_set": shown.fold_set,
            "fold_digest": shown.fold_digest,
            "label_digest": shown.label_digest,
        },
        "folds": shown.folds,
        "tta": source.tta,
        "average": source.average,
        "hard": request.rule.hard,
        "keep": request.rule.keep.text if request.rule.keep else None,
        "digest": labels.digest,
        "predictions": files,
        "counts": counts,
        "tested": tested,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "ichx": __version__,
    }
    predicted = None
    if request.masks is not None:
        started = time.monotonic()
        predicted = _masks(project, request, model, data, CreatedLabels(labels, None, origin), callbacks)
        origin |= {MASKS: predicted.origin}
        warnings += predicted.warnings
        seconds += time.monotonic() - started
    inherited = bool(trained.summary.get(TRANSDUCTIVE))
    made = CreatedLabels(
        labels, source.blends, origin, bool(tested) or inherited, predicted.by_fold if predicted else {}
    )
    version, created = store_labels(project, request.name, data, made)
    if predicted is not None:
        predicted.remove_parts()
    return PseudoReport(version, created, tuple(counts), seconds, tuple(warnings))


def _masks(
    project: "Project",
    request: PseudoRequest,
    model: ReadyModel,
    data: LoadedDataset,
    made: CreatedLabels,
    callbacks: "Callbacks",
) -> PredictedMasks:
    """Return masks for the labels in `made`: those of the newest version if they are the same, or new ones."""
    assert request.masks is not None
    requested = requested_masks(mask_members(project, model), model, request.masks)
    stored = stored_masks(project, request.name, made.origin, requested)
    if stored is not None:
        return PredictedMasks(*stored)
    return predict_masks(project, model, data, made.labels, request.masks, callbacks)


def _check_name(project: "Project", request: PseudoRequest) -> None:
    check_name(request.name, "a dataset")
    if request.name == request.of:
        raise ConflictError(f"The labels of {request.of} need a name of their own.", "Choose another name.")
    for dataset in project.store.datasets():
        if dataset.name == request.name and PSEUDO not in project.store.version(dataset.name).summary:
            raise ConflictError(f"{request.name} exists and has no pseudo-labels.", "Choose another name.")
    if PSEUDO in project.store.version(request.of).summary:
        origin = project.store.version(request.of).summary[PSEUDO]["of"]["dataset"]
        raise ConflictError(f"{request.of} consists of pseudo-labels of {origin}.", f"Use --of {origin}.")


def _ready(project: "Project", request: PseudoRequest, note: Callable[[str], None]) -> ReadyModel:
    """Return the model that predicts, with all of its folds."""
    kind, number = parse_source(request.by)
    subject = f"{kind.capitalize()} {number}"
    model = ready_model(project, Subject(number, kind == "ensemble"), request.options, note)
    experiments = [trained.experiment for trained in model.members.values()]
    missing = sorted(set(range(experiments[0].folds)) - set(model.folds))
    if missing:
        remedy = "Finish the folds of its members and blend again." if kind == "ensemble" else f"`ichx run {number}`."
        raise NotReadyError(
            f"{subject} has no networks of fold {', '.join(map(str, missing))}, whose training needs labels, too.",
            f"Finish them: {remedy}" if kind == "experiment" else remedy,
        )
    return model


def _check_labelled(project: "Project", model: ReadyModel, data: LoadedDataset) -> None:
    """Raise `ConflictError` if `data` has patients of the labelled data on which the networks were trained."""
    experiment = model.shown.experiment
    version = project.store.version_by_id(experiment.version_id)
    own = load_version(project.workspace, version)
    folds = load_folds(project.workspace, version, version.fold_set_of(experiment), own.slices)
    labelled = own.slices[folds != TRAIN_ONLY]
    shared = of_shared_patients(project.workspace, data.version, data.slices, version, labelled)
    if shared.any():
        names = np.unique(data.slices["patient"].to_numpy(object)[shared])
        raise ConflictError(
            f"{data.version.dataset} and {version.dataset}, the labelled data of the networks, have "
            f"{format_count(len(names), 'patient')} in common{format_examples(map(str, names), len(names))}. A fold "
            "would train on patients that it validates on.",
            "Add the dataset without them.",
        )


def _tested(project: "Project", data: LoadedDataset) -> dict[str, int]:
    """Return the number of patients that `data` shares with each dataset that is only for evaluation."""
    found = {}
    for dataset in project.store.datasets():
        version = project.store.version(dataset.name)
        evaluated = dataset.trainable and not version.folds
        if (dataset.test_of is None and not evaluated) or PSEUDO in version.summary:
            continue
        other = load_version(project.workspace, version)
        shared = of_shared_patients(project.workspace, data.version, data.slices, version, other.slices)
        if shared.any():
            found[dataset.name] = int(data.slices["patient"][shared].nunique())
    return found


def _cost(project: "Project", model: ReadyModel, data: LoadedDataset) -> str:
    """Return how many predictions are needed, and how many of them are stored."""
    todo = done = 0
    for trained in model.members.values():
        views = views_of(trained.experiment, model.options.tta)
        number, version = trained.experiment.number, data.version.id
        stored = {(p.fold, p.view) for p in project.store.predictions(number, role=ROLE, version_id=version)}
        todo += len(views) * len(trained.weights)
        done += len(stored & {(fold, view) for fold in trained.weights for view in views})
    networks = sum(len(trained.weights) for trained in model.members.values())
    what = f"{format_count(len(data.slices), 'slice')} with {format_count(networks, 'network')}"
    return f"predicts {what}, {format_count(todo * len(data.slices), 'prediction')}; {done} of {todo} parts are stored"


def _check_kept(request: PseudoRequest, counts: list[dict[str, Any]]) -> list[str]:
    """Return warnings about what is kept; raise `InvalidInputError` if that is nothing."""
    rule = request.rule.keep.text if request.rule.keep else ""
    if not any(count["slices"] for count in counts):
        raise InvalidInputError(f"No slice of {request.of} meets {rule!r} in any fold.", "Use other thresholds.")
    warnings = []
    empty = [str(count["fold"]) for count in counts if not count["slices"]]
    if empty:
        warnings.append(f"Fold {', '.join(empty)} has no labels: no slice meets {rule!r} there.")
    for what in ("positive", "negative"):
        lacking = [label for label in LABELS if not any(count[what][label] for count in counts)]
        if lacking:
            warnings.append(f"No kept slice is {what} for {', '.join(lacking)}.")
    return warnings
