"""Every `ichx` command line in the README and the docs has a known command, options and number of arguments."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from ichx.cli.app import app
from ichx.plugins import load_registry

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"```sh\n(.*?)```", re.DOTALL)
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def command_lines(page: Path) -> Iterator[list[str]]:
    """Yield the arguments of each `ichx` command in the shell blocks of a page."""
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars="|&>;")
            lexer.whitespace_split = True
            words: list[str] = []
            for token in [*lexer, ";"]:
                if set(token) <= set("|&>;"):
                    if words[:1] == ["ichx"]:
                        yield words[1:]
                    words = []
                else:
                    words.append(token)


def parse(arguments: list[str]) -> None:
    """Parse the arguments of a command as the program does, and run nothing."""
    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="ichx")
    rest = arguments
    while isinstance(command, TyperGroup) and rest and command.get_command(context, rest[0]) is not None:
        name, *rest = rest
        found = command.get_command(context, name)
        assert found is not None
        command = found
        context = typer.Context(command, info_name=name, parent=context)
    command.make_context(context.info_name, list(rest), parent=context.parent)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_line_parses(page: Path) -> None:
    for arguments in command_lines(page):
        try:
            parse(["1" if word == "last" else word for word in arguments])  # `last` needs a store
        except typer.Exit:
            pass
        except Exception as error:
            pytest.fail(f"ichx {' '.join(arguments)}: {error}")


def test_every_plugin_exists() -> None:
    known = set(load_registry().plugins) | {"NAME", "shallow_ct"}  # of the page on plugins
    named = {
        (str(page.relative_to(ROOT)), arguments[at + 1])
        for page in PAGES
        for arguments in command_lines(page)
        for at in range(len(arguments) - 1)
        if arguments[at] == "--plugin"
    }
    assert {one for one in named if one[1] not in known} == set()
    assert len(named) > 5


def test_the_pages_have_command_lines() -> None:
    assert sum(1 for page in PAGES for _ in command_lines(page)) > 150
