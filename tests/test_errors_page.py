"""The page on errors lists every error class with its code."""

import re
from pathlib import Path

from ichx.errors import IchxError

PAGE = (Path(__file__).parents[1] / "docs" / "errors.md").read_text(encoding="utf-8")


def subclasses(kind: type[IchxError]) -> set[tuple[str, str]]:
    """Return the code and name of every public subclass of `kind` in `ichx.errors`."""
    found: set[tuple[str, str]] = set()
    for child in kind.__subclasses__():
        if child.__module__ == "ichx.errors":
            found |= {(child.code, child.__name__)} | subclasses(child)
    return found


def test_every_code_is_listed_once() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \|", PAGE, flags=re.MULTILINE)
    assert len(rows) == len(set(rows)) == len({code for code, _ in rows})
    assert set(rows) == subclasses(IchxError)
