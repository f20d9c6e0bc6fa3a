"""OOF predictions of an experiment or ensemble, and their digest."""

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from ichx.evaluation.choices import check_average, check_tta
from ichx.evaluation.ensemble_oof import read_ensemble_oof
from ichx.evaluation.oof import OofTable, read_oof
from ichx.evaluation.subject import Subject

if TYPE_CHECKING:
    from ichx.project import Project


def subject_oof(project: "Project", subject: Subject, tta: str, average: str) -> OofTable:
    """Return the OOF predictions of an experiment, or those that the creation of an ensemble stored.

    Raises like `read_oof` and `read_ensemble_oof`.
    """
    if not subject.ensemble:
        experiment = project.store.experiment(subject.number)
        return read_oof(project, experiment, check_tta(tta), average=check_average(average))
    return read_ensemble_oof(project, project.store.ensemble(subject.number)).oof


def oof_digest(project: "Project", subject: Subject, tta: str, average: str) -> str:
    """Return 16 hex digits of the OOF predictions and labels of `subject`."""
    return table_digest(subject_oof(project, subject, tta, average))


def table_digest(table: OofTable) -> str:
    """Return 16 hex digits of OOF predictions and labels."""
    digest = hashlib.sha256("\n".join(map(str, table.slice_ids)).encode())
    for values in (table.labels, table.probabilities):
        digest.update(np.ascontiguousarray(values, dtype="<f4").tobytes())
    return digest.hexdigest()[:16]
