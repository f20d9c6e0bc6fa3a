"""Two experiments side by side: recipe values and pins that differ, and the paired difference of their OOF scores."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ichx.errors import IchxError
from ichx.evaluation.bootstrap import Difference, paired_difference
from ichx.evaluation.metric import FloatArray, row_losses, score
from ichx.evaluation.oof import TTA_VIEWS, OofTable, read_oof
from ichx.labels import LABEL_WEIGHTS, LABELS
from ichx.text import format_count

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import Experiment

SHOWN = 10
"""Slices of most disagreement that a comparison names."""


@dataclass(frozen=True)
class Disagreement:
    """A slice whose weighted loss differs most: the loss under each, and the probabilities (6,) of each."""

    slice_id: str
    positive: tuple[str, ...]
    first_loss: float
    second_loss: float
    first: tuple[float, ...]
    second: tuple[float, ...]


@dataclass(frozen=True)
class ScoreComparison:
    """Scores on the `slices` that both experiments predict; `difference` is the first's less the second's.

    A negative one favours the first. `notes` say what the slices are, where these are not all of both.
    """

    tta: str
    slices: int
    first: float
    second: float
    difference: Difference
    disagreements: tuple[Disagreement, ...]
    notes: tuple[str, ...]


def compare_scores(
    project: "Project", first: "Experiment", second: "Experiment", *, tta: str = "none"
) -> ScoreComparison:
    """Return the paired comparison of the OOF predictions of two experiments, of the mean over the views of `tta`.

    Raises `IchxError` for an unknown `tta`, where one has no finished fold or its table is refused, and where the
    labels differ or no slice is in both.
    """
    if tta not in TTA_VIEWS:
        raise IchxError(f"there is no test-time augmentation {tta!r}", f"choose one of {', '.join(TTA_VIEWS)}")
    if first.label_digest != second.label_digest:
        raise IchxError(
            f"experiments {first.number} and {second.number} have other slices or labels "
            f"({first.dataset} v{first.dataset_version} and {second.dataset} v{second.dataset_version})",
            "compare experiments on the same dataset version",
        )
    one, two = (read_oof(project, e, tta) for e in (first, second))
    rows, others = common_rows(one, two)
    if not len(rows):
        raise IchxError(
            f"experiments {first.number} and {second.number} have no finished fold in common",
            f"run them: `ichx run {first.number}`, `ichx run {second.number}`",
        )
    labels, p, q = one.labels[rows], one.probabilities[rows], two.probabilities[others]
    notes = []
    for e, table in ((first, one), (second, two)):
        if len(table.slice_ids) > len(rows):
            more = format_count(len(table.slice_ids) - len(rows), "slice")
            notes.append(f"{more} of experiment {e.number} have no prediction by the other, and do not count")
    if first.fold_digest != second.fold_digest:
        notes.append("their folds differ: each slice is out of fold for both, but they trained on different patients")
    return ScoreComparison(
        tta=tta,
        slices=len(rows),
        first=score(labels, p),
        second=score(labels, q),
        difference=paired_difference(labels, p, q, one.patients[rows], ranked=True),
        disagreements=_disagreements(one.slice_ids[rows], labels, p, q),
        notes=tuple(notes),
    )


def common_rows(one: OofTable, two: OofTable) -> tuple[Any, Any]:
    """Return the rows of `one` and the rows of `two` that are the same slices, in the order of `one`."""
    other = pd.Index(two.slice_ids).get_indexer(pd.Index(one.slice_ids))
    rows = np.flatnonzero(other >= 0)
    return rows, other[rows]


def _disagreements(ids: Any, labels: FloatArray, p: FloatArray, q: FloatArray) -> tuple[Disagreement, ...]:
    share = np.asarray(LABEL_WEIGHTS) / sum(LABEL_WEIGHTS)
    first, second = row_losses(labels, p) @ share, row_losses(labels, q) @ share
    most = np.argsort(-np.abs(first - second), kind="stable")[:SHOWN]
    return tuple(
        Disagreement(
            slice_id=str(ids[row]),
            positive=tuple(label for k, label in enumerate(LABELS) if labels[row, k] > 0.5),
            first_loss=float(first[row]),
            second_loss=float(second[row]),
            first=tuple(p[row].tolist()),
            second=tuple(q[row].tolist()),
        )
        for row in most
        if first[row] != second[row]
    )
