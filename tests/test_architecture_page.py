"""The page on the architecture lists every package and no file that does not exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_every_package_has_a_row() -> None:
    packages = {f"ichx/{path.parent.name}" for path in ROOT.glob("ichx/*/__init__.py")}
    assert packages == set(re.findall(r"^\| `(ichx/\w+)` \|", PAGE, flags=re.MULTILINE))


def test_every_package_is_in_the_picture() -> None:
    picture = PAGE.partition("```text\n")[2].partition("```")[0]
    words = set(re.findall(r"\w+", picture))
    assert {path.parent.name for path in ROOT.glob("ichx/*/__init__.py")} <= words


def test_every_path_exists() -> None:
    paths = re.findall(r"`((?:ichx|docs|tests|benchmarks)/[\w./]*)`", PAGE)
    assert len(paths) > 30
    assert [path for path in paths if not (ROOT / path).exists()] == []
