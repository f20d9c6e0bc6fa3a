"""Killed runs: equality of their results with those of an uninterrupted run, and the cost of a kill.

    python benchmarks/kills.py [--quick] [--json FILE]

A run of a tiny network on phantom slices, on the CPU, is killed (`kill -9`) in training, while it writes a checkpoint,
in validation and in prediction, and resumed each time. Other runs get SIGTERM and, while they save their progress,
SIGKILL, as at the time limit of a scheduler. Weights, logits and history are compared bit by bit.
"""

import os
import random
import tempfile
from pathlib import Path

from common import Figure, arguments, conclude
from killed_runs import Kill, KilledRun, batches_per_epoch, differences

from ichx.datasets.add import AddRequest, add_dataset
from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.phantom.dicom_files import write_phantom
from ichx.plugins import load_registry
from ichx.project import Project
from ichx.store import open_store
from ichx.workspace import init_workspace

BATCH = 4
CHECKPOINT_SECONDS = 0.2
START_SECONDS = 10.0
"""Target for the start of a process: a kill costs this and the time since the last checkpoint."""
KILLS = 20
TIME_LIMITS = 30
"""Kills shortly after SIGTERM."""
SEED = 11
EXPERIMENTS = 13
SETTINGS = (
    f"batch={BATCH}",
    "stage.balanced.epochs=3",
    "stage.rebalanced.epochs=2",
    "stage.full.epochs=1",
    "model.dropout=0.2",
    "precision=fp32",
)
EPOCH_PHASES = ("training", "checkpoint", "validation")
"""Phases of an epoch; prediction follows the last epoch."""


def main() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    options = arguments(__doc__)
    rounds, predictions = (1, 1) if options.quick else (6, 6)
    phases = [*EPOCH_PHASES * rounds, *["prediction"] * predictions]
    with tempfile.TemporaryDirectory() as scratch:
        root = _prepare(Path(scratch))
        for number in (1,) if options.quick else (1, 2):  # the first run also builds the cache
            before = _processor_seconds()
            _finish(root, number)
            uninterrupted = _processor_seconds() - before
        totals = batches_per_epoch(root, 1, BATCH)
        rng = random.Random(SEED)
        kills: list[Kill] = []
        before = _processor_seconds()
        for phase in phases:
            kill = KilledRun(root, 3, f"{CHECKPOINT_SECONDS}s").kill(phase, totals, rng)
            if kill is None:
                break
            kills.append(kill)
            print(f"killed in {kill.phase}, {kill.lost:.2f} s after a checkpoint", flush=True)
        _finish(root, 3)
        spent = _processor_seconds() - before
        different = differences(root, 1, 3)
        limits, limit_runs = _time_limits(root, 3 if options.quick else TIME_LIMITS, totals, rng)
        for number in limit_runs:
            different += differences(root, 1, number)
        for name in different:
            print(f"differs: {name}")
    hit = {kill.phase for kill in kills}
    most = max(kill.lost for kill in kills)
    mean = (spent - uninterrupted) / len(kills)
    target = CHECKPOINT_SECONDS + START_SECONDS
    minimum = len(phases) if options.quick else KILLS
    conclude(
        [
            Figure("kills", len(kills), "", "-", f"{minimum}", len(kills) >= minimum),
            Figure("kills after SIGTERM", limits, "", f"{len(limit_runs)} runs", "3" if options.quick else "30", True),
            Figure("phases with a kill", len(hit), "", "-", "4", len(hit) == 4),
            Figure("kills that left a temporary file", sum(kill.left_draft for kill in kills), "", "-", "-", True),
            Figure("results that differ", len(different), "", "the uninterrupted run", "0", not different),
            Figure(
                "work lost per kill, maximum",
                most,
                "s",
                f"a checkpoint every {CHECKPOINT_SECONDS} s",
                f"{target:g} s",
                most <= target,
            ),
            Figure(
                "processor time lost per kill, mean", mean, "s", "an uninterrupted run", f"{target:g} s", mean <= target
            ),
        ],
        options,
    )


def _prepare(folder: Path) -> Path:
    """Return a workspace with a phantom dataset, a test set, and equal experiments."""
    phantom = write_phantom(folder / "phantom", patients=8, seed=1, size=64, test_patients=2, prevalence={"any": 0.4})
    assert phantom.test is not None
    workspace = init_workspace(folder / "workspace")
    with open_store(workspace) as store:
        add_dataset(Project(workspace, store), AddRequest("ph", phantom.train, labels=phantom.train_labels, folds=2))
        add_dataset(
            Project(workspace, store),
            AddRequest("ph-test", phantom.test, test_of="ph", sample=phantom.sample_submission),
        )
        for _ in range(EXPERIMENTS):
            new_experiment(store, load_registry(), ExperimentRequest(plugin="tiny_resnet", settings=SETTINGS))
    return workspace.root


def _time_limits(
    root: Path, count: int, totals: dict[tuple[int, int], int], rng: random.Random
) -> tuple[int, list[int]]:
    """Kill runs shortly after SIGTERM and finish them; return the number of kills and the experiments."""
    kills, numbers = 0, list[int]()
    for number in range(4, EXPERIMENTS + 1):
        numbers.append(number)
        while kills < count:
            killed = KilledRun(root, number, f"{CHECKPOINT_SECONDS}s").stop_and_kill(totals, rng)
            if killed is None:
                break
            kills += killed
            print(f"experiment {number}: {'killed' if killed else 'stopped'} after SIGTERM", flush=True)
        else:
            _finish(root, number)
            break
    return kills, numbers


def _finish(root: Path, number: int) -> None:
    """Run an experiment to its end."""
    run = KilledRun(root, number, f"{CHECKPOINT_SECONDS}s")
    errors = run.wait()
    if run.process.returncode:
        raise SystemExit(f"the run failed: {errors}")


def _processor_seconds() -> float:
    """Return the processor time of all runs that have ended, which does not depend on the load of the machine."""
    times = os.times()
    return times.children_user + times.children_system


if __name__ == "__main__":
    main()
