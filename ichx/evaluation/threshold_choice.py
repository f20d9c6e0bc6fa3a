"""How a threshold of one label is chosen: by a least sensitivity or specificity, or by the cost of errors."""

from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np

from ichx.errors import InvalidInputError
from ichx.evaluation.choices import Average, Pooling, Tta
from ichx.evaluation.label_rows import LabelRows
from ichx.evaluation.metric import FloatArray
from ichx.evaluation.patient_sums import DRAWS, draw_weights
from ichx.evaluation.subgroup_scores import Unit
from ichx.labels import LABELS

Rule = Literal["sensitivity", "specificity", "cost"]

TOLERANCE: Final = 1e-9
"""Of a sensitivity or specificity."""


@dataclass(frozen=True)
class ThresholdRequest:
    """What to choose."""

    label: str
    rule: Rule
    value: float
    """Least sensitivity or specificity, or the cost of a missed positive in false alarms."""
    unit: Unit = "study"
    tta: Tta = "none"
    average: Average = "logit"
    pooling: Pooling = "max"
    """Of studies."""


def check_request(request: ThresholdRequest) -> None:
    """Raise `InvalidInputError` unless label and value of the rule are valid."""
    if request.label not in LABELS:
        raise InvalidInputError(f"Unknown label: {request.label!r}.", f"Use one of {', '.join(LABELS)}.")
    if request.rule not in get_args(Rule):
        raise InvalidInputError(f"Unknown rule: {request.rule!r}.", f"Use one of {', '.join(get_args(Rule))}.")
    if request.rule == "cost":
        if not 0 < request.value < float("inf"):
            raise InvalidInputError(f"Invalid cost: {request.value}.", "Use a positive number.")
    elif not 0 < request.value <= 1:
        raise InvalidInputError(f"Invalid {request.rule}: {request.value}.", "Use a share above 0, up to 1.")


def chosen_threshold(rows: LabelRows, request: ThresholdRequest) -> float | None:
    """Return the threshold that fits the request on rows of both classes; None if calling no row fits it best."""
    found = _sorted_thresholds(rows, np.ones((len(rows.truth), 1)), request)[0]
    return float(found) if np.isfinite(found) else None


def drawn_thresholds(rows: LabelRows, request: ThresholdRequest, draws: int = DRAWS) -> FloatArray:
    """Return the threshold of each draw of patients, `(D,)`; NaN where a class is absent.

    It is just above all probabilities where calling no row fits the request best.
    """
    names, codes = np.unique(rows.patients.astype(str), return_inverse=True)
    highest = np.nextafter(rows.probabilities.max(), np.inf)
    found = [_sorted_thresholds(rows, weights[codes], request) for weights in draw_weights(len(names), draws, 0)]
    drawn = np.concatenate(found)
    drawn[np.isposinf(drawn)] = highest
    return drawn


def _sorted_thresholds(rows: LabelRows, weights: FloatArray, request: ThresholdRequest) -> FloatArray:
    """Return the threshold for each weighting `(N, D)` of the rows, `(D,)`; infinite where none is called.

    The last row of a probability completes what is called positive at it: equal probabilities share a threshold.
    """
    order = np.argsort(-rows.probabilities, kind="stable")
    value, hit, weight = rows.probabilities[order], rows.truth[order], weights[order]
    last = np.append(value[1:] != value[:-1], True)
    none = np.zeros((1, weights.shape[1]))
    hits = np.concatenate([none, np.cumsum(weight * hit[:, None], axis=0)[last]])
    alarms = np.concatenate([none, np.cumsum(weight * ~hit[:, None], axis=0)[last]])
    positives, negatives = hits[-1], alarms[-1]
    candidates = np.append(np.inf, value[last])
    with np.errstate(invalid="ignore", divide="ignore"):
        if request.rule == "sensitivity":  # the highest threshold that is sensitive enough
            index = np.argmax(hits / positives >= request.value - TOLERANCE, axis=0)
        elif request.rule == "specificity":  # the lowest one that is specific enough
            index = np.maximum((1 - alarms / negatives >= request.value - TOLERANCE).sum(axis=0) - 1, 0)
        else:
            index = np.argmin(request.value * (positives - hits) + alarms, axis=0)
    found: FloatArray = candidates[index].astype(np.float64)
    found[(positives == 0) | (negatives == 0)] = np.nan
    return found
