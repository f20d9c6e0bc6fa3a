"""Recalibration on a small local sample: a new intercept and, with enough patients, a slope for the logit of a label.

logit p' = a + b logit p (Steyerberg et al., Statistics in Medicine 2004). With b > 0 it changes no ranking and no AUC.
It is judged out of sample: each patient by a line that was fitted on others. `recalibration_file` stores it.

A line that was fitted on studies, pooled by the maximum, is applied to slices, too: a study's probability stays the
largest of its slices, and is calibrated; those of slices are then on the scale of studies.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import expit, logit

from ichx.errors import InvalidInputError, NotReadyError, did_you_mean
from ichx.evaluation.bootstrap import Interval, mean_interval
from ichx.evaluation.calibration_line import CalibrationLine, calibration_line, line_coefficients
from ichx.evaluation.label_rows import LabelRows, label_rows
from ichx.evaluation.metric import CLIP, FloatArray
from ichx.evaluation.patient_sums import MIN_IN_CLASS, MIN_PATIENTS
from ichx.evaluation.subgroup_scores import Predicted, Unit
from ichx.labels import LABELS
from ichx.text import format_count

Method = Literal["auto", "intercept", "slope"]
"""`slope` fits intercept and slope; `auto` does if `SLOPE_PATIENTS` allow it."""
Fitted = Literal["none", "intercept", "slope"]

SLOPE_PATIENTS: Final = 50
"""Patients with the label, and as many without, from which `auto` fits a slope: with fewer it is too uncertain."""
GROUPS: Final = 10
"""Groups of patients of the judgement."""


@dataclass(frozen=True)
class LabelMap:
    """The map of one label's probabilities."""

    label: str
    method: Fitted
    intercept: float = 0.0
    slope: float = 1.0
    why: str = ""
    """Why the probabilities stay as they are; empty for a map."""

    def apply(self, p: FloatArray) -> FloatArray:
        """Return the recalibrated probabilities `(N,)`; NaN stays NaN."""
        if self.method == "none":
            return p
        mapped: FloatArray = expit(self.intercept + self.slope * logit(np.clip(p, CLIP, 1 - CLIP)))
        return mapped


@dataclass(frozen=True)
class JudgedLabel:
    """What a recalibration changes on patients that it was not fitted on."""

    label: str
    rows: int
    """Slices or studies."""
    patients: int
    positives: int
    before: float
    """Log loss."""
    after: float
    difference: Interval
    """After less before, paired: below 0 if recalibration helps."""
    line_before: CalibrationLine
    line_after: CalibrationLine


@dataclass(frozen=True)
class FittedRecalibration:
    """The maps of all labels, and what they do out of sample."""

    maps: tuple[LabelMap, ...]
    """In the order of `LABELS`."""
    judged: tuple[JudgedLabel, ...]
    """Of the labels that are recalibrated."""
    unit: Unit
    """What the lines were fitted on."""
    patients: int
    rows: int
    """Slices or studies of the sample."""


def apply_maps(maps: Sequence[LabelMap], p: FloatArray) -> FloatArray:
    """Return the recalibrated probabilities `(N, 6)` of `p` (N, 6)."""
    return np.stack([one.apply(p[:, LABELS.index(one.label)]) for one in maps], axis=1)


def fit_recalibration(
    predicted: Predicted, labels: Sequence[str] | None = None, method: Method = "auto", unit: Unit = "slice"
) -> FittedRecalibration:
    """Return the recalibration that fits `predicted`, with its judgement.

    Args:
        predicted: Predictions of slices of the local sample.
        labels: The labels to recalibrate; None for all that can be. Others stay as they are.
        method: What is fitted.
        unit: What it is fitted on.

    Raises:
        InvalidInputError: There is no such label or method.
        NotReadyError: There are too few patients, or one of `labels` (if None: every label) lacks patients of a class.
    """
    for name in labels or ():
        if name not in LABELS:
            hint = did_you_mean(name, list(LABELS))
            raise InvalidInputError(f"Unknown label: {name!r}.", f"{hint}Use one of {', '.join(LABELS)}.")
    if method not in ("auto", "intercept", "slope"):
        raise InvalidInputError(f"Unknown method: {method!r}.", "Use auto, intercept or slope.")
    patients = predicted.slices["patient"].nunique()
    check_sample(patients)
    maps, judged = [], []
    for name in LABELS:
        rows = label_rows(predicted, name, unit)
        if labels is not None and name not in labels:
            maps.append(LabelMap(name, "none", why="not requested"))
            continue
        found = fit_label(name, rows, method)
        maps.append(found)
        if found.method != "none":
            judged.append(judge_label(name, rows, found.method))
    failed = [one for one in maps if one.method == "none" and one.why != "not requested"]
    if (labels and failed) or not judged:
        raise NotReadyError(
            "\n".join(f"{one.label} cannot be recalibrated: {one.why}." for one in failed),
            "Use a larger sample, or recalibrate other labels with --label.",
        )
    count = len(predicted.slices) if unit == "slice" else predicted.slices["study"].nunique()
    return FittedRecalibration(tuple(maps), tuple(judged), unit, patients, count)


def check_sample(patients: int) -> None:
    """Raise `NotReadyError` if a sample has too few patients."""
    if patients < MIN_PATIENTS:
        raise NotReadyError(
            f"The sample has {format_count(patients, 'patient')}, too few for a recalibration.",
            f"Use at least {MIN_PATIENTS} patients, {MIN_IN_CLASS} of them with the label and {MIN_IN_CLASS} without.",
        )


def fit_label(label: str, rows: LabelRows, method: Method | Fitted) -> LabelMap:
    """Return the map of one label; one with the method `none` and a reason if it cannot be fitted."""
    counts = []
    for truth, having in ((rows.truth, "with"), (~rows.truth, "without")):
        count = len(pd.unique(rows.patients[truth]))
        if count < MIN_IN_CLASS:
            why = f"{format_count(count, 'patient')} {having} it, fewer than {MIN_IN_CLASS}"
            return LabelMap(label, "none", why=why)
        counts.append(count)
    with_slope = min(counts) >= SLOPE_PATIENTS if method == "auto" else method == "slope"
    return _fit(label, rows, with_slope=with_slope)


def judge_label(label: str, rows: LabelRows, method: Fitted) -> JudgedLabel:
    """Return what `method` does to each patient's probabilities if it is fitted on other patients."""
    p, after = rows.probabilities, rows.probabilities.copy()
    group = patient_groups(rows.patients, rows.truth)
    for k in range(GROUPS):
        own = group == k
        if own.any():
            after[own] = _fit(label, rows.take(~own), with_slope=method == "slope").apply(p[own])
    losses = [_losses(rows.truth, values) for values in (p, after)]
    return JudgedLabel(
        label=label,
        rows=len(p),
        patients=len(pd.unique(rows.patients)),
        positives=int(rows.truth.sum()),
        before=float(losses[0].mean()),
        after=float(losses[1].mean()),
        difference=mean_interval(losses[1] - losses[0], rows.patients),
        line_before=calibration_line(rows.truth, p, rows.patients),
        line_after=calibration_line(rows.truth, after, rows.patients),
    )


def patient_groups(patients: npt.NDArray[np.object_], truth: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Return the group of each row `(N,)`: patients with the label, and those without, are spread evenly."""
    codes, names = pd.factorize(patients, sort=True)
    positive = np.bincount(codes, weights=truth, minlength=len(names)) > 0
    shuffled = np.random.default_rng(0).permutation(len(names))
    order = shuffled[np.argsort(positive[shuffled], kind="stable")]
    group = np.empty(len(names), np.int64)
    group[order] = np.arange(len(names)) % GROUPS
    return group[codes]


def _fit(label: str, rows: LabelRows, *, with_slope: bool) -> LabelMap:
    found = line_coefficients(rows.truth, rows.probabilities, with_slope=with_slope)
    if found is None:
        return LabelMap(label, "none", why="the probabilities separate the classes, or one is absent")
    intercept, slope = found
    if slope <= 0:
        return LabelMap(label, "none", why=f"the slope is {slope:.3f}: the probabilities do not rank it")
    return LabelMap(label, "slope" if with_slope else "intercept", intercept, slope)


def _losses(truth: npt.NDArray[np.bool_], p: FloatArray) -> FloatArray:
    """Return the log loss of each row."""
    right = np.clip(np.where(truth, p, 1 - p), CLIP, 1)
    losses: FloatArray = -np.log(right)
    return losses
