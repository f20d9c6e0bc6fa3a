"""Text of searched values and their names, in tables and reports. No Optuna."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ichx.text import parse_json
from ichx.tuning.budget import Value
from ichx.tuning.study_setup import LIMITS

if TYPE_CHECKING:
    from ichx.tuning.promoted import Promoted
    from ichx.tuning.results import StudyView, ValueFindings


def format_searched(value: Value | None) -> str | None:
    """Return a searched value for a table: three digits of a float, a choice without quotes."""
    if isinstance(value, float):
        return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"
    if isinstance(value, str) and value.startswith('"'):
        return str(parse_json(value))
    return None if value is None else str(value)


def short_names(names: Sequence[str], among: Sequence[str]) -> list[str]:
    """Return the last parts of `names`, and longer ones where two names `among` all have the same last part."""
    last_parts = [name.rpartition(".")[2] for name in among]
    short = []
    for name in names:
        last = name.rpartition(".")[2]
        short.append(name.removeprefix("stage.").removeprefix("input.") if last_parts.count(last) > 1 else last)
    return short


def format_good(learned: "ValueFindings") -> str | None:
    """Return the values of the best quarter of the trials: lowest to highest, or the choices."""
    if not learned.good:
        return None
    separator = ", " if learned.choices else " to "
    return separator.join(dict.fromkeys(str(format_searched(value)) for value in learned.good))


def format_range(learned: "ValueFindings") -> str:
    """Return the searched range or choices of a value."""
    if learned.choices:
        return ", ".join(str(format_searched(value)) for value in learned.choices)
    off = "0 or " if learned.off else ""
    return f"{off}{format_searched(learned.low)} to {format_searched(learned.high)}" + ", log" * learned.log


def format_exceeded(exceeded: Sequence[str]) -> str:
    """Return the names of exceeded limits after `over`."""
    return "over " + ", ".join(LIMITS.get(name, name) for name in exceeded)


def format_verdict(view: "StudyView") -> str:
    """Return whether the best trial is better than the recipe; an empty string before that is known.

    Only folds that did not choose the trial can show that it is better.
    """
    best = view.best
    if best is None:
        return ""
    if best.baseline:
        return f"No trial is better than the recipe: the unchanged recipe has the best score on fold {view.fold}."
    promoted = next((p for p in view.promoted if p.trial == best.experiment), None)
    return "" if promoted is None else _format_comparison(promoted)


def _format_comparison(promoted: "Promoted") -> str:
    found = promoted.compared
    if found.better_by is None:
        return ""
    folds = f"fold{'s' if len(promoted.folds) > 1 else ''} {', '.join(map(str, promoted.folds))}"
    if found.low is None or found.high is None:
        gain = f"gain {found.better_by:+.5f} on {folds}, {found.undefined}"
        return f"It is not known whether a trial is better than the recipe: {gain}."
    interval = f"95 % interval over patients {found.low:+.5f} to {found.high:+.5f}"
    if found.low > 0:
        return f"The best trial is better than the recipe on {folds}: gain {found.better_by:+.5f}, {interval}."
    if found.high < 0:
        return f"No trial is better than the recipe: the best one is worse on {folds}, gain {interval}."
    return f"No trial is better than the recipe: interval of the gain on {folds} includes 0 ({interval})."
