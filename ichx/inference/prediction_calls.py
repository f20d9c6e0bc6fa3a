"""Calls of file predictions: which slices and studies reach the stored thresholds of the model that predicted them."""

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ichx.evaluation.recalibration_file import Recalibration
from ichx.evaluation.threshold_file import ChosenThreshold, applicable
from ichx.inference.predict import FilePredictions

if TYPE_CHECKING:
    from ichx.evaluation.threshold_choice import ThresholdRequest


def with_calls(
    found: FilePredictions, stored: Iterable[ChosenThreshold], recalibration: Recalibration | None = None
) -> FilePredictions:
    """Return `found` with a column `called_LABEL` for each threshold that fits the predictions.

    It is 1 where the probability reaches the threshold, 0 elsewhere, and missing without a probability. A threshold of
    studies adds it to the tables of studies and series. One of another pooling than `max` needs a column with such a
    probability. With a recalibration of the probabilities, the calls are those before it: the threshold is mapped, too.
    """
    tables = {"slices": found.slices, "studies": found.studies, "series": found.series}
    applied = []
    for one in applicable(stored, tta=found.tta, average=found.average):
        request, name = one.request, f"called_{one.request.label}"
        threshold = one.threshold
        if recalibration is not None and _probability(request) == request.label:
            threshold = recalibration.threshold(request.label, threshold)
        for table in ("slices",) if request.unit == "slice" else ("studies", "series"):
            column = _probability(request)
            if column in tables[table]:
                p = tables[table][column]
                calls = pd.Series(np.where(p.isna(), np.nan, p >= threshold), index=p.index).astype("Int8")
                tables[table] = tables[table].assign(**{name: calls})
        if request.unit == "slice" or _probability(request) in found.studies:
            applied.append(
                {
                    "label": request.label,
                    "unit": request.unit,
                    "threshold": threshold,
                    "rule": request.rule,
                    "value": request.value,
                }
            )
    return replace(
        found,
        slices=tables["slices"],
        studies=tables["studies"],
        series=tables["series"],
        thresholds=tuple(applied),
    )


def _probability(request: "ThresholdRequest") -> str:
    """Return the column with the probability of the request's label."""
    if request.unit == "slice" or request.pooling == "max":
        return request.label
    return f"{request.pooling}_{request.label}"
