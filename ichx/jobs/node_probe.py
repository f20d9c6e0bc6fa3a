"""The job of `ichx engine check`: reports what a node sees. `python -m ichx.jobs.node_probe WORKSPACE REPORT`."""

import json
import os
import platform
import shutil
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

import ichx
from ichx.errors import IchxError
from ichx.files import write_text
from ichx.worker_pool import core_count


def node_report(root: Path) -> dict[str, Any]:
    """Return what this machine sees of the workspace at `root`, its store, and its own resources."""
    temporary = Path(tempfile.gettempdir())
    report: dict[str, Any] = {
        "host": socket.gethostname(),
        "ichx": ichx.__version__,
        "python": platform.python_version(),
        "cpus": core_count(),
        "gpus": _gpus(),
        "temporary": str(temporary),
        "temporary_free": shutil.disk_usage(temporary).free,
        "store": None,
        "store_problem": None,
        "store_remedy": None,
    }
    from ichx.store import open_store
    from ichx.workspace import open_workspace

    try:
        with open_store(open_workspace(root)) as store:
            report["store"] = store.name
            if network := store.network_file_system():
                report["store_problem"] = f"{store.name} is a SQLite file on a network file system ({network})."
                report["store_remedy"] = "Move it to PostgreSQL with `ichx store copy`, see docs/cluster.md."
    except IchxError as error:
        report["store_problem"], report["store_remedy"] = error.problem, error.remedy
    return report


def _gpus() -> int:
    """Return the number of GPUs that a job may use, without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([part for part in visible.split(",") if part.strip() and part.strip() != "NoDevFiles"])
    return len([path for path in Path("/dev").glob("nvidia*") if path.name.removeprefix("nvidia").isdecimal()])


def main() -> None:
    """Write the report of this machine to the file that the arguments name."""
    root, report = sys.argv[1:]
    write_text(Path(report), json.dumps(node_report(Path(root))) + "\n", "the report")


if __name__ == "__main__":
    main()
