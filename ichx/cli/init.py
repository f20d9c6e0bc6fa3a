"""`ichx init`: make a workspace."""

from pathlib import Path
from typing import Annotated

import typer

from ichx.cli.output import info


def init(
    folder: Annotated[Path, typer.Argument(help="The folder; made when missing.")] = Path(),
) -> None:
    """Make a workspace: the folder that holds the store, the experiments and the datasets.

    Example: `ichx init ~/hemorrhage`
    """
    from ichx.store import open_store
    from ichx.workspace import init_workspace

    workspace = init_workspace(folder)
    with open_store(workspace):
        pass
    info(f"workspace at {workspace.root}")
    info("next: `ichx data add NAME PATH --labels CSV`, or `ichx demo` to see the whole job")
