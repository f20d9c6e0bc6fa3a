"""The pages on the commands and on the store's tables, written from both: `python -m ichx.cli.reference docs`."""

import inspect
import re
import sys
import typing
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

import typer
from typer.models import ArgumentInfo, OptionInfo

from ichx.cli.commands import COMMANDS

COMMANDS_BEGIN = """# Commands

Every command of `ichx`, as `ichx COMMAND --help` has it. `ichx --install-completion` teaches the shell to complete
commands, plugins, tags and the numbers of experiments. `ichx --version` tells the version, `ichx --debug COMMAND`
shows the traceback of an error.

Where a command takes the number of an experiment, `last` is the newest. Exit codes: 0 done, 1 an error that you can
mend, 2 wrong usage, 130 interrupted, 143 a run that SIGTERM stopped.

This page is written by `python -m ichx.cli.reference docs`.
"""
TABLES_BEGIN = """# The store's tables

What `ichx store sql` asks; `ichx store schema` prints the same. Times are UTC. `->` says of which
table a value is a key. A later ichx may add tables and columns.

This page is written by `python -m ichx.cli.reference docs`.
"""
_VALUES = {int: "INTEGER", float: "NUMBER", str: "TEXT", Path: "PATH"}
_EXAMPLE = re.compile(r"Example: `(.+)`")


class Row(NamedTuple):
    """An argument or an option: how it is written, what it is, and what it is when it is left out."""

    kind: str
    written: str
    help: str
    default: str


def commands() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield every command as it is typed after `ichx`, groups left out, with the function that it runs."""
    for name, place in COMMANDS.items():
        module, _, attribute = place.partition(":")
        declared = getattr(import_module(f"ichx.cli.{module}"), attribute)
        if not isinstance(declared, typer.Typer):
            yield name, declared
            continue
        if declared.registered_callback is not None:  # a command itself
            assert declared.registered_callback.callback is not None
            yield name, declared.registered_callback.callback
        for command in declared.registered_commands:
            assert command.callback is not None
            yield f"{name} {command.name or command.callback.__name__}", command.callback


def parameters(function: Callable[..., Any]) -> list[Row]:
    """Return the arguments and options of a command, in their order."""
    hints = typing.get_type_hints(function, include_extras=True)
    return [_row(p, hints[p.name]) for p in inspect.signature(function).parameters.values()]


def commands_page() -> str:
    """Return the page on the commands."""
    found = list(commands())
    links = [f"[{name}](#{_anchor(name)})" for name, _ in found]
    return (
        "\n".join([COMMANDS_BEGIN, " · ".join(links), *(_section(name, function) for name, function in found)]) + "\n"
    )


def tables_page() -> str:
    """Return the page on the store's tables."""
    from ichx.store.tables import METADATA

    lines = [TABLES_BEGIN]
    for table in METADATA.sorted_tables:
        lines += [
            f"## {table.name}",
            "",
            f"{table.info['doc']}",
            "",
            "| column | type | what it is |",
            "| --- | --- | --- |",
        ]
        for column in table.columns:
            keys = "".join(f" -> {key.target_fullname}" for key in column.foreign_keys)
            about = (column.doc or "").replace("|", "\\|")
            lines.append(f"| `{column.name}` | {column.type}{keys} | {about} |")
        lines.append("")
    return "\n".join(lines)


PAGES = {"cli.md": commands_page, "schema.md": tables_page}
"""The pages by the names of their files."""


def _section(name: str, function: Callable[..., Any]) -> str:
    text = inspect.cleandoc(function.__doc__ or "")
    examples = _EXAMPLE.findall(text)
    told = _EXAMPLE.sub("", text).strip()
    lines = ["", f"## ichx {name}", "", re.sub(r"\n{3,}", "\n\n", told)]
    if examples:
        lines += ["", "```sh", *examples, "```"]
    rows = parameters(function)
    if rows:
        lines += ["", "| | what it is | default |", "| --- | --- | --- |"]
        ordered = sorted(rows, key=lambda row: row.kind)  # arguments first
        lines += [f"| {row.written} | {row.help} | {row.default} |" for row in ordered]
    return "\n".join(lines)


def _row(parameter: inspect.Parameter, hint: Any) -> Row:
    kind, info = hint.__origin__, hint.__metadata__[0]
    assert isinstance(info, OptionInfo | ArgumentInfo)
    inner, several = _bare(kind)
    required = parameter.default is inspect.Parameter.empty
    default = "required" if required else _default(parameter.default)
    about = (info.help or "").replace("|", "\\|").replace("\n", " ")
    if isinstance(info, ArgumentInfo):
        written = info.metavar or parameter.name.upper() + "..." * several
        return Row("argument", f"`{written}`", about, default)
    given = (info.default, *(info.param_decls or ()))  # what stands first in `Annotated` is no default
    names = [name for name in given if isinstance(name, str)] or [f"--{parameter.name.replace('_', '-')}"]
    value = "" if inner is bool else " " + (info.metavar or _value(inner))
    return Row("option", ", ".join(f"`{name}{value}`" for name in names), about, default)


def _bare(kind: Any) -> tuple[Any, bool]:
    """Return the type of one value, without None and list, and whether there may be several."""
    options = [option for option in typing.get_args(kind) if option is not NoneType]
    if typing.get_origin(kind) is not typing.Literal and typing.get_origin(kind) is not list and options:
        kind = options[0]
    if typing.get_origin(kind) is list:
        return typing.get_args(kind)[0], True
    return kind, False


def _value(kind: Any) -> str:
    return "|".join(typing.get_args(kind)).replace("|", "\\|") if typing.get_args(kind) else _VALUES[kind]


def _default(value: object) -> str:
    if value is None or value is False:
        return ""
    return "yes" if value is True else f"`{value}`"


def _anchor(name: str) -> str:
    return f"ichx-{name.replace(' ', '-')}"


if __name__ == "__main__":
    for file, page in PAGES.items():
        (Path(sys.argv[1]) / file).write_text(page(), encoding="utf-8")
