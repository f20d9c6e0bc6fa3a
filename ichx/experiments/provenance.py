"""Provenance of a run: host, process, command, code, libraries, machine."""

import os
import platform
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ichx import __version__
from ichx.child_processes import JOB
from ichx.experiment_files import FoldFiles
from ichx.store import RunDraft

LIBRARIES = (
    "torch",
    "torchvision",
    "timm",
    "segmentation-models-pytorch",
    "albumentations",
    "opencv-python-headless",
    "imagecodecs",
    "blosc2",
    "numpy",
    "scipy",
    "pandas",
    "pydicom",
)
DIFF_BYTES = 5_000_000
"""Longer diffs are truncated."""


def run_draft(
    experiment: int, fold: int, device: str, seed: int, folder: Path, *, package: str | None = None
) -> RunDraft:
    """Return the draft of a run of this process; uncommitted changes of the code are stored in `folder`.

    The version of `package`, from which the plugin comes, is recorded too: its network and augmentation are code.
    """
    return RunDraft(
        experiment=experiment,
        fold=fold,
        host=socket.gethostname(),
        pid=os.getpid(),
        code_version=code_version(),
        libraries=library_versions([*LIBRARIES, *([package] if package else [])]),
        device=device,
        command=shlex.join(["ichx", *sys.argv[1:]]),
        provenance={**machine(), "seed": seed, **_code(folder)},
        job=os.environ.get(JOB),
    )


def code_version() -> str:
    """Return the version of ichx, with the git commit if it runs from a checkout."""
    described = _git("describe", "--always", "--dirty", "--abbrev=12")
    return f"{__version__}+{described.strip()}" if described else __version__


def library_versions(names: Iterable[str] = LIBRARIES) -> dict[str, str]:
    """Return the versions of Python and of those libraries in `names` that are installed."""
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def machine() -> dict[str, Any]:
    """Return system, processor, cores, memory in bytes, GPUs with their driver and CUDA version."""
    found: dict[str, Any] = {"system": platform.platform(), "cpu": _cpu(), "cores": os.cpu_count()}
    found["memory"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if torch.cuda.is_available():
        found["gpus"] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        found["cuda"] = torch.version.cuda
        found["driver"] = _driver()
    return found


def _code(folder: Path) -> dict[str, Any]:
    """Return the commit of the code and whether it has uncommitted changes, which are stored in a file."""
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return {}
    changes = _git("diff", "HEAD") or ""
    untracked = (_git("ls-files", "--others", "--exclude-standard") or "").split()
    found: dict[str, Any] = {"commit": commit.strip(), "dirty": bool(changes or untracked)}
    if untracked:
        found["untracked"] = untracked[:50]
    path = FoldFiles(folder).code_diff
    if changes:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(changes[:DIFF_BYTES], encoding="utf-8")
        found["diff"] = path.name
    else:
        path.unlink(missing_ok=True)  # of an earlier run
    return found


def _git(*arguments: str) -> str | None:
    """Return git's output for the checkout that ichx runs from; None if it is installed or git fails."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):  # no git, or a checkout that it refuses; the version suffices
        return None
    return done.stdout


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _driver() -> str | None:
    """Return the version of NVIDIA's driver."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
    except OSError:
        return None
    return next((word for word in text.split() if word[0].isdigit() and "." in word), None)
