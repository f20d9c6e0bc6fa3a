"""Checks of what users attach to experiments: tags and notes. Names: `ichx.errors.check_name`."""

from collections.abc import Iterable
from typing import Final

from ichx.errors import InvalidInputError, check_name, raise_problems

MAX_NOTE: Final = 20_000
"""Characters of a note."""


def check_tags(tags: Iterable[str]) -> list[str]:
    """Return `tags` without spaces around them.

    Raises:
        InvalidInputError: A tag is empty, too long, or has a comma, line breaks or control characters.
    """
    found = list(tags)
    raise_problems([f"Invalid tag: {tag!r}." for tag in found if "," in tag], "Use tags without a comma.")
    return [check_name("tag", tag) for tag in found]


def check_note(text: str) -> str:
    """Return the `text` of a note without space around it; raise `InvalidInputError` if it is empty or too long."""
    stripped = text.strip()
    if not stripped:
        raise InvalidInputError("The note is empty.", "Add a text.")
    if len(stripped) > MAX_NOTE:
        raise InvalidInputError(f"The note has {len(stripped):,} characters.", f"Use at most {MAX_NOTE:,}.")
    return stripped
