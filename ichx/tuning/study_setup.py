"""The setup of a study, which all its trials have in common: description of its differences from another one."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

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

DIGESTS = ("recipe", "labels", "folds")
"""Parts of the setup that are only compared."""

MAX_DIFFERENCES: Final = 8


def differences(created: Mapping[str, Any], requested: Mapping[str, Any]) -> list[str]:
    """Return one line for each part in which the setup of an existing study differs from the requested one.

    Args:
        created: The setup that the study was created with.
        requested: The requested setup.
    """
    old, new = (dict(_options(setup)) for setup in (created, requested))
    lines = [f"{part}: different" for part in DIGESTS if part in requested and created.get(part) != requested[part]]
    lines += [
        f"{name}: {old.get(name, 'not set')}, requested: {new.get(name, 'not set')}"
        for name in {**old, **new}
        if old.get(name) != new.get(name)
    ]
    more = len(lines) - MAX_DIFFERENCES
    return lines[:MAX_DIFFERENCES] + ([f"and {format_count(more, 'other difference')}"] if more > 0 else [])


def _options(setup: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the name and text of each option and searched value that is set."""
    for name, value in {**setup, **(setup.get("limits") or {})}.items():
        if name in OPTIONS and value is not None:
            yield OPTIONS[name], f"{value:g}" if isinstance(value, float) else str(value)
    for text in setup.get("search space") or ():
        name, _, search = text.partition("=")
        yield name, search
