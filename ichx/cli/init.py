"""`ichx init`: create a workspace."""

from pathlib import Path
from typing import Annotated

import typer

from ichx.cli.output import info


def init(
    folder: Annotated[Path, typer.Argument(help="Folder; created if missing.")] = Path(),
) -> None:
    """Create a workspace for the store, datasets and experiments.

    Example: `ichx init ~/hemorrhage`
    """
    from ichx.files import absolute_path
    from ichx.store import open_store
    from ichx.workspace import init_workspace, is_workspace

    known = is_workspace(absolute_path(folder))
    workspace = init_workspace(folder)
    with open_store(workspace):
        pass
    info(f"{workspace.root} is a workspace already." if known else f"Created the workspace {workspace.root}.")
    info("Next: `ichx data add NAME PATH --labels CSV`, or `ichx demo` for the complete workflow.")
