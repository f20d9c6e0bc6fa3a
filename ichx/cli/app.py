"""The program `ichx`: its own options, and how errors end it.

Exit codes: 0 done, 1 an error that the user can mend, 2 wrong usage, 130 interrupted, 143 a run that SIGTERM stopped.
"""

import os
import sys
from typing import Annotated

import typer

from ichx import __version__
from ichx.child_processes import watch_parent
from ichx.cli.commands import Program
from ichx.cli.interrupts import imports_end_at_once
from ichx.cli.output import err
from ichx.errors import IchxError

app = typer.Typer(
    name="ichx",
    cls=Program,
    help="From head-CT slices to a tracked, blended prediction of intracranial hemorrhage.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ichx {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    if debug:
        os.environ["ICHX_DEBUG"] = "1"


def main() -> None:
    """Run the program; an `IchxError` becomes two lines on standard error."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # albumentations asks the network for updates when imported
    watch_parent()
    try:
        with imports_end_at_once():
            app(prog_name="ichx")
    except IchxError as error:
        if "ICHX_DEBUG" in os.environ:
            raise
        err.print("error: ", style="bold red", end="")
        err.print(f"{error.problem}\n{error.remedy}".replace("\n", "\n       "), markup=False)
        sys.exit(1)
    except SystemExit as ended:
        # typer turns Ctrl-C into an exit code; a run that has said how to go on raises another kind of it
        if isinstance(ended.__context__, typer.Exit) and type(ended.__context__.__cause__) is KeyboardInterrupt:
            err.print("interrupted", style="yellow")
        raise
    except KeyboardInterrupt:
        err.print("interrupted", style="yellow")
        sys.exit(130)
    except BrokenPipeError:
        # The reader of a pipe has gone: point stdout elsewhere so that the interpreter's own flush stays silent.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
