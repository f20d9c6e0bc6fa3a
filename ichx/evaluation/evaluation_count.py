"""Counts how often the labels of a test set or external dataset were used to score or recalibrate predictions.

Each look at test labels invites a choice by them. `ichx data show` and model cards show the count.
"""

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ichx.evaluation.metric import FloatArray
from ichx.store import EvaluationCount, EvaluationDraft

if TYPE_CHECKING:
    from ichx.project import Project


def record_evaluation(project: "Project", draft: EvaluationDraft) -> None:
    """Record an evaluation; warn instead if the store can only be read."""
    if not project.store.is_writable:
        project.warn(f"The store {project.store.name} can only be read: this evaluation is not counted.")
        return
    project.store.add_evaluation(draft)


def count_evaluations(project: "Project", dataset: str, labels: str | None = None) -> EvaluationCount:
    """Return how often `dataset`, in any version, or labels with this digest were used to score predictions."""
    return EvaluationCount.of(project.store.evaluations(dataset, labels=labels))


def rows_digest(slice_ids: npt.ArrayLike, values: FloatArray) -> str:
    """Return the SHA-256 of slices and their six values, `(N, 6)`, whatever the order of the rows."""
    ids = np.asarray(slice_ids, dtype=object).astype(str)
    order = np.argsort(ids, kind="stable")
    digest = hashlib.sha256("\n".join(ids[order].tolist()).encode())
    digest.update(np.ascontiguousarray(np.asarray(values)[order], dtype="<f4").tobytes())
    return digest.hexdigest()
