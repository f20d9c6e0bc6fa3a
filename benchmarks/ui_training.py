"""A training whose pace is read while it runs."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

TRAIN = """
import sys, time
from pathlib import Path
from ichx.experiments.callbacks import RunCallbacks
from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.experiments.run import run_experiment
from ichx.loading.loader import SliceLoader
from ichx.plugins import load_registry
from ichx.project import Project
from ichx.store import open_store
from ichx.training.run_options import RunOptions
from ichx.workspace import open_workspace

original = SliceLoader.training_batches

def counted(*arguments, **options):
    for batch in original(*arguments, **options):
        print(time.monotonic(), len(batch.rows), flush=True)
        yield batch

SliceLoader.training_batches = counted
workspace = open_workspace(Path(sys.argv[1]))
with open_store(workspace) as store:
    registry = load_registry()
    settings = ("batch=16", "stage.balanced.sampling=all", "stage.balanced.epochs=10000")
    request = ExperimentRequest(plugin="tiny_resnet", dataset=sys.argv[2], size=96, settings=settings)
    number = new_experiment(store, registry, request).number
    options = RunOptions(device="cpu", pretrained=False)
    run_experiment(Project(workspace, store, registry), number, folds=[0], options=options, callbacks=RunCallbacks())
"""
WARM_UP = 20
"""Batches."""


class Training:
    """A tiny network that trains on a dataset in another process, as `ichx run` does."""

    def __init__(self, root: Path, dataset: str) -> None:
        self._command = [sys.executable, "-c", TRAIN, str(root), dataset]
        self._batches: list[tuple[float, int]] = []

    def __enter__(self) -> Self:
        """Start it, and wait until it trains."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        threading.Thread(target=self._read, daemon=True).start()
        while len(self._batches) < WARM_UP:
            if self._process.poll() is not None:
                raise RuntimeError("The training has ended.")
            time.sleep(0.1)
        return self

    def __exit__(self, *_error: type[BaseException] | BaseException | TracebackType | None) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            when, images = line.split()
            self._batches.append((float(when), int(images)))

    def pace(self, seconds: float, meanwhile: Callable[[], object]) -> float:
        """Return its images per second, over `seconds`, while `meanwhile` runs, which takes as long."""
        began = time.monotonic()
        meanwhile()
        return sum(images for when, images in self._batches if began <= when < began + seconds) / seconds
