"""Completeness of the weight files, judged by their headers. The audit checks what they were trained on."""

from pathlib import Path
from typing import TYPE_CHECKING

from ichx.store import Selection
from ichx.store.maintenance import CheckResult
from ichx.text import parse_json

if TYPE_CHECKING:
    from ichx.project import Project

MAX_HEADER = 100_000_000
"""Largest header of a safetensors file in bytes, the limit of the safetensors library."""


def check_weights(project: "Project") -> CheckResult:
    """Return which weight files of finished folds are damaged. Imported experiments may have none."""
    problems = []
    for e in project.store.experiments(Selection(kind=None), limit=None):
        if not e.folds_done:
            continue
        for fold, files in project.workspace.experiment_files(e.number).existing_folds().items():
            if files.weights.exists() and (problem := weight_file_problem(files.weights)):
                path = files.weights.relative_to(project.workspace.root).as_posix()
                problems.append(
                    f"Experiment {e.number}, fold {fold}: {path} {problem}. Restore it from a copy, or delete it: "
                    "nothing can predict with it."
                )
    return CheckResult("weights of finished folds", tuple(problems))


def weight_file_problem(path: Path) -> str | None:
    """Return what is wrong with a safetensors file: its header, or a size that differs from it; None if nothing is."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, MAX_HEADER):
                return "is incomplete or not a safetensors file"
            header = parse_json(file.read(length))
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        expected = 8 + length + max(ends, default=0)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        return "has a damaged header"
    return None if size == expected else f"has {size:,} bytes instead of {expected:,}"
