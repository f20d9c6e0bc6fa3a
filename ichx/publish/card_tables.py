"""The tables of scores in a model card, as Markdown."""

from collections.abc import Sequence
from typing import Final

from ichx.evaluation.bootstrap import Bootstrap, Interval
from ichx.evaluation.call_scores import CallScores
from ichx.evaluation.recalibration_file import Recalibration
from ichx.labels import LABELS
from ichx.publish.card_facts import ScoredPredictions
from ichx.publish.markdown import number, plain, table
from ichx.text import format_count

METRICS: Final = {
    "auc": "AUC",
    "average_precision": "average precision",
    "sensitivity_90": "sensitivity at specificity 0.90",
    "brier": "Brier score",
    "log_loss": "log loss",
    "calibration_error": "calibration error",
}
"""Metrics of a card by name in `ichx.evaluation.scores`."""


def describe_intervals(found: Bootstrap) -> str:
    """Return how intervals were computed, or why there are none."""
    if found.log_loss.undefined is not None:
        return f"{plain(found.log_loss.undefined).capitalize()}."
    return (
        f"In parentheses: {100 * found.level:.0f} % intervals from {found.draws:,} draws of "
        f"{format_count(found.patients, 'patient')}."
    )


def score_tables(scored: ScoredPredictions) -> list[str]:
    """Return a table of slices and one of studies, with a row per label; also of each part of a mixture."""
    parts, units = [], [("slices", scored.card.slices), ("studies", scored.card.studies)]
    for name, part in scored.card.parts.items():
        units += [(f"slices of part {plain(name)}", part.slices), (f"studies of part {plain(name)}", part.studies)]
    for unit, found in units:
        rows = [
            (label, f"{point.positives:,}", *(interval(found.labels[label][metric]) for metric in METRICS))
            for label, point in zip(LABELS, found.scores.labels, strict=True)
        ]
        parts.append(
            f"{found.scores.count:,} {unit}: weighted log loss {interval(found.log_loss)}\n\n"
            + table(("label", "positive", *METRICS.values()), rows)
        )
    return parts


def call_table(rows: Sequence[Sequence[object]]) -> str:
    """Return a table of thresholds; see `call_cells`."""
    return table(("threshold", "sensitivity", "specificity", "PPV", "NPV", "alarms per 100"), rows)


def call_cells(calls: CallScores) -> tuple[str, ...]:
    """Return the cells of a threshold, after its description."""
    return tuple(map(interval, calls.rates))


def calibration_table(scored: ScoredPredictions) -> str:
    """Return the calibration of each label."""
    rows = [
        (label, number(line.observed), number(line.predicted), interval(line.in_the_large), interval(line.slope))
        for label, line in scored.card.calibration.items()
    ]
    return table(("label", "share of positives", "mean probability", "intercept", "slope"), rows)


def subgroup_tables(scored: ScoredPredictions) -> list[str]:
    """Return a table per field; a sentence if there is no field."""
    parts = []
    for of in scored.subgroups:
        rows = [
            (
                plain(g.name),
                f"{g.rows:,}",
                f"{g.patients:,}",
                f"{g.positives:,}",
                interval(g.auc),
                interval(g.log_loss),
            )
            for g in of.groups
        ]
        heads = (of.field.replace("_", " "), "studies", "patients", of.label, f"AUC of {of.label}", "weighted log loss")
        worst = f"\n\nLowest AUC: {plain(of.worst.name)}, {interval(of.worst.auc)}." if of.worst else ""
        parts.append(table(heads, rows) + worst)
    return parts or ["No header field has two known groups."]


def interval(found: Interval) -> str:
    """Return a score with its interval."""
    return number(found.value, found.low, found.high)


def recalibration_tables(stored: Sequence[Recalibration]) -> list[str]:
    """Return a sentence and a table per stored recalibration."""
    parts = []
    for one in stored:
        fitted = one.fitted
        judged = {row.label: row for row in fitted.judged}
        rows = []
        for of in fitted.maps:
            row = judged.get(of.label)
            change = "-" if row is None else interval(row.difference)
            slope = interval(row.line_after.slope) if row is not None else "-"
            line = "unchanged" if of.method == "none" else f"{of.intercept:.4f} + {of.slope:.4f} logit"
            rows.append((of.label, line, change, slope))
        heads = ("label", "new logit", "change of the log loss out of sample", "slope out of sample")
        parts += [
            f"Recalibration {plain(one.name)} (digest {one.digest}), fitted on {fitted.rows:,} "
            f"{'slices' if fitted.unit == 'slice' else 'studies'} of {format_count(fitted.patients, 'patient')} of "
            f"{plain(one.dataset)} version {one.dataset_version}, tta {one.tta}. Scores above are without it.",
            table(heads, rows),
        ]
    return parts
