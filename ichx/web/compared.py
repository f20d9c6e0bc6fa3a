"""Task of the helper process that compares two experiments or ensembles, as JSON values for their page."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from ichx.labels import LABELS
from ichx.project import Project
from ichx.store import Ensemble, Experiment

if TYPE_CHECKING:
    from collections.abc import Callable

    from ichx.evaluation.bootstrap import Interval
    from ichx.evaluation.choices import Tta
    from ichx.evaluation.compare import ScoreComparison

    Report = Callable[[str, int, int], None]

DISAGREEMENTS: Final = 25
"""Slices in the table of a comparison."""

Scored = Experiment | Ensemble


def find_scored(project: Project, key: str) -> Scored:
    """Return e.g. `experiment:6`, a checked key."""
    kind, _, number = key.partition(":")
    return project.store.ensemble(int(number)) if kind == "ensemble" else project.store.experiment(int(number))


def compare(
    project: Project, report: "Report", first: str, second: str, tta: "Tta", label: str | None
) -> dict[str, Any]:
    """Return the variables of `compare_scores.html.j2` that `compare_scores` computes; see there."""
    from ichx.evaluation.compare import compare_scores, conclusion, title, undefined_reasons

    pair = find_scored(project, first), find_scored(project, second)
    found = compare_scores(project, *pair, tta=tta, shown=DISAGREEMENTS, label=label)
    return {
        "tta": found.tta,
        "slices": found.slices,
        "patients": found.difference.patients,
        "draws": found.difference.draws,
        "notes": list(found.notes),
        "names": [title(one) for one in pair],
        "conclusion": conclusion(found.difference, *pair),
        "reasons": undefined_reasons(found.difference),
        "rows": _rows(found),
        "disagreements": [{**asdict(one), "label": one.label} for one in found.disagreements],
    }


def _rows(found: "ScoreComparison") -> list[dict[str, Any]]:
    """Return the rows of the table of differences, with the places of each interval on a common axis, in percent."""
    difference = found.difference
    rows: list[tuple[str, float, float, Interval, Interval | None]] = [
        ("weighted", found.first, found.second, difference, None),
        *(
            (name, found.first_labels[name], found.second_labels[name], difference.labels[name], difference.auc[name])
            for name in LABELS
        ),
    ]
    ends = [abs(end) for row in rows for end in (row[3].value, row[3].low, row[3].high) if end is not None]
    reach = max(ends, default=0.0) or 1.0

    def place(value: float | None) -> float | None:
        return None if value is None else round(50 + 48 * value / reach, 2)

    return [
        {
            "name": name,
            "first": first,
            "second": second,
            "loss": _interval(loss),
            "auc": _interval(auc),
            "places": [place(end) for end in (loss.low, loss.value, loss.high)],
        }
        for name, first, second, loss, auc in rows
    ]


def _interval(found: "Interval | None") -> dict[str, float | None] | None:
    return None if found is None else {"value": found.value, "low": found.low, "high": found.high}
