"""Worklists: the slices or studies that a reader should see, e.g. false negatives at a threshold or the highest losses.

All functions work on complete columns, (N,) or (N, 6), whose rows are contiguous by study. They need NumPy only,
because a server keeps no DataFrame. The predictions are read in `ichx.evaluation.worklist_predictions`.
"""

from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from ichx.evaluation.metric import LABEL_SHARES, FloatArray, row_losses
from ichx.labels import LABELS

Kind = Literal["false-positives", "false-negatives", "highest-loss", "disagreement", "uncertain", "reviewed"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
Unit = Literal["slice", "study"]
UNITS: Final[tuple[Unit, ...]] = get_args(Unit)
AT_THRESHOLD: Final = ("false-positives", "false-negatives")
"""Kinds that need a threshold, and one label."""
ALL_LABELS: Final = "all"

Float32Array = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class WorklistRequest:
    """What a worklist has."""

    kind: Kind
    label: str = "any"
    """A label, or `ALL_LABELS`: all of them with their weights in the score."""
    threshold: float = 0.5
    """Rows with at least this probability are called positive."""
    truth: bool | None = None
    """Only rows where the label (`any` for all labels) has this value."""
    unit: Unit = "slice"


@dataclass(frozen=True)
class WorklistData:
    """The columns that a worklist is computed from."""

    labels: Float32Array
    """`(N, 6)`, NaN for an unlabelled slice."""
    predicted: Float32Array
    """`(N, 6)` probabilities, NaN for a slice without a prediction."""
    first: npt.NDArray[np.int64]
    """First row of each study, ascending, `(S,)`."""
    other: Float32Array | None = None
    """Probabilities of the predictor to compare with, `(N, 6)`; None for lists that compare nothing."""
    of_studies: Float32Array | None = None
    """`(N, 6)`: labels of the study or series of each slice, NaN without one; None if only slices are labelled."""


@dataclass(frozen=True)
class Worklist:
    """The rows of a worklist, the most important first."""

    rows: Rows
    """`(M,)`: slices, or for each study the slice that put it on the list."""
    values: FloatArray
    """`(M,)`: the probability of false calls, the loss, the difference of two predictors, or the entropy in bits."""


def make_worklist(data: WorklistData, request: WorklistRequest, keep: npt.NDArray[np.bool_]) -> Worklist:
    """Return a worklist of any kind except `reviewed`.

    A study's probability is the largest of its slices, and a study is positive if a slice is, or by a label of its
    own. It is on the list if a slice of it is kept, with the slice that has the highest value itself. Ties are in the
    order of rows.

    Args:
        data: The columns.
        request: What the list has.
        keep: `(N,)` slices that the filters of the user keep.

    Raises:
        ValueError: `disagreement` without another predictor, or a false call without a single label.
    """
    labels, predicted, other = data.labels, data.predicted, data.other
    slice_values, called = _values(request, labels, predicted, other)
    if request.unit == "slice":
        rows = np.flatnonzero(keep & called & _has_truth(request, labels))
        return _sorted(rows, slice_values[rows], request.kind)
    if not len(data.first):
        return Worklist(np.empty(0, np.int64), np.empty(0))
    pooled = [None if part is None else np.fmax.reduceat(part, data.first, axis=0) for part in (predicted, other)]
    assert pooled[0] is not None
    truth = _study_truth(labels_to_pool(labels, data.of_studies), data.first)
    values, study_called = _values(request, truth, pooled[0], pooled[1])
    if request.kind == "disagreement":  # two predictors may see different slices of a study
        values = np.fmax.reduceat(slice_values, data.first)
        study_called = np.isfinite(values)
    wanted = np.logical_or.reduceat(keep, data.first) & study_called & _has_truth(request, truth)
    studies = np.flatnonzero(wanted)
    shown = _representatives(data, request, slice_values)
    return _sorted(shown[studies], values[studies], request.kind)


def labels_to_pool(labels: Float32Array, of_studies: Float32Array | None) -> Float32Array:
    """Return the labels (N, 6) whose maximum over a study is its label: those of studies where slices have none."""
    return labels if of_studies is None else np.where(np.isnan(labels), of_studies, labels).astype(np.float32)


def _study_truth(labels: Float32Array, first: npt.NDArray[np.int64]) -> Float32Array:
    """Return the labels of studies (S, 6): positive if a slice is, NaN if none is and one is unknown."""
    complete, known = np.maximum.reduceat(labels, first, axis=0), np.fmax.reduceat(labels, first, axis=0)
    return np.where(known > 0.5, known, complete).astype(np.float32)


def false_call(kind: Kind, truth: Float32Array, predicted: Float32Array, threshold: float) -> npt.NDArray[np.bool_]:
    """Return where a label `truth` (N,) is called wrongly at `threshold`; not where one of them is unknown."""
    if kind == "false-positives":
        return (truth <= 0.5) & (predicted >= threshold)
    return (truth > 0.5) & (predicted < threshold)


def entropy(predicted: npt.ArrayLike) -> FloatArray:
    """Return the entropy of probabilities in bits: 1 at 1/2, and 0 at 0 and 1."""
    p = np.asarray(predicted, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        bits: FloatArray = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
    bits[(p == 0) | (p == 1)] = 0
    return bits


def _values(
    request: WorklistRequest, labels: Float32Array, predicted: Float32Array, other: Float32Array | None
) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """Return the value of each row, by which a list is sorted, and whether the row can be on it."""
    if request.kind in AT_THRESHOLD:
        column = LABELS.index(request.label)
        p = predicted[:, column]
        return p.astype(np.float64), false_call(request.kind, labels[:, column], p, request.threshold)
    columns = range(len(LABELS)) if request.label == ALL_LABELS else [LABELS.index(request.label)]
    shares = LABEL_SHARES if request.label == ALL_LABELS else np.ones(1)
    p = predicted[:, columns]
    if request.kind == "highest-loss":
        known = ~np.isnan(labels[:, columns])
        # 0 for NaN: unknown labels do not count, and the logarithm of NaN is slow
        losses = row_losses(np.nan_to_num(labels[:, columns]), p)
        values = losses @ shares
        if not known.all():
            weights = known @ shares
            values = np.full(len(p), np.nan)
            np.divide((losses * known) @ shares, weights, out=values, where=weights > 0)
    elif request.kind == "disagreement":
        if other is None:
            raise ValueError("a disagreement needs another predictor")
        values = np.abs(p.astype(np.float64) - other[:, columns]) @ shares
    else:
        values = entropy(p) @ shares
    return values, np.isfinite(values)


def _representatives(data: WorklistData, request: WorklistRequest, values: FloatArray) -> Rows:
    """Return the row of each study's slice that is shown, `(S,)`: the first with the largest value.

    For false calls that is the slice with the largest loss: a missed study is shown at a positive slice.
    """
    if request.kind in AT_THRESHOLD:
        column = LABELS.index(request.label)
        y, p = data.labels[:, column], data.predicted[:, column].astype(np.float64)
        values = np.where(y > 0.5, 2 - p, p)  # positive slices first
    filled = np.where(np.isfinite(values), values, -np.inf)
    largest = np.maximum.reduceat(filled, data.first)
    sizes = np.diff([*data.first, len(filled)])
    rows = np.flatnonzero(filled == np.repeat(largest, sizes))
    study = np.repeat(np.arange(len(data.first)), sizes)[rows]
    shown: Rows = rows[np.unique(study, return_index=True)[1]]
    return shown


def _has_truth(request: WorklistRequest, labels: Float32Array) -> npt.NDArray[np.bool_]:
    if request.truth is None:
        return np.ones(len(labels), bool)
    truth = labels[:, LABELS.index("any" if request.label == ALL_LABELS else request.label)]
    return truth > 0.5 if request.truth else truth <= 0.5


def _sorted(rows: Rows, values: FloatArray, kind: Kind) -> Worklist:
    key: npt.NDArray[Any] = values if kind == "false-negatives" else -values
    order = np.argsort(key, kind="stable")
    return Worklist(rows[order].astype(np.int64), values[order])
