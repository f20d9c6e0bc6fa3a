"""Comparison of two experiments' OOF scores, paired over the slices that both predict.

What else differs between experiments is in `ichx exp diff`; the interval is in `ichx.evaluation.bootstrap`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.errors import ConflictError, NotReadyError
from ichx.evaluation.bootstrap import ScoreDifference, paired_difference
from ichx.evaluation.choices import Tta
from ichx.evaluation.metric import FloatArray, score, weighted_row_losses
from ichx.evaluation.oof import OofTable, read_oof
from ichx.evaluation.series_neighbours import IntArray
from ichx.labels import LABELS
from ichx.text import format_count

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import Experiment

SHOWN = 10
"""Number of slices in `ScoreComparison.disagreements`."""


@dataclass(frozen=True)
class Disagreement:
    """A slice on which the weighted losses of two experiments differ most."""

    slice_id: str
    positive: tuple[str, ...]
    """Its positive labels."""
    first_loss: float
    second_loss: float
    first: tuple[float, ...]
    """Probabilities of the first experiment, `(6,)`."""
    second: tuple[float, ...]


@dataclass(frozen=True)
class ScoreComparison:
    """Scores on the slices that both experiments predict."""

    tta: Tta
    slices: int
    first: float
    second: float
    difference: ScoreDifference
    """First less second: negative if the first is better."""
    disagreements: tuple[Disagreement, ...]
    notes: tuple[str, ...]
    """Which slices do not count, and whether the folds differ."""


def compare_scores(
    project: "Project", first: "Experiment", second: "Experiment", *, tta: Tta = "none"
) -> ScoreComparison:
    """Return the paired comparison of two experiments' OOF predictions.

    Args:
        project: The open project.
        first: An experiment.
        second: An experiment on the same slices and labels.
        tta: Test-time augmentation, whose views are averaged.

    Raises:
        ConflictError: The slices or labels differ.
        NotReadyError: The experiments have no finished fold in common.
        IchxError: OOF predictions are missing, damaged or not out of fold (see `read_oof`).
    """
    if first.label_digest != second.label_digest:
        raise ConflictError(
            f"Experiments {first.number} and {second.number} have different slices or labels: "
            f"{first.dataset} v{first.dataset_version} and {second.dataset} v{second.dataset_version}.",
            "Compare experiments on the same dataset version.",
        )
    one, two = (read_oof(project, e, tta) for e in (first, second))
    rows, others = common_rows(one, two)
    if not len(rows):
        raise NotReadyError(
            f"Experiments {first.number} and {second.number} have no finished fold in common.",
            f"Run them: `ichx run {first.number}`, `ichx run {second.number}`.",
        )
    labels, p, q = one.labels[rows], one.probabilities[rows], two.probabilities[others]
    notes = []
    for e, table, other in ((first, one, second), (second, two, first)):
        if left_out := len(table.slice_ids) - len(rows):
            what = f"{format_count(left_out, 'slice')} of experiment {e.number}"
            notes.append(f"Without {what}, which experiment {other.number} does not predict.")
    if first.subset != second.subset:
        shares = [f"{100 * e.subset:.3g} % (experiment {e.number})" for e in (first, second)]
        notes.append(f"Not a fair comparison: trained on {shares[0]} and {shares[1]} of the patients.")
    if first.fold_digest != second.fold_digest:
        notes.append("The folds differ: each slice is out of fold for both, but they trained on different patients.")
    return ScoreComparison(
        tta=tta,
        slices=len(rows),
        first=score(labels, p),
        second=score(labels, q),
        difference=paired_difference(labels, p, q, one.patients[rows], ranked=True),
        disagreements=_disagreements(one.slice_ids[rows], labels, p, q),
        notes=tuple(notes),
    )


def common_rows(one: OofTable, two: OofTable) -> tuple[IntArray, IntArray]:
    """Return the rows of `one` and of `two` that are the same slices, in the order of `one`."""
    other = pd.Index(two.slice_ids).get_indexer(pd.Index(one.slice_ids))
    rows = np.flatnonzero(other >= 0)
    return rows, other[rows]


def _disagreements(
    slice_ids: npt.NDArray[np.object_], labels: FloatArray, p: FloatArray, q: FloatArray
) -> tuple[Disagreement, ...]:
    first, second = weighted_row_losses(labels, p), weighted_row_losses(labels, q)
    largest = np.argsort(-np.abs(first - second), kind="stable")[:SHOWN]
    return tuple(
        Disagreement(
            slice_id=str(slice_ids[row]),
            positive=tuple(label for k, label in enumerate(LABELS) if labels[row, k] > 0.5),
            first_loss=float(first[row]),
            second_loss=float(second[row]),
            first=tuple(p[row].tolist()),
            second=tuple(q[row].tolist()),
        )
        for row in largest
        if first[row] != second[row]
    )
