"""How a study and what it searches are written, on the terminal and in reports. Optuna is not needed for it."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ichx.tuning.budget import Value
from ichx.tuning.setup import LIMITS

if TYPE_CHECKING:
    from ichx.tuning.results import Learned


def told(value: Value | None) -> str | None:
    """Return a searched value as a table has it: three digits of a number, a choice without quotes."""
    if isinstance(value, float):
        return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"
    if isinstance(value, str) and value.startswith('"'):
        return str(json.loads(value))
    return None if value is None else str(value)


def headers(names: Sequence[str], among: Sequence[str]) -> list[str]:
    """Return the last words of `names`, with what stands before where another one `among` all has the same."""
    last = [name.rpartition(".")[2] for name in among]
    found = []
    for name in names:
        word = name.rpartition(".")[2]
        found.append(name.removeprefix("stage.").removeprefix("input.") if last.count(word) > 1 else word)
    return found


def good(learned: "Learned") -> str | None:
    """Return the values of the best quarter of the trials: from the lowest to the highest, or the choices."""
    if not learned.good:
        return None
    if learned.choices:
        return ", ".join(str(told(value)) for value in learned.good)
    return " to ".join(dict.fromkeys(str(told(value)) for value in learned.good))


def searched(learned: "Learned") -> str:
    """Return where a value was searched."""
    if learned.choices:
        return ", ".join(str(told(value)) for value in learned.choices)
    return f"{told(learned.low)} to {told(learned.high)}" + ", log" * learned.log


def over(exceeded: Sequence[str]) -> str:
    """Return which limits a trial does not keep."""
    return "over " + ", ".join(LIMITS.get(name, name) for name in exceeded)
