"""How counts and examples are said in messages. Not for tables or colours (`ichx.cli.tables`)."""

from collections.abc import Iterable
from typing import Final

EXAMPLES: Final = 3
"""How many rows or ids a message names."""


def counted(count: int, one: str, many: str = "") -> str:
    """Return `1 study` or `1,234 studies`; `many` is `one` with an s when left out."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def such_as(examples: Iterable[str], count: int | None = None) -> str:
    """Return `namely a; b`, or `such as a; b; c` when there are more; `count` is the number of all of them."""
    shown = list(examples)
    total = len(shown) if count is None else count
    return ("namely " if total <= EXAMPLES else "such as ") + "; ".join(shown[:EXAMPLES])


def bytes_told(count: int) -> str:
    """Return an amount of storage as people say it: `812 B`, `4.2 kB`, `31 MB`, `91.2 GB`."""
    if count < 1000:
        return f"{count} B"
    unit, name = (1e9, "GB") if count >= 999.5e6 else (1e6, "MB") if count >= 999.5e3 else (1e3, "kB")
    return f"{count / unit:,.0f} {name}" if name != "GB" and count >= 10 * unit else f"{count / unit:,.1f} {name}"
