"""Scores of subgroups: does a model hold for each scanner, kernel, age band?

The groups are those of `ichx.datasets.subgroups`. Groups differ in prevalence and difficulty, so their log losses are
not comparable to each other; the AUC depends on neither the prevalence nor the calibration.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.datasets.dataset import load_version
from ichx.datasets.study_labels import has_study_labels, study_truth
from ichx.datasets.subgroups import UNKNOWN, group_names, reported_fields
from ichx.errors import InvalidInputError
from ichx.evaluation.bootstrap import Interval, label_intervals, loss_interval
from ichx.evaluation.choices import Average, Pooling, Tta
from ichx.evaluation.metric import FloatArray
from ichx.evaluation.oof import OofTable, read_oof
from ichx.evaluation.patient_sums import DRAWS
from ichx.evaluation.scores import checked, pool_studies, positive
from ichx.labels import LABELS

if TYPE_CHECKING:
    from ichx.project import Project

MAX_GROUPS: Final = 200
"""Groups of a field; a field with more is no grouping."""

Unit = Literal["slice", "study"]


@dataclass(frozen=True)
class Predicted:
    """Predictions with what groups them: one row per slice."""

    slices: pd.DataFrame
    """Rows of a catalog, `(N,)`."""
    labels: FloatArray
    """`(N, 6)`"""
    probabilities: FloatArray
    """`(N, 6)`"""
    study_probabilities: FloatArray | None = None
    """`(N, 6)`: predicted probabilities of each slice's study, for the pooling `learnt`."""

    @property
    def labels_to_pool(self) -> FloatArray:
        """The labels `(N, 6)` whose maximum over a study is the study's label."""
        return study_truth(self.slices) if has_study_labels(self.slices) else self.labels


@dataclass(frozen=True)
class Subgroup:
    """Scores of one group."""

    name: str
    rows: int
    """Slices or studies with a known label."""
    patients: int
    """That they are of."""
    positives: int
    """Rows with the label."""
    log_loss: Interval
    """Weighted over all labels."""
    auc: Interval
    """Of the label."""
    average_precision: Interval
    """Of the label. It grows with the share of positives."""

    @property
    def small(self) -> bool:
        """Whether the group has too few patients for an interval of its AUC."""
        return self.auc.low is None


@dataclass(frozen=True)
class SubgroupScores:
    """Scores of the groups by one field."""

    field: str
    label: str
    unit: Unit
    groups: tuple[Subgroup, ...]
    """The most frequent group first, the unknown one last."""

    @property
    def worst(self) -> Subgroup | None:
        """The group with the lowest AUC among those that are large enough; None below two of them."""
        return worst_of(self.groups)


def worst_of(groups: Iterable[Subgroup | None]) -> Subgroup | None:
    """Return the group with the lowest AUC among those that are large enough; None below two of them."""
    large = [group for group in groups if group is not None and not group.small and group.auc.value is not None]
    return min(large, key=lambda group: group.auc.value or 0.0) if len(large) > 1 else None


def oof_predictions(project: "Project", number: int, *, tta: Tta = "none", average: Average = "logit") -> Predicted:
    """Return the OOF predictions of experiment `number`. Raises like `ichx.evaluation.oof.read_oof`."""
    experiment = project.store.experiment(number)
    table = read_oof(project, experiment, tta, average=average)
    slices = load_version(project.workspace, project.store.version_by_id(experiment.version_id)).slices
    return predicted_of(table, slices)


def predicted_of(table: OofTable, slices: pd.DataFrame) -> Predicted:
    """Return the predictions of `table` with their rows of `slices`, the usable slices of the dataset version."""
    rows = slices.iloc[pd.Index(slices["slice_id"]).get_indexer(pd.Index(table.slice_ids))]
    return Predicted(rows, table.labels, table.probabilities, table.study_probabilities)


def all_subgroup_scores(
    predicted: Predicted, fields: Sequence[str], labels: Sequence[str] = ("any",), pooling: Pooling = "max"
) -> list[SubgroupScores]:
    """Return the scores of slices and of studies by each field and label; see `subgroup_scores`."""
    only_studies = np.isnan(predicted.labels).all() and not np.isnan(predicted.labels_to_pool).all()
    units: tuple[Unit, ...] = ("study",) if only_studies else ("slice", "study")
    return [
        scores
        for label in labels
        for unit in units
        for scores in subgroup_scores(predicted, fields, label=label, unit=unit, pooling=pooling)
    ]


@dataclass(frozen=True)
class ReportedGroup:
    """A group with its scores of slices and of studies, as a row of a report."""

    slices: Subgroup
    studies: Subgroup | None
    """None if none of its slices is the first one of a study."""


def reported_subgroups(predicted: Predicted, pooling: Pooling = "max") -> dict[str, list[ReportedGroup]]:
    """Return the groups of the fields that a report shows, the most frequent first, with scores of `any`.

    A field with more than `MAX_GROUPS` groups is left out.
    """
    found: dict[str, list[ReportedGroup]] = {}
    for field in reported_fields(predicted.slices):
        if len(pd.unique(group_names(predicted.slices, field))) > MAX_GROUPS:
            continue
        (of_slices,) = subgroup_scores(predicted, [field], unit="slice", pooling=pooling)
        (of_studies,) = subgroup_scores(predicted, [field], unit="study", pooling=pooling)
        studies = {group.name: group for group in of_studies.groups}
        found[field] = [ReportedGroup(group, studies.get(group.name)) for group in of_slices.groups]
    return found


def subgroup_scores(
    predicted: Predicted,
    fields: Sequence[str],
    *,
    label: str = "any",
    unit: Unit = "slice",
    pooling: Pooling = "max",
    draws: int = DRAWS,
) -> list[SubgroupScores]:
    """Return the scores of each group by each of `fields`.

    Args:
        predicted: The predictions.
        fields: Keys of `ichx.datasets.subgroups.FIELDS`.
        label: The label of AUC and average precision.
        unit: What is scored. A study belongs to the group of its first slice.
        pooling: How slices are pooled into studies.
        draws: Draws of patients for the intervals.

    Raises:
        InvalidInputError: There is no such label or field, or a field has more than `MAX_GROUPS` groups.
        NotReadyError: No slice has a value of a field.
    """
    if label not in LABELS:
        raise InvalidInputError(f"Unknown label: {label!r}.", f"Use one of {', '.join(LABELS)}.")
    names = {field: group_names(predicted.slices, field) for field in dict.fromkeys(fields)}
    for field, of_slices in names.items():
        if (count := len(pd.unique(of_slices))) > MAX_GROUPS:
            raise InvalidInputError(f"The field {field!r} has {count:,} values.", f"Use one with at most {MAX_GROUPS}.")
    labels = predicted.labels_to_pool if unit == "study" else predicted.labels
    y, p = checked(labels, predicted.probabilities)
    patients = predicted.slices["patient"].to_numpy(object)
    if unit == "study":
        studies = predicted.slices["study"].to_numpy(object)
        pooled = pool_studies(y, p, studies, pooling, predicted.study_probabilities)
        y, p, patients = pooled.labels, pooled.probabilities, patients[pooled.row]
        names = {field: found[pooled.row] for field, found in names.items()}
    k = LABELS.index(label)
    codes = pd.factorize(patients)[0]
    return [
        SubgroupScores(
            field,
            label,
            unit,
            tuple(_score(name, y[rows], p[rows], codes[rows], label=k, draws=draws) for name, rows in _groups(found)),
        )
        for field, found in names.items()
    ]


def _groups(names: npt.NDArray[np.object_]) -> list[tuple[str, npt.NDArray[np.int64]]]:
    codes, found = pd.factorize(names)
    order = np.argsort(codes, kind="stable")
    ends = np.cumsum(np.bincount(codes, minlength=len(found)))
    groups = [(str(name), np.sort(rows)) for name, rows in zip(found, np.split(order, ends[:-1]), strict=True)]
    return sorted(groups, key=lambda group: (group[0] == UNKNOWN, -len(group[1]), group[0]))


def _score(
    name: str, y: FloatArray, p: FloatArray, patients: npt.NDArray[np.int64], *, label: int, draws: int
) -> Subgroup:
    """Return the scores of the rows of a group; y and p are `(N, 6)`."""
    known = ~np.isnan(y[:, label])
    truth = positive(y[known, label])
    ranked = label_intervals(truth, p[known, label], patients[known], draws=draws)
    return Subgroup(
        name=name,
        rows=int(known.sum()),
        patients=len(np.unique(patients[known])),
        positives=int(truth.sum()),
        log_loss=loss_interval(y, p, patients, draws=draws),
        auc=ranked["auc"],
        average_precision=ranked["average_precision"],
    )
