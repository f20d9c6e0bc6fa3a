"""The pages on the commands and the tables say what they are."""

from pathlib import Path

import pytest
import typer
from test_program import command_paths

from ichx.cli.app import app
from ichx.cli.reference import PAGES, commands, parameters
from ichx.store.tables import METADATA

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("file", PAGES)
def test_the_page_is_in_step(file: str) -> None:
    assert (DOCS / file).read_text(encoding="utf-8") == PAGES[file](), "run: python -m ichx.cli.reference docs"


def test_every_column_says_what_it_is() -> None:
    assert [(t.name, c.name) for t in METADATA.sorted_tables for c in t.columns if not c.doc] == []


def test_every_command_is_there() -> None:
    assert [tuple(name.split()) for name, _ in commands()] == command_paths()


@pytest.mark.parametrize("path", command_paths(), ids=" ".join)
def test_arguments_and_options_are_those_that_the_program_takes(path: tuple[str, ...]) -> None:
    command = typer.main.get_command(app)
    context = typer.Context(command)
    for name in path:
        command = command.get_command(context, name)  # type: ignore[attr-defined]
        context = typer.Context(command, parent=context)
    taken = command.get_params(context)
    rows = parameters(dict(commands())[" ".join(path)])
    options = [p for p in taken if p.param_type_name == "option" and p.name != "help"]
    wanted = sorted(["/".join([*p.opts, *p.secondary_opts]) for p in options])
    found = [row.written.replace("`", "") for row in rows if row.kind == "option"]
    assert sorted("/".join(name.split()[0] for name in written.split(", ")) for written in found) == wanted
    required = [bool(p.required) for p in taken if p.name != "help"]
    assert sorted(row.default == "required" for row in rows) == sorted(required)
    assert [row.help for row in rows] == [p.help for p in taken if p.name != "help"]
