"""The commands as typer runs them: each is imported and built when it is asked for, and converts only what is given."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

COMMANDS = {
    "init": "init:init",
    "demo": "demo:demo",
    "data": "data:app",
    "plugin": "plugin:app",
    "exp": "exp:app",
    "run": "run:run",
    "tune": "tune:app",
    "predict": "predict:predict",
    "evaluate": "evaluate:evaluate",
    "export": "export:export",
    "audit": "audit:audit",
    "scores": "scores:scores",
    "ensemble": "ensemble:ensemble",
    "submit": "submit:app",
    "report": "report:report",
    "gc": "gc:gc",
    "store": "store:app",
}
"""Each command, or group of commands, and where in `ichx.cli` it is declared."""


class LazyCommands(Mapping[str, Any]):
    """The commands by name, built when looked up: most of a command's start-up time is other commands'."""

    def __getitem__(self, name: str) -> Any:
        module, _, attribute = COMMANDS[name].partition(":")
        declared = getattr(import_module(f"ichx.cli.{module}"), attribute)
        holder = typer.Typer(add_completion=False, rich_markup_mode="markdown")
        if isinstance(declared, typer.Typer):
            for command in declared.registered_commands:
                command.cls = _Command
            holder.add_typer(declared, name=name, cls=_OpenCommand if declared.registered_callback else _Group)
        else:
            holder.command(name, cls=_Command)(declared)
        return typer.main.get_group(holder).commands[name]

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class _Option(TyperOption):
    """An option that has nothing to convert where it is not given: typer imports pydantic before it looks."""

    def process_value(self, ctx: Any, value: Any) -> Any:
        given = value not in (None, ()) if self.multiple else value is not None
        if given or self.required or self.nargs != 1:
            return super().process_value(ctx, value)
        value = None if self.multiple else value
        return value if self.callback is None else self.callback(ctx, self, value)


class _Sparing:
    """A command with `_Option`s; typer makes options of its own class only, those of --help and completion too."""

    def get_params(self, ctx: Any) -> list[Any]:
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc]  # of the command that this is mixed into
        for param in params:
            if type(param) is TyperOption:
                param.__class__ = _Option
        return params


class _Command(_Sparing, TyperCommand):
    """A command."""


class _Group(_Sparing, TyperGroup):
    """A group of commands."""


class _Argument(TyperArgument):
    """An argument in whose place a command under its command may stand: a shell completes these, too."""

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        return [*super().shell_complete(ctx, incomplete), *ctx.command.shell_complete(ctx, incomplete)]


class _OpenCommand(_Group):
    """A command that has others under it, too: `ichx tune 6` and `ichx tune show 6`. Its argument is one word."""

    allow_extra_args = False
    allow_interspersed_args = True

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return super().collect_usage_pieces(ctx)[:-1]  # all but that a command follows

    def get_params(self, ctx: Any) -> list[Any]:
        if ctx.command is not self:
            return []  # a command under it does not begin with them
        params = super().get_params(ctx)
        for param in params:
            if type(param) is TyperArgument:
                param.__class__ = _Argument
        return params

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        begun = any(ctx.params.get(p.name) is not None for p in self.get_params(ctx) if isinstance(p, _Argument))
        return [item for item in super().shell_complete(ctx, incomplete) if not (begun and item.value in self.commands)]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] in self.commands:
            ctx.args = args
            return args
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        if not ctx.args:
            return super().invoke(ctx)
        name, command, rest = self.resolve_command(ctx, ctx.args)
        assert command is not None
        ctx.invoked_subcommand = name
        with command.make_context(name, rest, parent=ctx) as inner:
            return command.invoke(inner)


class Program(_Group):
    """The group of all commands."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = LazyCommands()  # type: ignore[assignment]  # nothing is added to them
