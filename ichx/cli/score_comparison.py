"""What `ichx exp diff` prints about the scores of two experiments."""

from typing import TYPE_CHECKING

from ichx.cli.output import console, warn
from ichx.cli.tables import print_table
from ichx.formatting import format_value, marks_of
from ichx.labels import LABELS

if TYPE_CHECKING:
    from ichx.evaluation.bootstrap import Interval, ScoreDifference
    from ichx.evaluation.compare import ScoreComparison
    from ichx.store import Experiment


def print_comparison(found: "ScoreComparison", one: "Experiment", two: "Experiment") -> None:
    """Print both scores, their differences with intervals, in total and per label, and the largest disagreements."""
    for note in found.notes:
        warn(note)
    difference, a, b = found.difference, one.number, two.number
    console.print(
        f"log loss on {found.slices:,} slices of {difference.patients:,} patients, tta {found.tta}\n"
        f"  exp {a}  {format_value(found.first)}{marks_of(one)}\n"
        f"  exp {b}  {format_value(found.second)}{marks_of(two)}",
        markup=False,
    )
    per_label = [(name, _format(difference.labels[name]), _format(difference.auc[name])) for name in LABELS]
    print_table(
        f"difference {a} - {b}; a negative log loss favours {a}",
        ("label", "log loss", "AUC"),
        [("weighted", _format(difference), ""), *per_label],
        caption=f"below each difference its 95 % interval, paired, from {difference.draws:,} draws of patients",
    )
    reasons: dict[str, list[str]] = {}
    for name in LABELS:
        for reason in dict.fromkeys(
            d.undefined for d in (difference.labels[name], difference.auc[name]) if d.undefined
        ):
            reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        console.print(f"{', '.join(names)}: {reason}", style="dim", markup=False)
    console.print(_conclusion(difference, one, two), markup=False)
    rows = []
    for d in found.disagreements:
        k = max(range(len(LABELS)), key=lambda k: abs(d.first[k] - d.second[k]))
        losses = f"{format_value(d.first_loss)}\n{format_value(d.second_loss)}"
        probabilities = f"{d.first[k]:.4f}\n{d.second[k]:.4f}"
        rows.append((d.slice_id, "\n".join(d.positive) or "none", f"{a}\n{b}", losses, LABELS[k], probabilities))
    if rows:
        heads = ("slice", "positive", "exp", "loss", "label that differs most", "probability")
        print_table("largest disagreements", heads, rows)


def _format(found: "Interval | ScoreDifference") -> str:
    value = "-" if found.value is None else f"{found.value:+.5f}"
    if found.low is None or found.high is None:
        return f"{value}\n-"
    return f"{value}\n{found.low:+.5f} to {found.high:+.5f}"


def _conclusion(found: "ScoreDifference", one: "Experiment", two: "Experiment") -> str:
    """Return a sentence on what the interval of the difference shows."""
    if one.leaked or two.leaked:
        return "The folds leak patients, so the difference may come from memorised patients."
    if found.low is None or found.high is None:
        return f"The difference has no interval: {found.undefined}"
    if found.low == found.high == 0:
        return "The predictions are identical."
    if found.low <= 0 <= found.high:
        return "The interval includes 0: no significant difference on these patients."
    better = one if found.high < 0 else two
    return f"Experiment {better.number} is significantly better on these patients."
