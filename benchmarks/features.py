"""Feature tables: speed and memory of writing and reading, and equality after kills.

    python benchmarks/features.py [--quick] [--json FILE]

A table of 100,000 slices x 2,048 features is written as a network would deliver it, and read in the order of the series
as a sequence experiment reads it. Then a sequence experiment of a tiny network on phantom slices is killed (`kill -9`)
while its features are computed, while its heads are trained and while they predict, and resumed each time. Tables,
weights and logits are compared bit by bit.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import Figure, arguments, conclude
from killed_runs import differences

from ichx.datasets.add import AddRequest, add_dataset
from ichx.evaluation.feature_tables import FeatureSource, FeatureTable, TableWriter, table_bytes
from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.experiments.register_sequence import new_sequence
from ichx.experiments.run import run_experiment
from ichx.phantom.dicom_files import write_phantom
from ichx.project import Project
from ichx.store import open_store
from ichx.workspace import init_workspace

SLICES, WIDTH, BATCH, SERIES = 100_000, 2_048, 64, 34
READ_SECONDS, READ_MEMORY = 5.0, 64.0
"""Targets: seconds for a warm table, and MB of memory that reading adds."""
KILLS = 20
SEED = 7
RUN = """
import sys
import ichx.evaluation.feature_tables as tables
tables.FLUSH_BYTES = 8192  # so that a kill finds a part of a table
from ichx.cli.app import main
main()
"""


def main() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    options = arguments(__doc__)
    slices = SLICES // 10 if options.quick else SLICES
    with tempfile.TemporaryDirectory() as scratch:
        figures = _speed(Path(scratch) / "t.npy", slices)
        figures += _kills(Path(scratch), 3 if options.quick else KILLS)
    conclude(figures, options)


def _speed(path: Path, slices: int) -> list[Figure]:
    source = FeatureSource("id", 0, "w", "r", "f", "synthetic", 1, "c", "identity", "fp32")
    values = np.random.default_rng(SEED).normal(size=(BATCH, WIDTH)).astype(np.float16)
    began = time.perf_counter()
    with TableWriter(path, source, np.arange(slices), (slices, WIDTH), batch=BATCH) as writer:
        for start in range(0, slices, BATCH):
            writer.add(np.empty(0, object), values[: min(BATCH, slices - start)])
        table = writer.finish()
    written = time.perf_counter() - began
    _read(table)  # warm
    before = _anonymous_mb()
    began = time.perf_counter()
    most = _read(table)
    seconds = time.perf_counter() - began
    scale = SLICES / slices
    size = table_bytes(slices, WIDTH) / 1e6
    path.unlink()
    return [
        Figure("table", size, "MB", "-", "-", True),
        Figure("write, with its digest", written, "s", "-", "-", True),
        Figure(
            "read in series order, warm",
            seconds,
            "s",
            "-",
            f"{READ_SECONDS / scale:g} s",
            seconds <= READ_SECONDS / scale,
        ),
        Figure(
            "memory added by reading", most - before, "MB", "-", f"{READ_MEMORY:g} MB", most - before <= READ_MEMORY
        ),
    ]


def _read(table: FeatureTable) -> float:
    """Read all rows, 16 series at a time, as a feed does; return the largest memory in MB."""
    values, most, total = table.open(), 0.0, 0.0
    rows = np.arange(table.slices)
    for start in range(0, table.slices, 16 * SERIES):
        batch = np.empty((len(rows[start : start + 16 * SERIES]), table.width), np.float32)
        batch[:] = values[rows[start : start + 16 * SERIES]]
        total += float(batch[0, 0])
        most = max(most, _anonymous_mb())
    return most


def _anonymous_mb() -> float:
    """Return the memory of this process that is not a mapped file, in MB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) * 1024 / 1e6


def _kills(scratch: Path, count: int) -> list[Figure]:
    root, first, second = _prepare(scratch)
    features = root / "experiments" / "1" / "features"
    _start(root, first).communicate()
    tables = {path.name: path.read_bytes() for path in features.glob("*.npy")}
    shutil.rmtree(features)
    rng = random.Random(SEED)
    fold = root / "experiments" / str(second) / "fold-0"
    hit = {"features": 0, "training": 0, "prediction": 0}
    while sum(hit.values()) < count:
        process = _start(root, second)
        phase = "features" if sum(hit.values()) < count // 2 else "training"
        phase = "prediction" if sum(hit.values()) >= count - count // 5 else phase
        place, pattern = {
            "features": (features, "*.progress"),
            "training": (fold, "checkpoint-*.pt"),
            "prediction": (fold, "weights.safetensors"),
        }[phase]
        while process.poll() is None and not any(place.glob(pattern)):
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.3))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if phase == "features" and any(features.glob("*.npy")):
            shutil.rmtree(features)  # the kill came too late
        hit[phase] += 1
        print(f"killed in {phase}", flush=True)
    process = _start(root, second)
    errors = process.communicate()[1]
    if process.returncode:
        raise RuntimeError(errors)
    found = differences(root, first, second)
    again = {path.name: path.read_bytes() for path in features.glob("*.npy")}
    found += [f"table {name}" for name in tables if again.get(name) != tables[name]]
    for name in found:
        print(f"differs: {name}")
    kills = sum(hit.values())
    phases = ", ".join(f"{number} in {phase}" for phase, number in hit.items())
    return [
        Figure(f"kills: {phases}", kills, "", "-", f"{count}", kills >= count),
        Figure("tables, weights, logits that differ", len(found), "", "the uninterrupted run", "0", not found),
    ]


def _prepare(scratch: Path) -> tuple[Path, int, int]:
    """Return a workspace with a trained network and two equal sequence experiments on it."""
    files = write_phantom(scratch / "files", patients=24, seed=SEED, size=64, prevalence={"any": 0.4})
    assert files.train is not None
    workspace = init_workspace(scratch / "workspace")
    short = [f"stage.{name}.epochs=1" for name in ("balanced", "rebalanced", "full")]
    heads = ["stage.full.epochs=12", "sequence.width=8", "sequence.residual=false", "batch=2"]
    with open_store(workspace) as store:
        project = Project(workspace, store)
        add_dataset(project, AddRequest("ph", files.train, labels=files.train_labels, folds=2))
        request = ExperimentRequest(plugin="tiny_resnet", size=32, settings=[*short, "precision=fp32"])
        run_experiment(project, new_experiment(store, project.registry, request).number)
        request = ExperimentRequest(plugin="gru_stack", settings=heads)
        first, second = (new_sequence(project, request, [1], ("logits", "features"))[0].number for _ in range(2))
    return workspace.root, first, second


def _start(root: Path, number: int) -> "subprocess.Popen[str]":
    arguments = ["run", str(number), "--fold", "0", "--device", "cpu", "--checkpoint-every", "0.1s"]
    return subprocess.Popen(
        [sys.executable, "-c", RUN, *arguments],
        cwd=root,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("ICHX_")},
    )


if __name__ == "__main__":
    main()
