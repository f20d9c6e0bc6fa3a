"""Shared by the benchmarks: arguments, description of the machine, table of figures, JSON, exit code."""

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """One measured figure."""

    figure: str
    measured: float
    unit: str
    baseline: str
    """What it is compared with."""
    target: str
    met: bool


def arguments(
    description: str,
    *,
    files: int | None = None,
    device: bool = False,
    models: Sequence[str] = (),
    parents: Sequence[argparse.ArgumentParser] = (),
) -> argparse.Namespace:
    """Return the parsed `--quick` and `--json FILE`, and on demand further options.

    `--files N` (default `files`); `--device`; with `models`, `--model NAME` (repeatable) and `--workspace FOLDER`;
    those of `parents`.
    """
    parser = argparse.ArgumentParser(description=description, parents=list(parents))
    parser.add_argument("--quick", action="store_true", help="the same work on less data, under 45 seconds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as a JSON list")
    if files is not None:
        parser.add_argument("--files", type=int, default=files, metavar="N", help=f"files to try ({files})")
    if device:
        parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="where to train (cpu)")
    if models:
        parser.add_argument("--model", action="append", choices=models, help="only this model; repeatable")
        parser.add_argument("--workspace", type=Path, metavar="FOLDER", help="use its dataset instead of a phantom")
    return parser.parse_args()


def machine() -> str:
    """Return a description of this machine in one line."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "sqlalchemy", "typer"))
    return f"{os.cpu_count()} cores, {model}, Python {platform.python_version()}, {libraries}"


def conclude(figures: Sequence[Figure], options: argparse.Namespace) -> None:
    """Print the machine and the table, write the JSON, and exit with 1 if a target is missed."""
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    console.print(machine(), markup=False)
    table = Table("figure", "measured", "baseline", "target", "met")
    for f in figures:
        table.add_row(f.figure, f"{f.measured:.4g} {f.unit}", f.baseline, f.target, "yes" if f.met else "NO")
    console.print(table)
    if options.json:
        values = [asdict(f) for f in figures]
        text = json.dumps(values, indent=2, default=lambda scalar: scalar.item())  # NumPy's
        options.json.write_text(text + "\n", encoding="utf-8")
    sys.exit(0 if all(f.met for f in figures) else 1)
