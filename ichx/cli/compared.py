"""How a comparison of two experiments' scores is shown."""

from typing import TYPE_CHECKING

from ichx.cli.render import cell, console, marked, table, warn
from ichx.labels import LABELS

if TYPE_CHECKING:
    from ichx.evaluation.bootstrap import Difference, Interval
    from ichx.evaluation.compare import ScoreComparison
    from ichx.store import Experiment


def show_scores(found: "ScoreComparison", one: "Experiment", two: "Experiment") -> None:
    """Print both scores, their difference with its interval, by label as well, and where they disagree most."""
    for note in found.notes:
        warn(note)
    made, a, b = found.difference, one.number, two.number
    console.print(
        f"log loss on {found.slices:,} slices of {made.patients:,} patients, tta {found.tta}: "
        f"experiment {a} {cell(found.first)}{marked(one)}, experiment {b} {cell(found.second)}{marked(two)}",
        markup=False,
    )
    table(
        f"{a} less {b}: under 0, the loss of {a} is lower",
        ("label", "log loss", "95 % interval", "AUC", "95 % interval"),
        [("weighted", *_difference(made), "", "")]
        + [(label, *_difference(made.labels[label]), *_difference(made.auc[label])) for label in LABELS],
        caption=f"paired, over {made.draws:,} draws of patients",
    )
    console.print(_verdict(made, one, two), markup=False)
    if found.disagreements:
        rows = []
        for d in found.disagreements:
            k = max(range(len(LABELS)), key=lambda k: abs(d.first[k] - d.second[k]))
            rows.append(
                (
                    d.slice_id,
                    ", ".join(d.positive) or "none",
                    d.first_loss,
                    d.second_loss,
                    LABELS[k],
                    f"{d.first[k]:.4f}",
                    f"{d.second[k]:.4f}",
                )
            )
        heads = ("slice", "positive", f"loss {a}", f"loss {b}", "furthest apart in", f"p of {a}", f"p of {b}")
        table("where they disagree most", heads, rows)


def _difference(found: "Interval | Difference") -> tuple[str, str]:
    value = "-" if found.value is None else f"{found.value:+.5f}"
    if found.low is None or found.high is None:
        return value, found.undefined or "-"
    return value, f"{found.low:+.5f} to {found.high:+.5f}"


def _verdict(found: "Difference", one: "Experiment", two: "Experiment") -> str:
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
