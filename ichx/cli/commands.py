"""The commands by help panel. Each is imported and built on first use, because imports dominate the start-up time.

How errors end the program is in `ichx.cli.app`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from ichx.cli.output import json_requested, print_json_error
from ichx.cli.synonyms import commands_for
from ichx.text import escape

PANELS = {
    "Data": {
        "init": "init:init",
        "demo": "demo:demo",
        "data": "data:app",
    },
    "Experiments": {
        "plugin": "plugin:app",
        "exp": "exp:app",
        "run": "run:run",
        "jobs": "jobs:app",
        "tune": "tune:app",
    },
    "Results": {
        "scores": "scores:scores",
        "threshold": "threshold:threshold",
        "recalibrate": "recalibrate:recalibrate",
        "audit": "audit:audit",
        "report": "report:report",
        "figures": "figures:figures",
        "card": "card:card",
        "ensemble": "ensemble:app",
        "submit": "submit:app",
        "predict": "predict:predict",
        "evaluate": "evaluate:evaluate",
        "export": "export:export",
        "ui": "ui:ui",
    },
    "Maintenance": {
        "store": "store:app",
        "engine": "engine:app",
        "gc": "gc:gc",
    },
}
"""The panels of `ichx --help`: commands and command groups, and where in `ichx.cli` each is declared."""

COMMANDS = {name: place for panel in PANELS.values() for name, place in panel.items()}

_PANEL_OF = {name: panel for panel, commands in PANELS.items() for name in commands}
# typer exports no base class of its usage errors, and vendors click in some versions
_UsageError: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")


class LazyCommands(Mapping[str, Any]):
    """The commands by name, built at look-up."""

    def __getitem__(self, name: str) -> Any:
        module, _, attribute = COMMANDS[name].partition(":")
        declared = getattr(import_module(f"ichx.cli.{module}"), attribute)
        panel = _PANEL_OF[name]
        holder = typer.Typer(add_completion=False, rich_markup_mode="markdown")
        if isinstance(declared, typer.Typer):
            for command in declared.registered_commands:
                command.cls = _Command
            group = _CommandGroup if declared.registered_callback else _Group
            holder.add_typer(declared, name=name, cls=group, rich_help_panel=panel)
        else:
            holder.command(name, cls=_Command, rich_help_panel=panel)(declared)
        return typer.main.get_group(holder).commands[name]

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class _Option(TyperOption):
    """An option that skips conversion if it is missing: typer imports pydantic even for a missing value."""

    def process_value(self, ctx: Any, value: Any) -> Any:
        missing = value in (None, ()) if self.multiple else value is None
        if not missing or self.required or self.nargs != 1:
            return super().process_value(ctx, value)
        value = None if self.multiple else value
        return value if self.callback is None else self.callback(ctx, self, value)


class _LazyConversion:
    """Mixin: turns the options of a command, which typer builds itself, into `_Option`s, and shortens their names."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help with `--[no-]x` instead of a column for `--no-x`: 80 columns have no space for it."""
        both = [param for param in self.get_params(ctx) if param.secondary_opts]
        names = [(param.opts, param.secondary_opts) for param in both]
        for param in both:
            param.opts, param.secondary_opts = [f"--[no-]{param.opts[0].removeprefix('--')}"], []
        try:
            super().format_help(ctx, formatter)  # type: ignore[misc]
        finally:
            for param, (opts, secondary_opts) in zip(both, names, strict=True):
                param.opts, param.secondary_opts = opts, secondary_opts

    def get_params(self, ctx: Any) -> list[Any]:
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc]  # of the command class
        for param in params:
            if type(param) is TyperOption:
                param.__class__ = _Option
        return params


class _Command(_LazyConversion, TyperCommand):
    """A command."""


class _Group(_LazyConversion, TyperGroup):
    """A group of commands."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that `args` name, and the arguments for it; suggest commands by the meaning of a word."""
        if args[0] not in self.commands:
            group = "" if ctx.parent is None else str(ctx.info_name)
            if meant := commands_for(args[0], group):
                suggestions = " or ".join(f"`ichx {command}`" for command in meant)
                ctx.fail(f"No such command {args[0]!r}. Did you mean {suggestions}?")
        return super().resolve_command(ctx, args)


class _Argument(TyperArgument):
    """The argument of a `_CommandGroup`; shells complete its subcommands, too."""

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        return [*super().shell_complete(ctx, incomplete), *ctx.command.shell_complete(ctx, incomplete)]


class _CommandGroup(_Group):
    """A command with subcommands: `ichx tune 6` and `ichx tune show 6`. It takes one argument."""

    allow_extra_args = False
    allow_interspersed_args = True

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return super().collect_usage_pieces(ctx)[:-1]  # without "COMMAND [ARGS]..."

    def get_params(self, ctx: Any) -> list[Any]:
        if ctx.command is not self:
            return []  # a subcommand does not inherit them
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
    """The group of all commands. With `--json` among the arguments, it prints usage errors as JSON."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = LazyCommands()  # type: ignore[assignment]  # read-only
        self._as_json = False

    def make_context(self, info_name: Any, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Parse the arguments."""
        self._as_json = json_requested(args)
        with _usage_errors(as_json=self._as_json):
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        with _usage_errors(as_json=self._as_json):
            return super().invoke(ctx)


def _plain(message: str) -> str:
    """Return a message of typer without the phrases of pydantic, which typer 0.22 and newer repeat, and escaped."""
    message = message.removeprefix("Value error, ").partition(", unable to parse")[0]
    return escape(message.replace("Input should be", "It must be"))


@contextmanager
def _usage_errors(*, as_json: bool) -> Iterator[None]:
    """With `as_json`, print a usage error as JSON and exit with its code; typer prints it otherwise."""
    try:
        yield
    except _UsageError as error:
        error.message = _plain(error.message)
        if not as_json:
            raise
        context: Any = getattr(error, "ctx", None)
        command = "ichx" if context is None else context.command_path
        problem = error.format_message()
        print_json_error({"code": "usage", "problem": problem, "remedy": f"See `{command} --help`."})
        raise typer.Exit(error.exit_code) from error
