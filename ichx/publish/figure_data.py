"""The numbers of figures as tables. `ichx.publish.figure_drawing` draws them, and the CSV files of figures have them.

A table of curves has a row per point: `label`, `series` (`curve`, `band`, ...), `x`, `y`, the interval `low`, `high`.
"""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import pandas as pd

from ichx.datasets.subgroups import UNKNOWN, fields_with_values, group_names, reported_fields
from ichx.evaluation.bootstrap import Interval, label_intervals
from ichx.evaluation.curve_bands import BandedCurve, precision_recall_band, roc_band
from ichx.evaluation.decision_curve import decision_curves
from ichx.evaluation.label_rows import LabelRows, label_rows
from ichx.evaluation.reliability import reliability_curves
from ichx.evaluation.subgroup_scores import MAX_GROUPS, Unit, subgroup_scores
from ichx.publish.subject import PublishedPredictions

MAX_ROWS: Final = 12
"""Groups of a field in the forest plot; the most frequent are shown."""

Table = pd.DataFrame


def roc_table(published: PublishedPredictions, labels: Sequence[str], unit: Unit) -> Table:
    """Return the ROC curves with bands: `x` false positive rate, `y` sensitivity; `area` is the AUC."""
    return _banded(published, labels, unit, roc_band, "auc")


def precision_recall_table(published: PublishedPredictions, labels: Sequence[str], unit: Unit) -> Table:
    """Return the precision-recall curves with bands: `x` recall, `y` precision; `area` is the average precision."""
    return _banded(published, labels, unit, precision_recall_band, "average_precision")


def reliability_table(published: PublishedPredictions, labels: Sequence[str], unit: Unit) -> Table:
    """Return the reliability curves: `x` mean probability of a bin, `y` share of positives; `rows` of the bin."""
    found = reliability_curves(published.predicted, labels, unit, pooling=published.pooling)
    rows = [
        (label, "bin", one.predicted, *_interval(one.observed), one.rows, one.positives)
        for label, curve in found.items()
        for one in curve.bins
    ]
    return Table(rows, columns=["label", "series", "x", "y", "low", "high", "rows", "positives"])


def decision_table(published: PublishedPredictions, labels: Sequence[str], unit: Unit) -> Table:
    """Return the decision curves: `x` threshold probability, `y` net benefit of the `model` and of acting on `all`."""
    found = decision_curves(published.predicted, labels, unit, pooling=published.pooling)
    rows = [
        (label, series, point.threshold, *_interval(interval))
        for label, curve in found.items()
        for point in curve.points
        for series, interval in (("model", point.net_benefit), ("all", point.of_all))
    ]
    return Table(rows, columns=["label", "series", "x", "y", "low", "high"])


def subgroup_table(
    published: PublishedPredictions, fields: Sequence[str], label: str, unit: Unit
) -> tuple[Table, list[str]]:
    """Return the AUC of each group, and notes of what is left out.

    Columns: `field`, `group`, `rows` (slices or studies), `patients`, `positives`, `auc`, `low`, `high`. The first row
    is that of all rows. Without `fields`, those of a report are used.
    """
    slices, notes = published.predicted.slices, list[str]()
    total = label_rows(published.predicted, label, unit, published.pooling)
    rows: list[tuple[object, ...]] = [_total(total)]
    present, missing = fields_with_values(slices, fields)
    if missing:
        notes.append(f"no header has a value for {', '.join(missing)}, left out")
    for field in present or reported_fields(slices):
        if not fields and len(pd.unique(group_names(slices, field))) > MAX_GROUPS:
            notes.append(f"{field} has more than {MAX_GROUPS} groups and is left out")
            continue
        (of,) = subgroup_scores(published.predicted, [field], label=label, unit=unit, pooling=published.pooling)
        groups = [group for group in of.groups if group.name != UNKNOWN]
        if len(groups) > MAX_ROWS:
            notes.append(f"{field}: {len(groups) - MAX_ROWS} of {len(groups)} groups, the smallest ones, are left out")
        for group in groups[:MAX_ROWS]:
            rows.append((field, group.name, group.rows, group.patients, group.positives, *_interval(group.auc)))
    columns = ["field", "group", "rows", "patients", "positives", "auc", "low", "high"]
    return Table(rows, columns=columns), notes


def _total(rows: LabelRows) -> tuple[object, ...]:
    patients = len(pd.unique(rows.patients))
    found = label_intervals(rows.truth, rows.probabilities, pd.factorize(rows.patients)[0])["auc"]
    return "", "all", len(rows.truth), patients, int(rows.truth.sum()), *_interval(found)


def _banded(
    published: PublishedPredictions,
    labels: Sequence[str],
    unit: Unit,
    band_of: Callable[[LabelRows], BandedCurve],
    area: str,
) -> Table:
    parts = []
    for label in labels:
        rows = label_rows(published.predicted, label, unit, published.pooling)
        if not rows.both_classes:
            continue
        found = band_of(rows)
        codes = pd.factorize(rows.patients)[0]
        value, low, high = _interval(label_intervals(rows.truth, rows.probabilities, codes)[area])
        curve = {"series": "curve", "x": found.x, "y": found.y, "low": np.nan, "high": np.nan}
        band = {"series": "band", "x": found.grid, "y": np.nan, "low": found.low, "high": found.high}
        areas = {"series": "area", "x": [np.nan], "y": value, "low": low, "high": high}
        for part, threshold in ((curve, found.threshold), (band, np.nan), (areas, np.nan)):
            parts.append(Table({"label": label, **part, "threshold": threshold}))
    columns = ["label", "series", "x", "y", "low", "high", "threshold"]
    return pd.concat(parts, ignore_index=True) if parts else Table(columns=columns)


def _interval(found: Interval) -> tuple[float, float, float]:
    value, low, high = (np.nan if one is None else one for one in (found.value, found.low, found.high))
    return value, low, high
