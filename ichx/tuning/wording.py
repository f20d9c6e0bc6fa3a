"""How a study and what it searches are written, on the terminal and in reports. Optuna is not needed for it."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ichx.data.wording import counted
from ichx.tuning.budget import Value

if TYPE_CHECKING:
    from ichx.tuning.results import Learned

LIMITS = {"epoch_seconds": "time", "memory_gb": "memory"}
"""The limits of trials, as a table has them."""

OPTIONS = {
    "fold": "--fold",
    "subset": "--subset",
    "length": "--length",
    "epoch_seconds": "--max-epoch-time",
    "memory_gb": "--max-memory",
    "start (pretrained)": "--pretrained",
    "start (weights)": "--weights",
}
"""The options of `ichx tune` that a study's setup comes from."""

MOST_DIFFERENT = 6
"""So many searched values that differ are told."""


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


def differences(made: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """Return a line for each thing in which the setup that a study was `made` with is not what is `asked` for."""
    lines = []
    for what in asked:
        if made.get(what) == asked[what]:
            continue
        if what == "search space":
            lines += _searched_differently(made.get(what) or [], asked[what])
        elif what == "limits":
            before, now = made.get(what) or {}, asked[what]
            lines += [_made_with(n, before.get(n), now.get(n)) for n in LIMITS if before.get(n) != now.get(n)]
        elif what in OPTIONS:
            lines.append(_made_with(what, made.get(what), asked[what]))
        else:
            lines.append(f"its {what} are others" if what.endswith("s") else f"its {what} is another")
    return lines


def _made_with(what: str, before: object, now: object) -> str:
    return f"it was made {_option(what, before)}, not {_option(what, now)}"


def _option(what: str, value: object) -> str:
    if what == "start (pretrained)" and value is not None:
        return "with --pretrained" if value else "with --no-pretrained"
    unit = {"epoch_seconds": "s", "memory_gb": "GB"}.get(what, "")
    told_of = f"{value:g}" if isinstance(value, float) else str(value)
    return f"without {OPTIONS[what]}" if value is None else f"with {OPTIONS[what]} {told_of}{unit}"


def _searched_differently(before: Sequence[str], now: Sequence[str]) -> list[str]:
    old, new = (dict(text.split("=", 1) for text in space) for space in (before, now))
    parts = (
        (
            "it searches",
            [f"{name}={old[name]}, not {new[name]}" for name in old if new.get(name, old[name]) != old[name]],
        ),
        ("it also searches", [f"{name}={text}" for name, text in old.items() if name not in new]),
        ("it does not search", [name for name in new if name not in old]),
    )
    return [f"{said} {_some(names)}" for said, names in parts if names]


def _some(names: Sequence[str]) -> str:
    left = len(names) - MOST_DIFFERENT
    return "; ".join(names[:MOST_DIFFERENT]) + (f"; and {counted(left, 'other value')}" if left > 0 else "")
