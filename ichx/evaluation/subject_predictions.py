"""OOF predictions of an experiment or ensemble with the rows of the catalog, for subgroups and decision curves."""

from typing import TYPE_CHECKING

from ichx.datasets.dataset import load_version
from ichx.evaluation.operating_points import AppliedThreshold, ChosenThreshold, Subject, apply_thresholds, subject_oof
from ichx.evaluation.subgroup_scores import Predicted, predicted_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ichx.project import Project


def subject_predictions(project: "Project", subject: Subject, tta: str = "none", average: str = "logit") -> Predicted:
    """Return the OOF predictions of `subject`; an ensemble has its own views and average. Raises like `subject_oof`."""
    table = subject_oof(project, subject, tta, average)
    store = project.store
    scored = store.ensemble(subject.number) if subject.ensemble else store.experiment(subject.number)
    return predicted_of(table, load_version(project.workspace, store.version_by_id(scored.version_id)).slices)


def thresholds_at(
    project: "Project", subject: Subject, stored: "Iterable[ChosenThreshold]", prevalence: float
) -> list[AppliedThreshold]:
    """Return what stored thresholds do on the OOF predictions of `subject` at another prevalence."""
    found = []
    for one in stored:
        predicted = subject_predictions(project, subject, one.request.tta, one.request.average)
        found += apply_thresholds([one], predicted, prevalence)
    return found
