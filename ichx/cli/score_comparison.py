"""How a comparison of two experiments' scores is shown."""

from typing import TYPE_CHECKING

from ichx.cli.formatting import format_value, marks_of
from ichx.cli.output import console, warn
from ichx.cli.tables import print_table
from ichx.labels import LABELS

if TYPE_CHECKING:
    from ichx.evaluation.bootstrap import Interval, ScoreDifference
    from ichx.evaluation.compare import ScoreComparison
    from ichx.store import Experiment


def show_scores(found: "ScoreComparison", one: "Experiment", two: "Experiment") -> None:
    """Print both scores, their difference with its interval, by label as well, and where they disagree most."""
    for note in found.notes:
        warn(note)
    made, a, b = found.difference, one.number, two.number
    console.print(
        f"log loss on {found.slices:,} slices of {made.patients:,} patients, tta {found.tta}\n"
        f"  exp {a}  {format_value(found.first)}{marks_of(one)}\n"
        f"  exp {b}  {format_value(found.second)}{marks_of(two)}",
        markup=False,
    )
    of_label = [(label, _told(made.labels[label]), _told(made.auc[label])) for label in LABELS]
    print_table(
        f"{a} less {b}: under 0, the loss of {a} is lower",
        ("label", "log loss", "AUC"),
        [("weighted", _told(made), ""), *of_label],
        caption=f"below each difference its 95% interval, paired, from {made.draws:,} draws of patients",
    )
    reasons: dict[str, list[str]] = {}
    for label in LABELS:
        for reason in dict.fromkeys(d.undefined for d in (made.labels[label], made.auc[label]) if d.undefined):
            reasons.setdefault(reason, []).append(label)
    for reason, labels in reasons.items():
        console.print(f"{', '.join(labels)}: {reason}", style="dim", markup=False)
    console.print(_verdict(made, one, two), markup=False)
    rows = []
    for d in found.disagreements:
        k = max(range(len(LABELS)), key=lambda k: abs(d.first[k] - d.second[k]))
        losses = f"{format_value(d.first_loss)}\n{format_value(d.second_loss)}"
        chances = f"{d.first[k]:.4f}\n{d.second[k]:.4f}"
        rows.append((d.slice_id, "\n".join(d.positive) or "none", f"{a}\n{b}", losses, LABELS[k], chances))
    if rows:
        heads = ("slice", "positive", "exp", "loss", "furthest apart in", "probability")
        print_table("where they disagree most", heads, rows)


def _told(found: "Interval | ScoreDifference") -> str:
    value = "-" if found.value is None else f"{found.value:+.5f}"
    if found.low is None or found.high is None:
        return f"{value}\n-"
    return f"{value}\n{found.low:+.5f} to {found.high:+.5f}"


def _verdict(found: "ScoreDifference", one: "Experiment", two: "Experiment") -> str:
    """Return what the interval of the difference says in words."""
    if one.leaked or two.leaked:
        return "their folds leak patients: the difference may be what each remembers of them"
    if found.low is None or found.high is None:
        return f"the difference has no interval: {found.undefined}"
    if found.low == found.high == 0:
        return "they predict the same"
    if found.low <= 0 <= found.high:
        return "the interval includes 0: these patients do not tell which is better"
    better = one if found.high < 0 else two
    return f"experiment {better.number} is better, beyond what the choice of patients explains"
