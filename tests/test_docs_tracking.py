"""The page on tracking: its commands run, in their order, and print what it says they print."""

import re
import shlex
from pathlib import Path

import pytest
from conftest import Program

PAGE = Path(__file__).parents[1] / "docs" / "tracking.md"
BLOCK = re.compile(r"```(sh|text)\n(.*?)```", re.DOTALL)


def blocks() -> list[tuple[str, list[str]]]:
    """Return the kind and the lines of the page's blocks."""
    return [(kind, text.splitlines()) for kind, text in BLOCK.findall(PAGE.read_text(encoding="utf-8"))]


def shape(line: str) -> str:
    """Return a line without what another run prints in another way: figures, widths."""
    return " ".join(re.sub(r"\d+", "0", line).split())


def test_commands_run_and_print_what_the_page_says(trained_copy: Path, ichx: Program) -> None:
    printed: set[str] = set()
    ran = checked = 0
    for kind, lines in blocks():
        if kind == "sh":
            printed = set()
            for line in lines:
                program, *arguments = shlex.split(line)
                assert program == "ichx", line
                done = ichx(*arguments, cwd=trained_copy)
                assert done.code == 0, f"{line}\n{done.err}"
                printed |= {shape(said) for said in done.out.splitlines()}
                ran += 1
        else:
            for line in lines:
                if not line.startswith(("┏", "┡", "└")):
                    assert shape(line) in printed, line
                    checked += 1
    assert (ran, checked) >= (30, 15)


@pytest.mark.parametrize("page", sorted(PAGE.parent.glob("*.md")), ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not link.startswith(("http://", "https://")):
            assert (page.parent / link).exists(), link
