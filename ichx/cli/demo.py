"""`ichx demo`: the whole job on a synthetic dataset."""

from pathlib import Path
from typing import Annotated

import typer


def demo(
    folder: Annotated[Path, typer.Argument(help="A new folder, which becomes a workspace.")] = Path("ichx-demo"),
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Make a phantom dataset, train four small models on it, blend them, and judge the blend on unseen patients.

    Takes minutes on a CPU. Example: `ichx demo`
    """
    raise NotImplementedError
