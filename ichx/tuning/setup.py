"""The setup of a study, that all its trials have in common: in words, where another one is asked for."""

from collections.abc import Mapping, Sequence
from typing import Any

from ichx.text import format_count

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
    return "; ".join(names[:MOST_DIFFERENT]) + (f"; and {format_count(left, 'other value')}" if left > 0 else "")
