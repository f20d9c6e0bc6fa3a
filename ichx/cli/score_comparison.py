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
    _print_study_areas(found, a, b)
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


def _print_study_areas(found: "ScoreComparison", a: int, b: int) -> None:
    """Print DeLong's test of the AUC of studies."""
    rows = [
        (
            name,
            f"{of.first:.4f}",
            f"{of.second:.4f}",
            f"{of.difference:+.4f}",
            f"{of.low:+.4f} to {of.high:+.4f}",
            f"{of.p_value:.4f}",
        )
        for name, of in found.study_auc.items()
        if of is not None
    ]
    if rows:
        heads = ("label", f"exp {a}", f"exp {b}", f"{a} - {b}", "95 % interval", "p")
        print_table("AUC of studies, with the test of DeLong", heads, rows)


def _format(found: "Interval | ScoreDifference") -> str:
    value = "-" if found.value is None else f"{found.value:+.5f}"
    if found.low is None or found.high is None:
        return f"{value}\n-"
    return f"{value}\n{found.low:+.5f} to {found.high:+.5f}"
