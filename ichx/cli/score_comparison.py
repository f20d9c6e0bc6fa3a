"""What `ichx exp diff` prints about the scores of two experiments."""

from typing import TYPE_CHECKING

from ichx.cli.comparison_tables import print_study_areas
from ichx.cli.output import console, warn
from ichx.cli.tables import format_bounds, print_table
from ichx.formatting import format_value, marks_of
from ichx.labels import LABELS

if TYPE_CHECKING:
    from ichx.evaluation.bootstrap import Interval
    from ichx.evaluation.compare import ScoreComparison
    from ichx.store import Experiment


def print_comparison(found: "ScoreComparison", one: "Experiment", two: "Experiment") -> None:
    """Print both scores, their differences with intervals, in total and per label, and the largest disagreements."""
    from ichx.evaluation.compare import conclusion, undefined_reasons

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
    print_study_areas(found.study_auc, f"exp {a}", f"exp {b}")
    for reason, names in undefined_reasons(difference).items():
        console.print(f"{', '.join(names)}: {reason}", style="dim", markup=False)
    console.print(conclusion(difference, one, two), markup=False)
    rows = []
    for d in found.disagreements:
        k = LABELS.index(d.label)
        losses = f"{format_value(d.first_loss)}\n{format_value(d.second_loss)}"
        probabilities = f"{d.first[k]:.4f}\n{d.second[k]:.4f}"
        rows.append((d.slice_id, "\n".join(d.positive) or "none", f"{a}\n{b}", losses, d.label, probabilities))
    if rows:
        heads = ("slice", "positive", "exp", "loss", "label that differs most", "probability")
        print_table("largest disagreements", heads, rows)


def _format(found: "Interval") -> str:
    return format_bounds(found, 5, sign="+")
