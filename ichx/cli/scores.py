"""`ichx scores`: all scores of an experiment, per slice and per study, with intervals."""

from typing import TYPE_CHECKING

from ichx.cli.formatting import format_interval, format_marks, format_value
from ichx.cli.output import console, notice, print_json
from ichx.cli.parameters import AsJson, Number, Pooling, Tta
from ichx.cli.session import session
from ichx.cli.tables import print_table

if TYPE_CHECKING:
    from ichx.evaluation.bootstrap import Bootstrap, Interval
    from ichx.evaluation.scorecard import Scorecard
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


def scores(number: Number, tta: Tta = "none", pooling: Pooling = "max", as_json: AsJson = False) -> None:
    """Show all OOF scores of an experiment with 95 % intervals.

    Scores are computed per slice and per study; intervals come from a bootstrap over patients.

    Example: `ichx scores 6 --tta hflip`
    """
    with session() as project:
        project.store.experiment(number)  # report an unknown number before pandas is imported
        from ichx.evaluation.scorecard import scorecard

        card = scorecard(project, number, tta=tta, pooling=pooling)
    if as_json:
        print_json(card)
        return
    print_scores(f"experiment {number}: {card.name}, tta {card.tta}", card, pooling)


def print_scores(title: str, card: "Scorecard | Evaluation", pooling: str) -> None:
    """Print a table per slice, a table per study, and the log loss of each fold."""
    marks = format_marks(card.marks)
    pooled = "maximum over slices" if pooling == "max" else "noisy-or over slices"
    for unit, found in (("per slice", card.slices), (f"per study, {pooled}", card.studies)):
        loss = found.log_loss
        interval = f", {format_interval(loss.low, loss.high)}" if loss.low is not None else f" ({loss.undefined})"
        value = format_value(found.scores.log_loss)
        _print_labels(f"{title}, {unit}: weighted log loss {value}{interval}{marks}", found)
    by_fold = ", ".join(f"{fold}: {format_value(value)}" for fold, value in card.folds.items())
    console.print(f"log loss by fold{marks}  {by_fold}", markup=False)
    if card.left_out:
        notice(f"{card.left_out} slices cannot be decoded and are excluded from all scores.")


def _print_labels(title: str, found: "Bootstrap") -> None:
    """Print one row per label with each score above its interval; undefined values are dashes, explained below."""
    rows = [
        (label, f"{point.positives:,}", *(_format(found.labels[label][metric]) for metric in HEADINGS))
        for label, point in zip(found.labels, found.scores.labels, strict=True)
    ]
    reasons: dict[str, list[str]] = {}
    for label, metrics in found.labels.items():
        for reason in dict.fromkeys(i.undefined for i in metrics.values() if i.undefined):
            reasons.setdefault(reason, []).append(label)
    units = "slices" if found.scores.unit == "slice" else "studies"
    caption = f"{found.scores.count:,} {units} of {found.patients:,} patients; below each score its "
    caption += f"{found.level:.0%} interval from {found.draws:,} draws of patients"
    print_table(title, ("label", "positive", *HEADINGS.values()), rows, caption=caption, split=True)
    for reason, labels in reasons.items():
        console.print(f"{', '.join(labels)}: {reason}", style="dim", markup=False)


def _format(found: "Interval") -> str:
    if found.low is None or found.high is None:
        return f"{format_value(found.value)}\n-"
    return f"{format_value(found.value)}\n{found.low:.4f}-{found.high:.4f}"
