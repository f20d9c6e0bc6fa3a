"""What a user names as the source of pseudo-labels. This module imports no library, so that commands can check it."""

from ichx.errors import InvalidInputError


def parse_source(text: str) -> tuple[str, int]:
    """Return the kind and number in `6`, `experiment:6` or `ensemble:3`. Raises `InvalidInputError`."""
    kind, _, number = text.rpartition(":")
    kind = kind or "experiment"
    if kind not in ("experiment", "ensemble") or not number.isascii() or not number.isdecimal():
        raise InvalidInputError(
            f"Invalid value for --by: {text!r}.", "Use ensemble:NUMBER, or the number of an experiment."
        )
    return kind, int(number)
