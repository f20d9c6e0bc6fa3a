"""Tables of scores with intervals, by fold and label, for `experiment_scores.html.j2`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ichx.formatting import format_interval, format_value

if TYPE_CHECKING:
    from ichx.evaluation.bootstrap import Bootstrap, Interval

LABEL_METRICS = (
    ("log_loss", "log loss"),
    ("auc", "AUC"),
    ("average_precision", "average precision"),
    ("brier", "Brier score"),
)
"""Columns of the table of labels."""


def score_tables(found: "Mapping[int | None, Bootstrap]") -> dict[str, Any]:
    """Return the variables of the template, as JSON values; `found` is that of `table_scorecard`."""
    pooled = found[None]
    return {
        "rows": [_score_row("all folds" if fold is None else f"fold {fold}", one) for fold, one in found.items()],
        "label_rows": [
            {"label": label, "cells": [_cell(by_metric.get(metric)) for metric, _ in LABEL_METRICS]}
            for label, by_metric in pooled.labels.items()
        ],
        "heads": [head for _, head in LABEL_METRICS],
        "patients": pooled.patients,
    }


def _score_row(name: str, found: "Bootstrap") -> dict[str, Any]:
    cells = [_cell(found.log_loss), *(_cell(by_metric.get("log_loss")) for by_metric in found.labels.values())]
    return {"name": name, "patients": found.patients, "cells": cells}


def _cell(found: "Interval | None") -> dict[str, str | None]:
    if found is None or found.value is None:
        return {"value": "-", "bounds": None, "why": None if found is None else found.undefined}
    return {
        "value": format_value(found.value),
        "bounds": format_interval(found.low, found.high) or None,
        "why": found.undefined,
    }
