"""Runs that are killed at random moments: whether they end at the results of one that was not, and what it costs.

    python benchmarks/kills.py [--quick] [--json FILE]

A tiny network on phantom slices, on the CPU, is killed (`kill -9`) while it trains, while it writes a checkpoint, while
it validates and while it predicts, and run again each time. Its weights, logits and history are compared bit by bit.
"""

import os
import random
import tempfile
from pathlib import Path

from common import Figure, arguments, conclude
from killing import Kill, Victim, batches_of_epochs, differences

from ichx.datasets.add import AddRequest, add_dataset
from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.phantom.dicom_files import write_phantom
from ichx.plugins import load_registry
from ichx.project import Project
from ichx.store import open_store
from ichx.workspace import init_workspace

BATCH = 4
EVERY = 0.2
START_UP = 10.0
"""Seconds that an interruption may cost beyond the time since the last checkpoint: the process starts anew."""
KILLS = 20
SEED = 11
SETTINGS = (
    f"batch={BATCH}",
    "stage.balanced.epochs=3",
    "stage.rebalanced.epochs=2",
    "stage.full.epochs=1",
    "model.dropout=0.2",
    "precision=fp32",
)
ROUND = ("training", "checkpoint", "validation")
"""The phases of an epoch; prediction comes after the last one."""


def main() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    options = arguments(__doc__)
    rounds, predictions = (1, 1) if options.quick else (6, 6)
    phases = [*ROUND * rounds, *["prediction"] * predictions]
    with tempfile.TemporaryDirectory() as scratch:
        root = _prepare(Path(scratch))
        for number in (1,) if options.quick else (1, 2):  # the first one builds the cache as well
            before = _processor_seconds()
            _finish(root, number)
            whole = _processor_seconds() - before
        totals = batches_of_epochs(root, 1, BATCH)
        rng = random.Random(SEED)
        kills: list[Kill] = []
        before = _processor_seconds()
        for phase in phases:
            killed = Victim(root, 3, f"{EVERY}s").kill(phase, totals, rng)
            if killed is None:
                break
            kills.append(killed)
            print(f"killed in {killed.phase}, {killed.lost:.2f} s after a checkpoint", flush=True)
        _finish(root, 3)
        spent = _processor_seconds() - before
        different = differences(root, 1, 3)
        for name in different:
            print(f"differs: {name}")
    hit = {kill.phase for kill in kills}
    most = max(kill.lost for kill in kills)
    each = (spent - whole) / len(kills)
    reach = EVERY + START_UP
    wanted = len(phases) if options.quick else KILLS
    conclude(
        [
            Figure("kills", len(kills), "", "-", f"{wanted}", len(kills) >= wanted),
            Figure("phases they hit", len(hit), "", "-", "4", len(hit) == 4),
            Figure("kills that left half a file", sum(kill.half for kill in kills), "", "-", "-", True),
            Figure("results that differ", len(different), "", "the uninterrupted run", "0", not different),
            Figure(
                "work lost per kill, at most", most, "s", f"a checkpoint every {EVERY} s", f"{reach:g} s", most <= reach
            ),
            Figure(
                "processor time lost per kill, mean", each, "s", "an uninterrupted run", f"{reach:g} s", each <= reach
            ),
        ],
        options,
    )


def _prepare(folder: Path) -> Path:
    """Return a workspace with a phantom dataset, its test set, and the same experiment three times."""
    phantom = write_phantom(folder / "phantom", patients=8, seed=1, size=64, test_patients=2, prevalence={"any": 0.4})
    assert phantom.test is not None
    workspace = init_workspace(folder / "workspace")
    with open_store(workspace) as store:
        add_dataset(Project(workspace, store), AddRequest("ph", phantom.train, labels=phantom.train_labels, folds=2))
        add_dataset(
            Project(workspace, store),
            AddRequest("ph-test", phantom.test, test_of="ph", sample=phantom.sample_submission),
        )
        for _ in range(3):
            new_experiment(store, load_registry(), ExperimentRequest(plugin="tiny_resnet", settings=SETTINGS))
    return workspace.root


def _finish(root: Path, number: int) -> None:
    """Run an experiment to its end."""
    victim = Victim(root, number, f"{EVERY}s")
    said = victim.error()
    if victim.process.returncode:
        raise SystemExit(f"the run failed: {said}")


def _processor_seconds() -> float:
    """Return what the runs that have ended have computed for; they use one core, whoever else uses the machine."""
    times = os.times()
    return times.children_user + times.children_system


if __name__ == "__main__":
    main()
