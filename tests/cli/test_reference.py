"""The generated pages on the commands and the store's tables."""

from pathlib import Path

import pytest
import typer
from test_program import command_paths

from ichx.cli.app import app
from ichx.cli.reference import PAGES, commands, parameters
from ichx.store.tables import METADATA

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("file", PAGES)
def test_page_is_up_to_date(file: str) -> None:
    assert (DOCS / file).read_text(encoding="utf-8") == PAGES[file](), "run: nox -s golden"


def test_every_column_has_a_description() -> None:
    assert [(t.name, c.name) for t in METADATA.sorted_tables for c in t.columns if not c.doc] == []


def test_page_has_every_command() -> None:
    assert [tuple(name.split()) for _, name, _ in commands()] == command_paths()


@pytest.mark.parametrize("path", command_paths(), ids=" ".join)
def test_page_has_the_parameters_of_the_program(path: tuple[str, ...]) -> None:
    command = typer.main.get_command(app)
    context = typer.Context(command)
    for name in path:
        command = command.get_command(context, name)  # type: ignore[attr-defined]
        context = typer.Context(command, parent=context)
    expected = [p for p in command.get_params(context) if p.name != "help"]
    rows = parameters(next(function for _, name, function in commands() if name == " ".join(path)))
    options = sorted("/".join([*p.opts, *p.secondary_opts]) for p in expected if p.param_type_name == "option")
    written = [row.written.replace("`", "") for row in rows if row.kind == "option"]
    assert sorted("/".join(name.split()[0] for name in names.split(", ")) for names in written) == options
    assert sorted(row.default == "required" for row in rows) == sorted(bool(p.required) for p in expected)
    assert [row.help for row in rows] == [p.help for p in expected]
