"""Fields of recipe tables that later versions of ichx add."""

from dataclasses import field
from typing import Any


def added(default: Any) -> Any:
    """Return a field that older recipes lack; the digest leaves it out while it has its default."""
    return field(default=default, metadata={"added": True})
