"""A run that records epochs through the store as a training does, without training; an experiment for it."""

import os
from pathlib import Path

from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.plugins import load_registry
from ichx.process_identity import host_name
from ichx.store import EpochRecord, Run, RunDraft, Store, open_store
from ichx.workspace import open_workspace

STAGES = (("balanced", 3), ("rebalanced", 2), ("full", 4))


def open_copy(root: Path) -> Store:
    """Return the store of a workspace; the caller closes it."""
    return open_store(open_workspace(root))


def new_one(store: Store, name: str = "simulated") -> int:
    """Register an experiment with the stages `STAGES`; return its number."""
    settings = [f"stage.{stage}.epochs={epochs}" for stage, epochs in STAGES]
    request = ExperimentRequest(plugin="tiny_resnet", size=32, name=name, settings=settings)
    return new_experiment(store, load_registry(), request).number


def start(store: Store, number: int, fold: int = 0) -> Run:
    """Start a run in this process."""
    draft = RunDraft(
        experiment=number,
        fold=fold,
        host=host_name(),
        pid=os.getpid(),
        code_version="1.0",
        libraries={},
        device="cpu",
        command="ichx run",
    )
    return store.start_run(draft)


def epoch_record(index: int, **values: float) -> EpochRecord:
    """Return the record of epoch `index` (from 0) over all stages."""
    places = [(i, stage, epoch + 1) for i, (stage, epochs) in enumerate(STAGES) for epoch in range(epochs)]
    stage_index, stage, epoch = places[index]
    measured = {"loss": 1 / (index + 1), "score": 0.5 / (index + 1), "lr": 1e-3, "seconds": 20.0}
    measured |= {"images_per_second": 123.0, "memory_gb": 1.5, "score_any": 0.3}
    return EpochRecord(stage=stage, stage_index=stage_index, epoch=epoch, values=measured | values)


def record(store: Store, run: Run, index: int, **values: float) -> None:
    """Record epoch `index` (from 0) of a run, as the trainer does."""
    store.record_epoch(run.id, epoch_record(index, **values))
    store.heartbeat(run.id, epochs_done=index + 1)
