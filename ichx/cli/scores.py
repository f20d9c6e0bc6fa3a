"""`ichx scores`: every score of an experiment, per slice and per study, with its interval."""

from typing import TYPE_CHECKING, Annotated

import typer

from ichx.cli.render import cell, console, print_json, say, session, table

if TYPE_CHECKING:
    from ichx.evaluation.bootstrap import Bootstrap, Interval

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
    number: Annotated[int, typer.Argument(help="The experiment's number.")],
    tta: Annotated[
        str, typer.Option("--tta", help="Views to average: none, or hflip (the slice and its mirror).")
    ] = "none",
    pooling: Annotated[
        str,
        typer.Option("--pooling", help="A study's probability: max over its slices, or noisy_or, 1 - prod(1 - p)."),
    ] = "max",
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Show all scores of an experiment's OOF predictions, with 95 % intervals from a bootstrap over patients.

    Example: `ichx scores 6 --tta hflip`
    """
    with session() as (workspace, store):
        store.experiment(number)  # an unknown number is told before pandas is imported
        from ichx.evaluation.scorecard import scorecard

        card = scorecard(workspace, store, number, tta=tta, pooling=pooling)
    if as_json:
        print_json(card)
        return
    said = f" [{', '.join(card.marks)}]" if card.marks else ""
    pooled = f"the largest of its slices' probabilities ({pooling})" if pooling == "max" else pooling
    _show(f"experiment {number}: {card.name}, tta {card.tta}, per slice{said}", card.slices)
    _show(f"experiment {number}: {card.name}, tta {card.tta}, per study by {pooled}{said}", card.studies)
    by_fold = ", ".join(f"{fold}: {cell(value)}" for fold, value in card.folds.items())
    console.print(f"log loss by fold{said}  {by_fold}", markup=False)
    if card.left_out:
        say(f"note: {card.left_out} slices could not be decoded and are not in any score", style="yellow")


def _show(title: str, found: "Bootstrap") -> None:
    """Print one row per label, each score above its interval; what is undefined is a dash, with the reason below."""
    rows: list[tuple[object, ...]] = [("weighted", "", _told(found.log_loss), *[""] * (len(HEADINGS) - 1))]
    reasons: dict[str, list[str]] = {}
    for label, point in zip(found.labels, found.scores.labels, strict=True):
        intervals = [found.labels[label][metric] for metric in HEADINGS]
        rows.append((label, f"{point.positives:,}", *map(_told, intervals)))
        for reason in dict.fromkeys(i.undefined for i in intervals if i.undefined):
            reasons.setdefault(reason, []).append(label)
    caption = f"{found.scores.count:,} {_many(found)} of {found.patients:,} patients; below each score its "
    caption += f"{found.level:.0%} interval from {found.draws:,} draws of patients"
    table(title, ("label", "positive", *HEADINGS.values()), rows, caption=caption)
    for reason, labels in reasons.items():
        console.print(f"{', '.join(labels)}: {reason}", style="dim", markup=False)


def _many(found: "Bootstrap") -> str:
    return "slices" if found.scores.unit == "slice" else "studies"


def _told(interval: "Interval") -> str:
    if interval.low is None or interval.high is None:
        return f"{cell(interval.value)}\n-"
    return f"{cell(interval.value)}\n{interval.low:.4f}-{interval.high:.4f}"
