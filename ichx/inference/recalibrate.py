"""Recalibration of an experiment or ensemble on a labelled local dataset, and the use of a stored one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from ichx.datasets.dataset import LoadedDataset, load_version
from ichx.datasets.overlap import load_identity, matching_patients
from ichx.errors import ConflictError, NotFoundError, NotReadyError
from ichx.evaluation.evaluation_count import record_evaluation, rows_digest
from ichx.evaluation.recalibration import Method, check_sample, fit_recalibration
from ichx.evaluation.recalibration_file import (
    Recalibration,
    check_applicable,
    check_name,
    digest_of,
    find_recalibration,
    store_recalibration,
)
from ichx.evaluation.scored_rows import Truth
from ichx.evaluation.subgroup_scores import Unit
from ichx.evaluation.subject import Subject
from ichx.evaluation.subject_oof import oof_digest
from ichx.inference.evaluate import predict_labelled
from ichx.inference.ready_model import ReadyModel
from ichx.store import EvaluationDraft
from ichx.text import format_count

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.training.callbacks import Callbacks


@dataclass(frozen=True)
class RecalibrationRequest:
    """What to fit."""

    dataset: str
    """A labelled dataset without patients of the experiment's dataset: the local sample."""
    name: str | None = None
    """None: that of the dataset."""
    labels: Sequence[str] | None = None
    """None: all that can be."""
    method: Method = "auto"
    unit: Unit | None = None
    """None: slices, or studies if only labels of studies are known."""


def recalibrate(
    project: "Project", model: ReadyModel, request: RecalibrationRequest, callbacks: "Callbacks"
) -> tuple[Recalibration, Recalibration | None]:
    """Fit a recalibration of `model` on a dataset, judge it out of sample, and store it.

    Returns:
        The recalibration, and the one of the same name that it replaces.

    Raises:
        InvalidInputError: The name, a label or the method is invalid.
        NotReadyError: The sample has no labels, too few patients, or too few of a class.
        ConflictError: The sample shares patients with the experiment's dataset.
    """
    name = request.name or request.dataset
    check_name(name)
    subject = subject_of(model)
    version = project.store.version(request.dataset)
    if version.label_digest is None:
        raise NotReadyError(f"{request.dataset} has no labels.", "Use a labelled sample.")
    check_sample(version.patients)  # before predicting it
    found = predict_labelled(project, model, request.dataset, callbacks)
    unit = request.unit or Truth.of(found.slices).unit
    fitted = fit_recalibration(found.predicted, request.labels, request.method, unit)
    ids, values = found.slices["slice_id"], np.nan_to_num(found.labels_to_pool, nan=-1)
    sample = rows_digest(ids, values)[:8] + rows_digest(ids, found.probabilities)[:8]
    made = Recalibration(
        name=name,
        dataset=request.dataset,
        dataset_version=found.data.version.number,
        tta=model.options.tta,
        average=model.options.average,
        folds=model.folds,
        fitted=fitted,
        networks=oof_digest(project, subject, model.options.tta, model.options.average),
        sample=sample,
        created=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
    )
    made = replace(made, digest=digest_of(made))
    replaced = store_recalibration(project, subject, made)
    record_evaluation(
        project,
        EvaluationDraft(
            "recalibrate",
            rows_digest(ids, found.labels_to_pool),
            rows_digest(ids, found.probabilities),
            Truth.of(found.slices).scored(found.probabilities).score,
            dataset=request.dataset,
            version=found.data.version.number,
            experiment=None if subject.ensemble else subject.number,
            ensemble=subject.number if subject.ensemble else None,
        ),
    )
    return made, replaced


def subject_of(model: ReadyModel) -> Subject:
    """Return the experiment or ensemble that `model` is."""
    number = model.shown.experiment.number if model.ensemble is None else model.ensemble
    return Subject(number, model.ensemble is not None)


def recalibrated_model(project: "Project", model: ReadyModel, name: str, dataset: str | None = None) -> ReadyModel:
    """Return `model` with its stored recalibration `name`, which is applied without refitting.

    Args:
        project: The open project.
        model: The model.
        name: Name of the recalibration.
        dataset: The dataset to be evaluated, which must not have patients of the sample; None for files.

    Raises:
        NotFoundError: There is no such recalibration.
        ConflictError: It was fitted for other views or folds, or on patients of `dataset`.
        ChangedDataError: The networks have changed since.
    """
    subject = subject_of(model)
    stored = find_recalibration(project, subject, name)
    options = model.options
    check_applicable(project, subject, stored, tta=options.tta, average=options.average, folds=model.folds)
    if dataset is not None:
        _refuse_sample(project, stored, load_version(project.workspace, project.store.version(dataset)))
    return replace(model, recalibration=stored)


def _refuse_sample(project: "Project", stored: Recalibration, data: LoadedDataset) -> None:
    """Raise `ConflictError` if `data` has patients of the sample that `stored` was fitted on."""
    remedy = "Evaluate on other patients. `ichx recalibrate` shows what the recalibration does out of sample."
    if data.version.dataset == stored.dataset:
        raise ConflictError(
            f"The recalibration {stored.name!r} was fitted on {stored.dataset}: its scores are in-sample.",
            remedy,
        )
    try:
        sample = load_version(project.workspace, project.store.version(stored.dataset, stored.dataset_version))
    except NotFoundError:
        project.warn(
            f"The recalibration {stored.name!r} was fitted on {stored.dataset} version {stored.dataset_version}, which "
            f"is not in this workspace: whether {data.version.dataset} has patients of it is unknown."
        )
        return
    ids, known = (load_identity(project.workspace, of.version) for of in (data, sample))
    shared = matching_patients(ids, known)["patient"].unique()
    if len(shared):
        count = format_count(len(shared), "patient")
        raise ConflictError(
            f"{data.version.dataset} and {stored.dataset}, on which the recalibration {stored.name!r} was fitted, have "
            f"{count} in common.",
            remedy,
        )
