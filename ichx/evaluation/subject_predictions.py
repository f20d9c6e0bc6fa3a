"""OOF predictions of an experiment or ensemble with the rows of the catalog, for subgroups and decision curves."""

from typing import TYPE_CHECKING

from ichx.datasets.dataset import load_version
from ichx.evaluation.oof import OofTable
from ichx.evaluation.subgroup_scores import Predicted, predicted_of
from ichx.evaluation.subject import Subject
from ichx.evaluation.subject_oof import subject_oof

if TYPE_CHECKING:
    from ichx.project import Project


def subject_predictions(project: "Project", subject: Subject, tta: str = "none", average: str = "logit") -> Predicted:
    """Return the OOF predictions of `subject`; an ensemble has its own views and average. Raises like `subject_oof`."""
    return rows_of_table(project, subject, subject_oof(project, subject, tta, average))


def rows_of_table(project: "Project", subject: Subject, table: OofTable) -> Predicted:
    """Return the OOF predictions in `table` of `subject` with their rows of the catalog."""
    store = project.store
    scored = store.ensemble(subject.number) if subject.ensemble else store.experiment(subject.number)
    return predicted_of(table, load_version(project.workspace, store.version_by_id(scored.version_id)).slices)
