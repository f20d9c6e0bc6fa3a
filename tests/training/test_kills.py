"""Three kills of `benchmarks/kills.py`: in the middle of an epoch, in a checkpoint's writing, in validation."""

import importlib.util
import random
import sys
from pathlib import Path
from types import ModuleType

import pytest

from ichx.plugins import load_registry
from ichx.store import open_store
from ichx.training.register import new_experiment
from ichx.workspace import open_workspace

BATCH = 4
SETTINGS = (
    f"batch={BATCH}",
    "stage.balanced.epochs=1",
    "stage.rebalanced.epochs=1",
    "stage.full.epochs=1",
    "model.dropout=0.2",
    "precision=fp32",
)


@pytest.fixture(scope="module")
def killing() -> ModuleType:
    """Return the benchmark's module of runs that are killed."""
    file = Path(__file__).parents[2] / "benchmarks" / "killing.py"
    spec = importlib.util.spec_from_file_location("killing", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


def test_killed_three_times_it_ends_at_the_same_bits(dataset_copy: Path, killing: ModuleType) -> None:
    with open_store(open_workspace(dataset_copy)) as store:
        for _ in range(2):
            new_experiment(store, load_registry(), plugin="tiny_resnet", settings=SETTINGS)
    assert killing.Victim(dataset_copy, 1, "0").error().count("Traceback") == 0
    totals = killing.batches_of_epochs(dataset_copy, 1, BATCH)
    assert len(totals) == 3
    rng = random.Random(3)
    for phase in ("training", "checkpoint", "validation"):
        kill = killing.Victim(dataset_copy, 2, "0.1s").kill(phase, totals, rng)
        assert kill is not None, f"it ended before {phase}"
    last = killing.Victim(dataset_copy, 2, "0.1s")
    said = last.error()
    assert last.process.returncode == 0, said
    assert "checkpoint after epoch" in said
    assert killing.differences(dataset_copy, 1, 2) == []
