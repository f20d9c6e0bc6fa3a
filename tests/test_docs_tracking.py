"""The page on tracking: its commands run in order and print the output that the page quotes."""

import re
import shlex
from pathlib import Path

import pytest
from conftest import Program

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "tracking.md"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
BLOCK = re.compile(r"```(sh|text)\n(.*?)```", re.DOTALL)


def blocks() -> list[tuple[str, list[str]]]:
    """Return the language and the lines of each code block of the page."""
    return [(kind, text.splitlines()) for kind, text in BLOCK.findall(PAGE.read_text(encoding="utf-8"))]


def shape(line: str) -> str:
    """Return a line with digits and widths normalized, because they differ between runs."""
    return " ".join(re.sub(r"\d+(,\d{3})*", "0", line).split())


def test_commands_print_the_quoted_output(trained_copy: Path, ichx: Program) -> None:
    printed: set[str] = set()
    ran = checked = 0
    for kind, lines in blocks():
        if kind == "sh":
            printed = set()
            for line in lines:
                program, *arguments = shlex.split(line, comments=True)
                assert program == "ichx", line
                if arguments[:2] == ["exp", "import"]:
                    arguments.append("--again")  # the page imports into another workspace
                done = ichx(*arguments, cwd=trained_copy)
                assert done.code == 0, f"{line}\n{done.err}"
                printed |= {shape(output) for output in done.out.splitlines()}
                ran += 1
        else:
            for line in lines:
                if not line.startswith(("┏", "┡", "└")):
                    assert shape(line) in printed, line
                    checked += 1
    assert ran >= 30, "the page has fewer commands than expected"
    assert checked >= 15, "the page quotes fewer lines of output than expected"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_exist(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not link.startswith(("http://", "https://")):
            assert (page.parent / link).exists(), link
