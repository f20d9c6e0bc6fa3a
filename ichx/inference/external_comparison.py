"""Comparisons on a dataset that nobody trained on: two models with each other, and a model with several readers."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ichx.datasets.reader_labels import read_reader_labels
from ichx.evaluation.choices import Pooling
from ichx.evaluation.paired_scores import PairedScores, call_differences, paired_scores
from ichx.evaluation.reader_agreement import ReaderComparison, compare_readers
from ichx.evaluation.scores import pool_studies
from ichx.evaluation.subgroup_scores import Predicted
from ichx.evaluation.threshold_file import ChosenThreshold, applicable, stored_thresholds
from ichx.inference.evaluate import EvaluatedSlices, evaluate_slices
from ichx.inference.overlap import OverlapChoice
from ichx.inference.ready_model import ReadyModel
from ichx.inference.recalibrate import subject_of
from ichx.labels import LABELS

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.training.callbacks import Callbacks


def compare_models(
    project: "Project",
    first: tuple[ReadyModel, EvaluatedSlices],
    second: ReadyModel,
    pooling: Pooling,
    *,
    callbacks: "Callbacks",
    overlap: OverlapChoice = "refuse",
) -> PairedScores:
    """Return the paired differences of two models on the slices that both predict.

    Args:
        project: The open project.
        first: A model and what it predicts for a dataset.
        second: The other model. Raises like `evaluate_slices`, e.g. if it was trained on patients of the dataset.
        pooling: How slices are pooled to studies.
        callbacks: Receives progress and notes.
        overlap: What happens to patients that the other model's dataset has, too.
    """
    model, slices = first
    dataset = slices.data.version.dataset
    evaluation, others = evaluate_slices(
        project, second, dataset, callbacks=callbacks, pooling=pooling, overlap=overlap
    )
    _, one, two = np.intersect1d(slices.rows, others.rows, return_indices=True)
    found = paired_scores(_take(slices.predicted, one), _take(others.predicted, two), pooling)
    fitting = [
        applicable(
            stored_thresholds(project, subject_of(of)), tta=of.options.tta, average=of.options.average, pooling=pooling
        )
        for of in (model, second)
    ]
    calls = call_differences((_take(slices.called, one), fitting[0]), (_take(others.called, two), fitting[1]))
    return replace(found, calls=calls, marks=evaluation.marks)


def compare_with_readers(
    project: "Project", slices: EvaluatedSlices, thresholds: Sequence[ChosenThreshold]
) -> list[ReaderComparison]:
    """Return the agreement of the dataset's readers, and the model's calls of studies against each of them.

    Args:
        project: The open project.
        slices: What the model predicts.
        thresholds: The stored ones that fit these predictions; those of slices are not used.

    Returns:
        One comparison per label that was read; none if the dataset has no labels of several readers.
    """
    read = read_reader_labels(project.workspace, slices.data.version)
    if read is None:
        return []
    called, of = {}, slices.called
    studies, patients = (of.slices[name].to_numpy(object) for name in ("study", "patient"))
    rows = pool_studies(of.labels_to_pool, of.probabilities, studies).row
    for one in thresholds:
        if one.request.unit == "study":
            pooled = pool_studies(
                of.labels_to_pool, of.probabilities, studies, one.request.pooling, of.study_probabilities
            )
            p = pooled.probabilities[:, LABELS.index(one.request.label)]
            called[one.request.label] = (one.threshold, p >= one.threshold)
    return compare_readers(read, studies[rows], patients[rows], called)


def _take(predicted: Predicted, rows: "np.typing.NDArray[np.int64]") -> Predicted:
    learnt = predicted.study_probabilities
    return Predicted(
        predicted.slices.iloc[rows],
        predicted.labels[rows],
        predicted.probabilities[rows],
        None if learnt is None else learnt[rows],
    )
