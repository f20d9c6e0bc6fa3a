"""Tables of scores with intervals, by fold and label, for `experiment_scores.html.j2`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ichx.formatting import format_interval, format_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ichx.evaluation.bootstrap import Bootstrap, Interval
    from ichx.evaluation.subgroup_scores import ReportedGroup

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


def subgroup_table(field: str, groups: "Sequence[ReportedGroup]") -> dict[str, Any]:
    """Return the variables of one table of `subgroups.html.j2`, as JSON values."""
    from ichx.evaluation.subgroup_scores import worst_of

    worst = {
        "slices": worst_of(group.slices for group in groups),
        "studies": worst_of(group.studies for group in groups),
    }
    return {
        "field": field.replace("_", " "),
        "groups": [
            {
                "name": group.slices.name,
                "small": group.slices.small,
                "counts": [
                    group.slices.patients if group.slices.rows or group.studies is None else group.studies.patients,
                    group.slices.rows,
                    group.slices.positives,
                    None if group.studies is None else group.studies.rows,
                    None if group.studies is None else group.studies.positives,
                ],
                "cells": [
                    _cell(group.slices.log_loss),
                    _cell(group.slices.auc),
                    _cell(None if group.studies is None else group.studies.auc),
                ],
            }
            for group in groups
        ],
        "worst": {unit: {"name": one.name, **_cell(one.auc)} for unit, one in worst.items() if one is not None},
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
