"""Numbers of the figures of a paper on the full dataset: time of the bands of all curves, and what thinning changes.

Part of `benchmarks/external.py`.
"""

import time
from typing import Final

import numpy as np
import pandas as pd
from cohort import data_folder, real_cohort, synthetic_cohort
from common import Figure
from intervals import predictions
from sklearn.metrics import roc_auc_score

from ichx.evaluation.curve_bands import precision_recall_band, roc_band
from ichx.evaluation.label_rows import label_rows
from ichx.evaluation.subgroup_scores import Predicted
from ichx.labels import LABELS

SECONDS: Final = 120.0
DIFFERENCE: Final = 1e-4
QUICK: Final = 0.05
"""Share of the slices with --quick."""


def measure(quick: bool) -> list[Figure]:
    """Return the figures."""
    folder = data_folder()
    cohort = real_cohort(folder) if folder else synthetic_cohort()
    predicted = predictions(cohort, folder)
    if quick:
        size = round(QUICK * len(cohort.images))
        cohort, predicted = cohort.first(size), predicted[:size]
    slices = pd.DataFrame({"patient": cohort.patients, "study": cohort.patients})
    rows = [label_rows(Predicted(slices, cohort.labels, predicted), label) for label in LABELS]
    began = time.perf_counter()
    curves = [(roc_band(one), precision_recall_band(one)) for one in rows]
    seconds = time.perf_counter() - began
    areas = [float(np.sum(np.diff(roc.x) * (roc.y[1:] + roc.y[:-1]) / 2)) for roc, _ in curves]
    exact = [float(roc_auc_score(one.truth, one.probabilities)) for one in rows]
    difference = max(abs(a - b) for a, b in zip(areas, exact, strict=True))
    size_text = f"{len(slices):,} slices, {slices['patient'].nunique():,} patients, 1,000 draws, {len(LABELS)} labels"
    return [
        Figure(
            "bands of ROC and precision-recall curves", seconds, "s", size_text, f"{SECONDS:g} s", seconds <= SECONDS
        ),
        Figure(
            "largest difference of the area under a thinned ROC curve",
            difference,
            "",
            "scikit-learn",
            f"{DIFFERENCE:g}",
            difference <= DIFFERENCE,
        ),
    ]
