"""What a run writes down about where it ran: host, process, code and library versions."""

import os
import socket
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ichx import __version__
from ichx.store import RunDraft

LIBRARIES = ("torch", "torchvision", "timm", "accelerate", "albumentations", "blosc2", "numpy", "pandas", "pydicom")


def run_draft(experiment: int, fold: int, device: str) -> RunDraft:
    """Return the draft of a run of this process."""
    return RunDraft(
        experiment=experiment,
        fold=fold,
        host=socket.gethostname(),
        pid=os.getpid(),
        code_version=code_version(),
        libraries=library_versions(),
        device=device,
        command=" ".join(sys.argv),
    )


def code_version() -> str:
    """Return the version of ichx, with the git commit where it runs from a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return __version__
    try:
        described = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):  # no git here, or a checkout that it refuses: the version must do
        return __version__
    return f"{__version__}+{described.stdout.strip()}"


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that a result depends on."""
    versions = {"python": sys.version.split()[0]}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
