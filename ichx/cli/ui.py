"""`ichx ui`: experiments and images in a browser."""

from typing import Annotated

import typer

from ichx.cli.output import console, info
from ichx.errors import MissingDependencyError


def ui(
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65535, help="Port; default: the first free one from 8417.")
    ] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser.")] = True,
    read_only: Annotated[bool, typer.Option("--read-only", help="Refuse all changes.")] = False,
) -> None:
    """Show experiments and images in a browser.

    The pages are served on this machine only, to whoever has the printed URL. Ctrl-C ends the server.

    Example: `ichx ui`

    Example: `ichx ui --no-browser --port 8600`
    """
    from ichx.workspace import find_workspace

    workspace = find_workspace()
    try:
        from ichx.web.server import ServeOptions, serve
    except ModuleNotFoundError as error:
        if error.name not in ("starlette", "uvicorn"):
            raise
        problem = f"`ichx ui` needs the package {error.name}."
        raise MissingDependencyError(problem, "Run `pip install 'ichx[ui]'`.") from error

    def started(url: str) -> None:
        console.print(url, markup=False, soft_wrap=True)
        info("Ctrl-C ends the server.")

    serve(workspace, ServeOptions(port=port, open_browser=browser, read_only=read_only), started)
