"""Whether the weights on disk are whole, from their headers alone. What they were trained on, the audit tells."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ichx.store import Selection
from ichx.store.maintenance import CheckResult

if TYPE_CHECKING:
    from ichx.project import Project

LONGEST = 100_000_000
"""Bytes that the header of a safetensors file may have, as its own reader has it."""


def check_weights(project: "Project") -> CheckResult:
    """Return which weights of finished folds are there and not whole; an import may have none, which is no fault."""
    problems = []
    for e in project.store.experiments(Selection(kind=None), limit=None):
        if not e.folds_done:
            continue
        for fold, files in project.workspace.experiment_files(e.number).existing_folds().items():
            path = files.weights
            if path.exists() and (fault := fault_of(path)):
                shown = path.relative_to(project.workspace.root).as_posix()
                problems.append(
                    f"experiment {e.number}, fold {fold}: {shown} {fault}; restore it from a copy, or delete it, for "
                    f"nothing can predict with it"
                )
    return CheckResult("weights of finished folds", tuple(problems))


def fault_of(path: Path) -> str:
    """Return what is wrong with a safetensors file: its header, or a size that is not what it says; else nothing."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, LONGEST):
                return "is cut off, or no safetensors file"
            header = json.loads(file.read(length))
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        wanted = 8 + length + max(ends, default=0)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        return "has a damaged header"
    return "" if size == wanted else f"has {size:,} bytes, and its header tells of {wanted:,}"
