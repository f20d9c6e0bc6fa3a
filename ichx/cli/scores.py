"""`ichx scores`: all scores of an experiment or ensemble, per slice and per study, with intervals."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ichx.cli.comparison_tables import print_reliability
from ichx.cli.output import console, notice, print_csv, print_json
from ichx.cli.parameters import (
    AsCsv,
    AsJson,
    Average,
    By,
    EnsembleNumber,
    Labels,
    OptionalNumber,
    OwnTta,
    Pooling,
    Reliability,
    parse_subject,
)
from ichx.cli.session import session
from ichx.cli.subgroup_tables import known_fields, parse_fields, show_subgroups
from ichx.cli.tables import format_bounds, print_table
from ichx.formatting import format_interval, format_marks, format_value
from ichx.text import format_count

if TYPE_CHECKING:
    from ichx.evaluation import choices
    from ichx.evaluation.bootstrap import Bootstrap, Interval
    from ichx.evaluation.calibration_line import CalibrationLine
    from ichx.evaluation.scorecard import PartScores, Scorecard
    from ichx.evaluation.scores import LabelScores
    from ichx.evaluation.subgroup_scores import Predicted, Unit
    from ichx.inference.evaluate import Evaluation

HEADINGS = {
    "log_loss": "log loss",
    "auc": "AUC",
    "average_precision": "average precision",
    "brier": "Brier",
    "calibration_error": "calibration error",
    "sensitivity_80": "sens. at spec. 0.80",
    "sensitivity_90": "sens. at spec. 0.90",
    "sensitivity_95": "sens. at spec. 0.95",
}


def scores(
    number: OptionalNumber = None,
    ensemble: EnsembleNumber = None,
    tta: OwnTta = None,
    average: Average = None,
    pooling: Pooling = "max",
    labels: Labels = None,
    by: By = None,
    reliability: Reliability = False,
    as_csv: AsCsv = False,
    as_json: AsJson = False,
) -> None:
    """Show OOF scores of an experiment or ensemble with intervals.

    Scores are computed per slice and per study; intervals come from a bootstrap over patients. With --by, scores of
    subgroups are shown instead, of --label or of `any`. An ensemble is scored by its nested predictions.

    Example: `ichx scores 6 --tta hflip --label any`

    Example: `ichx scores 6 --by scanner,kernel,thickness,age,sex`

    Example: `ichx scores --ensemble 3 --by scanner`

    Example: `ichx scores 6 --reliability --label any`
    """
    subject, fields = parse_subject(number, ensemble, tta=tta, average=average), parse_fields(by)
    with session() as project:
        subject.require(project)  # report an unknown number before pandas is imported
        views, mean = tta or "none", average or "logit"
        if fields or reliability:
            from ichx.evaluation.subject_predictions import subject_predictions

            predicted = subject_predictions(project, subject, views, mean)
            if fields:
                _show_subgroups(predicted, fields, labels, pooling, as_csv=as_csv, as_json=as_json)
            else:
                _show_reliability(predicted, labels or ["any"], pooling, as_json=as_json)
            return
        from ichx.evaluation.scorecard import ensemble_scorecard, scorecard

        if subject.ensemble:
            card = ensemble_scorecard(project, subject.number, pooling=pooling)
        else:
            card = scorecard(project, subject.number, tta=views, pooling=pooling, average=mean)
    if as_json:
        print_json(card)
        return
    if as_csv:
        print_scores_csv(card, labels)
        return
    print_scores(_title(card), card, pooling, labels)
    print_part_scores(card.parts)


def _title(card: "Scorecard") -> str:
    """Return e.g. `experiment 6: resnext50, tta none`."""
    if card.ensemble is None:
        return f"experiment {card.experiment}: {card.name}, tta {card.tta}"
    subject = f"ensemble {card.ensemble}"
    named = subject if card.name == subject else f"{subject}: {card.name}"
    return f"{named}, tta {card.tta}, {'nested' if card.nested else 'in-sample'}"


def _show_subgroups(
    predicted: "Predicted",
    fields: list[str],
    labels: list[str] | None,
    pooling: "choices.Pooling",
    *,
    as_csv: bool,
    as_json: bool,
) -> None:
    from ichx.evaluation.subgroup_scores import all_subgroup_scores

    found = all_subgroup_scores(predicted, known_fields(predicted, fields), labels or ["any"], pooling)
    show_subgroups(found, as_csv=as_csv, as_json=as_json)


def _show_reliability(predicted: "Predicted", labels: list[str], pooling: "choices.Pooling", *, as_json: bool) -> None:
    from ichx.evaluation.reliability import reliability_curves

    units: tuple[Unit, ...] = ("slice", "study")
    curves = {unit: reliability_curves(predicted, labels, unit, pooling=pooling) for unit in units}
    if as_json:
        print_json(curves)
    else:
        print_reliability(curves)


def print_scores_csv(card: "Scorecard | Evaluation", labels: Sequence[str] | None = None) -> None:
    """Print one row per unit (slice, study) and label as CSV; the first one of a unit is the weighted log loss."""
    bounds = [f"{metric}{end}" for metric in HEADINGS for end in ("", "_low", "_high")]
    rows: list[list[object]] = []
    for found in (card.slices, card.studies):
        unit, total = found.scores.unit, found.log_loss
        if not labels:
            rows.append([unit, "weighted", found.scores.count, None, total.value, total.low, total.high])
        for point in found.scores.labels:
            if labels and point.label not in labels:
                continue
            intervals = [found.labels[point.label][metric] for metric in HEADINGS]
            values = [value for i in intervals for value in (i.value, i.low, i.high)]
            rows.append([unit, point.label, point.count, point.positives, *values])
    heads = ["unit", "label", "count", "positives", *bounds]
    print_csv(heads, [row + [None] * (len(heads) - len(row)) for row in rows])


def print_scores(title: str, card: "Scorecard | Evaluation", pooling: str, labels: Sequence[str] | None = None) -> None:
    """Print a table per slice, a table per study, and the log loss of each fold; only `labels`, if given."""
    marks = format_marks(card.marks)
    pooled = {"max": "maximum over slices", "noisy_or": "noisy-or over slices", "learnt": "learnt"}[pooling]
    for unit, found in (("per slice", card.slices), (f"per study, {pooled}", card.studies)):
        loss = found.log_loss
        interval = f", {format_interval(loss.low, loss.high)}" if loss.low is not None else f" ({loss.undefined})"
        if all(point.count == 0 for point in found.scores.labels):
            notice(f"{title}, {unit}: - (no label of a {found.scores.unit} is known)")
            continue
        value = format_value(found.scores.log_loss)
        print_labels(f"{title}, {unit}: weighted log loss {value}{interval}{marks}", found, labels)
    _print_calibration(card.calibration, labels)
    by_fold = ", ".join(f"{fold}: {format_value(value)}" for fold, value in card.folds.items())
    console.print(f"log loss by fold{marks}  {by_fold}", markup=False)
    if card.left_out:
        notice(f"{card.left_out} slices cannot be decoded and are excluded from all scores.")


def print_part_scores(parts: "Mapping[str, PartScores]") -> None:
    """Print a row per part of a mixture; nothing for other datasets."""
    rows = [
        (
            name,
            found.slices.scores.count,
            found.studies.scores.count,
            found.slices.patients,
            _format(found.slices.log_loss),
            _format(found.slices.labels["any"]["auc"]),
            _format(found.studies.log_loss),
            _format(found.studies.labels["any"]["auc"]),
        )
        for name, found in parts.items()
    ]
    if rows:
        heads = ("part", "slices", "studies", "patients", "log loss", "AUC any", "of studies", "AUC any of studies")
        caption = "other scores of parts: `ichx scores NUMBER --by part --label LABEL`"
        print_table("parts of the mixture", heads, rows, caption=caption)


def _print_calibration(lines: "Mapping[str, CalibrationLine]", labels: Sequence[str] | None) -> None:
    """Print slope and intercept of each label."""
    rows = [
        (
            name,
            f"{line.observed:.4f}",
            f"{line.predicted:.4f}",
            _format(line.in_the_large),
            _format(line.slope),
        )
        for name, line in lines.items()
        if (not labels or name in labels) and not math.isnan(line.observed)
    ]
    if not rows:
        return
    heads = ("label", "positive", "mean probability", "intercept", "slope")
    caption = "calibrated: intercept 0, slope 1; too extreme: slope below 1; too high on average: intercept below 0"
    print_table("calibration per slice", heads, rows, caption=caption)


def print_labels(title: str, found: "Bootstrap", labels: Sequence[str] | None) -> None:
    """Print one row per label with each score above its interval; undefined values are dashes, explained below.

    With `labels`, print one row per score and a column for each of them, which takes fewer lines.
    """
    rows = [
        (label, _positives(point, found.scores.count), *(_format(found.labels[label][metric]) for metric in HEADINGS))
        for label, point in zip(found.labels, found.scores.labels, strict=True)
        if not labels or label in labels
    ]
    heads = ["label", "positive", *HEADINGS.values()]
    has_intervals = found.log_loss.undefined is None  # otherwise the title explains why
    reasons: dict[str, list[str]] = {}
    for label, metrics in found.labels.items():
        if labels and label not in labels:
            continue
        undefined = (i.undefined for i in metrics.values() if has_intervals or i.value is None)
        for reason in filter(None, dict.fromkeys(undefined)):
            reasons.setdefault(reason, []).append(label)
    units = "slices" if found.scores.unit == "slice" else "studies"
    caption = f"{found.scores.count:,} {units} of {format_count(found.patients, 'patient')}"
    if has_intervals:
        caption += f"; below each score its {100 * found.level:.0f} % interval from {found.draws:,} draws of patients"
    if labels:
        cells = [[text.removesuffix("\n-").replace("\n", "  ") for text in row[1:]] for row in rows]
        heads, rows = ["label", *(row[0] for row in rows)], list(zip(heads[1:], *cells, strict=True))
        caption = caption.replace("below each", "after each")
    print_table(title, heads, rows, caption=caption, split=True)
    for reason, names in reasons.items():
        console.print(f"{', '.join(names)}: {reason}", style="dim", markup=False)


def _positives(point: "LabelScores", count: int) -> str:
    """Return the number of positive rows; where labels are unknown, also that of the known ones."""
    return f"{point.positives:,}" + (f" of {point.count:,}" if point.count < count else "")


def _format(found: "Interval") -> str:
    return format_bounds(found, 5, bounds=4, joint="-")
