"""Start-up: how long `ichx exp list` takes as a whole process, against importing the libraries that it must have.

python benchmarks/startup.py [--quick] [--json FILE]
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import Figure, arguments, conclude

LIST = [sys.executable, "-c", "from ichx.cli.app import main; main()", "exp", "list"]
PEER = [sys.executable, "-c", "import typer, rich, sqlalchemy"]
REACH = 1.5


def main() -> None:
    options = arguments(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        # Bytecode as an installed package has it, whatever the environment says.
        environment = os.environ | {"ICHX_WORKSPACE": folder, "PYTHONPYCACHEPREFIX": f"{folder}/bytecode"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        _fill(Path(folder), environment)
        for command in (LIST, PEER):
            _seconds(command, environment)
        pairs = [(_seconds(LIST, environment), _seconds(PEER, environment)) for _ in range(7 if options.quick else 21)]
    ratio = statistics.median(a / b for a, b in pairs)
    seconds = statistics.median(a for a, _ in pairs)
    peer = statistics.median(b for _, b in pairs)
    conclude(
        [
            Figure(
                "ichx exp list",
                ratio,
                "x",
                f"import typer, rich, sqlalchemy ({peer:.2f} s)",
                f"{REACH} x",
                ratio <= REACH,
            ),
            Figure("ichx exp list", seconds, "s", "-", "-", True),
        ],
        options,
    )


def _fill(folder: Path, environment: dict[str, str]) -> None:
    """Make a workspace whose store has 60 experiments, so that the list is full."""
    from ichx.store import open_store
    from ichx.store.testing import experiment_draft, version_draft
    from ichx.workspace import init_workspace

    with open_store(init_workspace(folder)) as store:
        version = store.add_version(version_draft())
        store.add_experiments([experiment_draft(version) for _ in range(60)])


def _seconds(command: list[str], environment: dict[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
