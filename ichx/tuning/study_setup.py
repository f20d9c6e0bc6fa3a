"""The setup of a study, which all its trials have in common: description of its differences from another one."""

from collections.abc import Mapping, Sequence
from typing import Any

from ichx.text import format_count

LIMITS = {"epoch_seconds": "time", "memory_gb": "memory"}
"""Names of the limits of trials in tables."""

OPTIONS = {
    "fold": "--fold",
    "subset": "--subset",
    "length": "--length",
    "epoch_seconds": "--max-epoch-time",
    "memory_gb": "--max-memory",
    "start (pretrained)": "--pretrained",
    "start (weights)": "--weights",
}
"""Options of `ichx tune` by the part of the setup that they set."""

MAX_DIFFERENCES = 6
"""Number of different searched values that are listed."""


def differences(created: Mapping[str, Any], requested: Mapping[str, Any]) -> list[str]:
    """Return one line for each part in which the setup of an existing study differs from the requested one.

    Args:
        created: The setup that the study was created with.
        requested: The requested setup.
    """
    lines = []
    for part, value in requested.items():
        if created.get(part) == value:
            continue
        if part == "search space":
            lines += _space_differences(created.get(part) or [], value)
        elif part == "limits":
            before = created.get(part) or {}
            lines += [_difference(n, before.get(n), value.get(n)) for n in LIMITS if before.get(n) != value.get(n)]
        elif part in OPTIONS:
            lines.append(_difference(part, created.get(part), value))
        else:
            lines.append(f"different {part}")
    return lines


def _difference(part: str, before: object, now: object) -> str:
    return f"created {_format_option(part, before)}, not {_format_option(part, now)}"


def _format_option(part: str, value: object) -> str:
    if part == "start (pretrained)" and value is not None:
        return "with --pretrained" if value else "with --no-pretrained"
    unit = {"epoch_seconds": "s", "memory_gb": "GB"}.get(part, "")
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return f"without {OPTIONS[part]}" if value is None else f"with {OPTIONS[part]} {text}{unit}"


def _space_differences(before: Sequence[str], now: Sequence[str]) -> list[str]:
    old, new = (dict(text.split("=", 1) for text in space) for space in (before, now))
    changed = [f"{name}={old[name]}, not {new[name]}" for name in old if new.get(name, old[name]) != old[name]]
    parts = (
        ("it searches", changed),
        ("it also searches", [f"{name}={text}" for name, text in old.items() if name not in new]),
        ("it does not search", [name for name in new if name not in old]),
    )
    return [f"{verb} {_first_of(names)}" for verb, names in parts if names]


def _first_of(names: Sequence[str]) -> str:
    more = len(names) - MAX_DIFFERENCES
    return "; ".join(names[:MAX_DIFFERENCES]) + (f"; and {format_count(more, 'other value')}" if more > 0 else "")
