"""Text of searched values and their names, in tables and reports. No Optuna."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ichx.text import parse_json
from ichx.tuning.budget import Value
from ichx.tuning.study_setup import LIMITS

if TYPE_CHECKING:
    from ichx.tuning.results import ValueFindings


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
    return f"{format_searched(learned.low)} to {format_searched(learned.high)}" + ", log" * learned.log


def format_exceeded(exceeded: Sequence[str]) -> str:
    """Return the names of exceeded limits after `over`."""
    return "over " + ", ".join(LIMITS.get(name, name) for name in exceeded)
