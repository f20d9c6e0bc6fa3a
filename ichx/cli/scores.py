"""`ichx scores`: every score of an experiment, per slice and per study, with its interval."""

from typing import TYPE_CHECKING

from ichx.cli.formatting import format_interval, format_value
from ichx.cli.output import console, info, print_json
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


def scores(
    number: Number,
    tta: Tta = "none",
    pooling: Pooling = "max",
    as_json: AsJson = False,
) -> None:
    """Show all scores of an experiment's OOF predictions, with 95 % intervals from a bootstrap over patients.

    Example: `ichx scores 6 --tta hflip`
    """
    with session() as project:
        project.store.experiment(number)  # an unknown number is told before pandas is imported
        from ichx.evaluation.scorecard import scorecard

        card = scorecard(project, number, tta=tta, pooling=pooling)
    if as_json:
        print_json(card)
        return
    show_scores(f"experiment {number}: {card.name}, tta {card.tta}", card, pooling)


def show_scores(what: str, card: "Scorecard | Evaluation", pooling: str) -> None:
    """Print the scores of `what`: tables of slices and of studies, and a line by fold."""
    said = f" [{', '.join(card.marks)}]" if card.marks else ""
    pooled = "the largest of its slices" if pooling == "max" else "noisy_or of its slices"
    for unit, found in (("per slice", card.slices), (f"per study, {pooled}", card.studies)):
        low, high = found.log_loss.low, found.log_loss.high
        told = f", {format_interval(low, high)}" if low is not None else f" ({found.log_loss.undefined})"
        _show(f"{what}, {unit}: weighted log loss {format_value(found.scores.log_loss)}{told}{said}", found)
    by_fold = ", ".join(f"{fold}: {format_value(value)}" for fold, value in card.folds.items())
    console.print(f"log loss by fold{said}  {by_fold}", markup=False)
    if card.left_out:
        info(f"note: {card.left_out} slices could not be decoded and are not in any score", style="yellow")


def _show(title: str, found: "Bootstrap") -> None:
    """Print a row per label, each score above its interval; what is undefined is a dash, with the reason below."""
    rows = [
        (label, f"{point.positives:,}", *(_told(found.labels[label][metric]) for metric in HEADINGS))
        for label, point in zip(found.labels, found.scores.labels, strict=True)
    ]
    reasons: dict[str, list[str]] = {}
    for label, of_label in found.labels.items():
        for reason in dict.fromkeys(i.undefined for i in of_label.values() if i.undefined):
            reasons.setdefault(reason, []).append(label)
    caption = f"{found.scores.count:,} {_many(found)} of {found.patients:,} patients; below each score its "
    caption += f"{found.level:.0%} interval from {found.draws:,} draws of patients"
    print_table(title, ("label", "positive", *HEADINGS.values()), rows, caption=caption, split=True)
    for reason, labels in reasons.items():
        console.print(f"{', '.join(labels)}: {reason}", style="dim", markup=False)


def _many(found: "Bootstrap") -> str:
    return "slices" if found.scores.unit == "slice" else "studies"


def _told(found: "Interval") -> str:
    if found.low is None or found.high is None:
        return f"{format_value(found.value)}\n-"
    return f"{format_value(found.value)}\n{found.low:.4f}-{found.high:.4f}"
