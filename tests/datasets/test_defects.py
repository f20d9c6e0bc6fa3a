"""The documentation lists every defect, assumption and flag."""

import re
from pathlib import Path

from ichx.ct.assumptions import ASSUMPTIONS
from ichx.datasets.defects import DEFECTS
from ichx.datasets.series import FLAGS

PAGE = (Path(__file__).parents[2] / "docs/data.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[str]:
    """Return the first cells of the table under `heading`."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)


def test_every_defect_is_documented() -> None:
    assert rows("Defects") == list(DEFECTS)


def test_every_assumption_is_documented() -> None:
    assert rows("Reading assumptions") == list(ASSUMPTIONS)


def test_every_flag_is_documented() -> None:
    assert rows("Geometry") == list(FLAGS)
