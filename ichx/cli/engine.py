"""`ichx engine`: check the settings of schedulers."""

import textwrap
from typing import Annotated

import typer

from ichx.cli.output import console, info, print_json
from ichx.cli.parameters import AsJson, duration_seconds

app = typer.Typer(help="Engines, which run jobs: check the site's settings.", no_args_is_help=True)


@app.command("check")
def check(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="local, slurm or ray; default: the one of ichx.toml.")
    ] = None,
    timeout: Annotated[str, typer.Option("--timeout", help="Maximum time for the job, e.g. 30m.")] = "10m",
    as_json: AsJson = False,
) -> None:
    """Check the settings of an engine with a short job.

    The job reports versions, store, resources and local disk of its node. Exits with 1 if there is a problem.

    Example: `ichx engine check slurm`
    """
    from ichx.jobs.engine_check import check_engine
    from ichx.workspace import find_workspace

    seconds = duration_seconds(timeout, "--timeout")
    workspace = find_workspace()
    chosen = name or str(workspace.engine.get("default", "local"))
    found = check_engine(workspace, chosen, timeout=seconds, note=info)
    if as_json:
        print_json(found)
    else:
        for checked in found:
            detail = f": {checked.detail}" if checked.detail else ""
            console.print(f"{'WRONG' if checked.problem else 'ok   '} {checked.what}{detail}", markup=False)
            for text in (checked.problem, checked.remedy):
                if text is not None:
                    console.print(textwrap.indent(text, " " * 6), markup=False)
    if any(checked.problem for checked in found):
        raise typer.Exit(1)
