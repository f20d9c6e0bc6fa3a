"""The program `ichx`: its global options, and how errors end it.

Exit codes: 0 success, 1 error, 2 usage error, 130 interrupted, 143 run stopped by SIGTERM, 129 by SIGHUP. The commands
are declared in `ichx.cli.commands`.
"""

import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from ichx import __version__
from ichx.child_processes import redirect_output, watch_parent
from ichx.cli.commands import Program
from ichx.cli.interrupts import imports_end_at_once
from ichx.cli.output import err, json_requested, print_error, print_json_error
from ichx.errors import IchxError, as_user_error
from ichx.signals import acknowledge_signals

ACKNOWLEDGE_SECONDS = 0.5
"""Time after Ctrl-C after which a command that still runs reports it."""

app = typer.Typer(
    name="ichx",
    cls=Program,
    help="Turn head-CT slices into a tracked, blended prediction of intracranial hemorrhage.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["--help", "-h"]},
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
    Path.cwd()  # raises where it was deleted; some libraries end the process there


def _acknowledge(_number: int) -> None:
    err.print("stopping; waiting for the current step to end", style="yellow")


def main() -> None:
    """Run the program. An `IchxError` is printed as problem and remedy, with `--json` as JSON on the last line.

    An error of the operating system that no function has translated is translated here.
    """
    watch_parent()
    redirect_output()
    as_json = json_requested(sys.argv[1:])
    try:
        with acknowledge_signals(_acknowledge, ACKNOWLEDGE_SECONDS), imports_end_at_once():
            try:
                app(prog_name="ichx")
            finally:
                sys.stdout.flush()  # an error at the exit of the interpreter would have no message
    except IchxError as error:
        _end(error, as_json=as_json)
    except SystemExit as ended:
        # typer turns Ctrl-C into an exit code; a command that has printed how to resume raises typer.Exit itself
        if isinstance(ended.__context__, typer.Exit) and type(ended.__context__.__cause__) is KeyboardInterrupt:
            err.print("interrupted", style="yellow")
        raise
    except KeyboardInterrupt:
        err.print("interrupted", style="yellow")
        sys.exit(130)
    except BrokenPipeError:
        # The reader of the pipe has closed it: redirect stdout so that the interpreter's final flush stays silent.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _end(error, as_json=as_json)
    except Exception as error:
        if not as_json:
            raise
        traceback.print_exc()
        problem = f"Unexpected {type(error).__name__}: {error}"
        print_json_error({"code": "internal", "problem": problem, "remedy": "Report this bug with the traceback."})
        sys.exit(1)


def _end(error: IchxError | OSError, *, as_json: bool) -> NoReturn:
    """Print an error that the user can fix, and exit."""
    if "ICHX_DEBUG" in os.environ:
        raise error
    shown = as_user_error(error) if isinstance(error, OSError) else error
    if as_json:
        print_json_error(shown.to_dict())
    else:
        print_error(shown.problem, shown.remedy)
    sys.exit(1)


if __name__ == "__main__":
    main()
