"""`ichx ui`: experiments and images in a browser."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ichx.cli.output import console, info, warn
from ichx.errors import MissingDependencyError
from ichx.files import absolute_path

if TYPE_CHECKING:
    from ichx.web.server import Started


def ui(
    path: Annotated[
        Path | None,
        typer.Argument(help="DICOM or NIfTI file, folder, zip, or ZIP/FOLDER to open; default: none."),
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option("--predictions", help="File that `ichx predict --out` wrote for PATH.")
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65535, help="Port; default: the first free one from 8417.")
    ] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser.")] = True,
    read_only: Annotated[bool, typer.Option("--read-only", help="Refuse all changes.")] = False,
    host: Annotated[
        str, typer.Option("--host", help="Name or address to listen on; other than this machine: --allow-network.")
    ] = "127.0.0.1",
    allow_network: Annotated[
        bool, typer.Option("--allow-network", help="Allow a --host that other machines reach, without encryption.")
    ] = False,
) -> None:
    """Show experiments and images in a browser.

    The pages are served on this machine only, to whoever has the printed URL. Ctrl-C ends the server.

    With PATH, the files need not be in a dataset: the first study opens, and an experiment or ensemble of your choice
    predicts it in the background.

    Example: `ichx ui`

    Example: `ichx ui /data/new`

    Example: `ichx ui --no-browser --port 8600`
    """
    from ichx.workspace import find_workspace

    workspace = find_workspace()
    try:
        from ichx.web.server import ServeOptions, exit_code, serve
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in ("starlette", "uvicorn"):
            raise
        problem = f"`ichx ui` needs the package {package}."
        raise MissingDependencyError(problem, "Run `pip install 'ichx[ui]'`.") from error

    page = "/"
    if path is not None:
        from ichx.datasets.file_list import list_files
        from ichx.web.sources import FILES

        path, page = absolute_path(path), f"/studies?source={FILES}&open=first"
        list_files(path)  # its errors belong here, not into the browser
    elif predictions is not None:
        raise typer.BadParameter("--predictions needs PATH, the predicted files.")
    options = ServeOptions(
        host,
        allow_network,
        port,
        open_browser=browser,
        read_only=read_only,
        path=page,
        files=path,
        predictions=predictions,
    )
    number = serve(workspace, options, lambda server: _started(server, read_only))
    raise typer.Exit(exit_code(number))


def _started(server: "Started", read_only: bool) -> None:
    from ichx.web.server import ssh_command

    console.print(server.url, markup=False, soft_wrap=True)
    if server.exposed is not None:
        may_change = "" if read_only else " and change names, tags, notes and reviews"
        warn(
            f"Everyone who reaches {server.exposed}, port {server.port}, and has the token can read all experiments "
            f"and images{may_change}. The connection is not encrypted."
        )
    elif (command := ssh_command(server.address, server.port)) is not None:
        info(f"From your own machine, run `{command}`, then open the URL there.")
    info("Ctrl-C ends the server.")
