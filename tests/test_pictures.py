"""Pictures of the docs: each is written by a script, is shown somewhere, and has the wording of the program."""

import html
import re
from pathlib import Path

import pytest
from conftest import Program

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"


def svg_words(path: Path) -> list[str]:
    """Return the words of a terminal in an SVG."""
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text(encoding="utf-8"))
    return html.unescape(" ".join(texts)).replace("\xa0", " ").split()


def test_every_picture_is_written_by_a_script_and_shown() -> None:
    scripts = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.py"))
    pages = "".join(path.read_text(encoding="utf-8") for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
    shown = set(re.findall(r"!\[[^\]]*\]\((?:docs/)?images/([^)]+)\)", pages))
    pictures = {path.name for path in IMAGES.iterdir()}
    assert pictures == shown
    assert {name for name in pictures if name not in scripts} == set()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("picture", "arguments", "heading"),
    [
        ("terminal_exp_list.svg", ("exp", "list"), "dataset"),
        ("terminal_ensemble.svg", ("ensemble", "--top", 4, "--tta", "hflip"), "OOF score"),
    ],
)
def test_a_terminal_has_the_headings_of_the_program(
    ichx: Program,
    trained_copy: Path,
    picture: str,
    arguments: tuple[object, ...],
    heading: str,
) -> None:
    printed = ichx(*arguments, cwd=trained_copy)
    assert printed.code == 0, printed.err
    (headings,) = [
        line.replace("│", " ").replace("┃", " ").split() for line in printed.out.splitlines() if heading in line
    ]
    words = svg_words(IMAGES / picture)
    assert words[1:4] == ["$", "ichx", str(arguments[0])]  # after the title
    assert [word for word in headings if word not in words] == []
