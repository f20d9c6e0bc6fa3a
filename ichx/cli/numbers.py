"""Experiments on the command line: a number, or `last` for the newest; shells complete both."""

import contextlib
from typing import Annotated

import typer

from ichx.errors import IchxError


def parse_number(text: str) -> int:
    """Return the number that `text` names; raises `IchxError` for `last` where there is no experiment."""
    if text != "last":
        try:
            number = int(text)
        except ValueError:
            number = 0
        if number < 1:
            raise typer.BadParameter(f"{text!r} is no experiment's number; give one, such as 6, or `last`")
        return number
    from ichx.cli.render import session

    with session() as project:
        newest = project.store.experiments(limit=1)
    if not newest:
        raise IchxError("there is no experiment yet", "`ichx exp new --plugin NAME` makes one")
    return newest[0].number


def complete_number(incomplete: str) -> list[tuple[str, str]]:
    """Return the newest experiments that begin with `incomplete`, with their names; nothing where there is no store."""
    from ichx.cli.render import session

    found: list[tuple[str, str]] = []
    with contextlib.suppress(IchxError), session() as project:  # a shell has no place for an error
        found = [(str(e.number), e.name) for e in project.store.experiments(limit=200)]
    return [(number, name) for number, name in [*found, ("last", "the newest")] if number.startswith(incomplete)]


def complete_plugin(incomplete: str) -> list[tuple[str, str]]:
    """Return the plugins that begin with `incomplete`, with what they are."""
    from ichx.plugins import load_registry

    return [(p.name, p.summary) for p in load_registry().plugins.values() if p.name.startswith(incomplete)]


def complete_tag(incomplete: str) -> list[str]:
    """Return the tags that begin with `incomplete`."""
    from ichx.cli.render import session

    with contextlib.suppress(IchxError), session() as project:
        return [name for name in project.store.tags() if name.startswith(incomplete)]
    return []


Number = Annotated[
    int,
    typer.Argument(
        parser=parse_number, metavar="NUMBER", autocompletion=complete_number, help="An experiment's number, or `last`."
    ),
]
"""The argument of a command on one experiment."""

Numbers = Annotated[
    list[int],
    typer.Argument(
        parser=parse_number, metavar="NUMBER...", autocompletion=complete_number, help="Numbers of experiments."
    ),
]
"""The argument of a command on several experiments."""
