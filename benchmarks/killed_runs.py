"""Runs that are killed in a chosen phase, and the comparison of their results."""

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ichx.evaluation.predictions import read_predictions
from ichx.files import DRAFT_PATTERN
from ichx.store import open_store
from ichx.training.weights import read_weights
from ichx.workspace import open_workspace

TIMING = {"seconds", "images_per_second", "memory_gb"}
"""Metrics of an epoch that differ between equal runs."""


@dataclass(frozen=True)
class Kill:
    """A kill of a run."""

    phase: str
    lost: float
    """Seconds of work since the newest checkpoint."""
    left_draft: bool
    """Whether an incomplete temporary file is left."""


class KilledRun:
    """A process that runs fold 0 of an experiment, to be killed."""

    def __init__(self, root: Path, number: int, checkpoint_every: str) -> None:
        """Start the run; `checkpoint_every` is a duration, e.g. `2s`."""
        self._folder = root / "experiments" / str(number) / "fold-0"
        self._began = time.time()
        self._at_start = self._newest()
        command = [sys.executable, "-m", "ichx", "run", str(number), "--fold", "0", "--device", "cpu"]
        self.process = subprocess.Popen(
            [*command, "--checkpoint-every", checkpoint_every],
            cwd=root,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={name: value for name, value in os.environ.items() if not name.startswith("ICHX_")},
        )
        self._work_began = float("inf")
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._lines.append(line)
            if line.startswith("  from: "):
                self._work_began = time.time()

    def kill(self, phase: str, totals: dict[tuple[int, int], int], rng: random.Random) -> Kill | None:
        """Kill the run at a random moment of a phase; return None if it has ended before.

        Args:
            phase: `training`, `checkpoint` (while one is written), `validation` or `prediction` (after training).
            totals: Number of batches of each epoch, by stage and epoch from 0.
            rng: Draws the moment.
        """
        while not self._is_in(phase, totals):
            if self.process.poll() is not None:
                if self.process.returncode:
                    raise RuntimeError(f"the run failed: {self.wait()}")
                return None
            time.sleep(0.0005)
        time.sleep(rng.uniform(0, 0.004 if phase == "checkpoint" else 0.25))
        if self.process.poll() is not None:
            return None
        self.process.send_signal(signal.SIGKILL)
        killed = time.time()
        self.process.wait()
        newest = self._newest()
        saved = newest.stat().st_mtime if newest is not None else 0.0
        left_draft = any(self._folder.glob(DRAFT_PATTERN))
        return Kill(phase, max(killed - max(saved, self._work_began), 0.0), left_draft)

    def stop_and_kill(self, totals: dict[tuple[int, int], int], rng: random.Random) -> bool | None:
        """Ask the run to stop, and kill it while it saves its progress, as a scheduler does at the time limit.

        Returns:
            Whether it was killed; False if it had stopped before, None if it had finished.
        """
        while not self._is_in("training", totals):
            if self.process.poll() is not None:
                if self.process.returncode:
                    raise RuntimeError(f"the run failed: {self.wait()}")
                return None
            time.sleep(0.0005)
        self.process.send_signal(signal.SIGTERM)
        if rng.random() < 0.7:  # in the middle of a write; otherwise at any moment
            while self.process.poll() is None and not self._is_in("checkpoint", totals):
                time.sleep(0.0002)
            time.sleep(rng.uniform(0, 0.004))
        else:
            time.sleep(rng.uniform(0, 0.3))
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        errors = self.wait()
        if self.process.returncode in (0, -signal.SIGKILL):
            return None if self.process.returncode == 0 else True
        if self.process.returncode != 128 + signal.SIGTERM:
            raise RuntimeError(f"the run failed: {errors}")
        return False

    def wait(self) -> str:
        """Wait until the run has ended; return its standard error."""
        self.process.wait()
        self._reader.join()
        return "".join(self._lines)

    def _newest(self) -> Path | None:
        return max(self._folder.glob("checkpoint-*.pt"), default=None)

    def _is_in(self, phase: str, totals: dict[tuple[int, int], int]) -> bool:
        if phase == "checkpoint":
            return any(self._folder.glob(".checkpoint-*.tmp.pt"))
        if phase == "prediction":
            weights = self._folder / "weights.safetensors"
            return weights.exists() and weights.stat().st_mtime >= self._began
        newest = self._newest()
        if newest is None or newest == self._at_start:
            return False
        stage, epoch, batch = (int(number) for number in re.findall(r"\d+", newest.name))
        total = totals.get((stage, epoch), 0)
        return batch == total > 0 if phase == "validation" else 0 < batch < total


def batches_per_epoch(root: Path, number: int, batch: int) -> dict[tuple[int, int], int]:
    """Return the number of batches of each epoch of a finished experiment, by stage and epoch from 0."""
    with open_store(open_workspace(root)) as store:
        history = store.history(number, 0)
    indices = {name: index for index, name in enumerate(dict.fromkeys(record.stage for record in history))}
    return {(indices[r.stage], r.epoch - 1): round(r.values["images"]) // batch for r in history}


def differences(root: Path, one: int, other: int, fold: int = 0) -> list[str]:
    """Return the weights, logits and history of a fold of two experiments that differ by at least a bit."""
    folders = [root / "experiments" / str(number) / f"fold-{fold}" for number in (one, other)]
    first, second = (read_weights(folder / "weights.safetensors") for folder in folders)
    found = [name for name in first.keys() | second.keys() if not _equal(first.get(name), second.get(name))]
    files = [sorted(path.name for path in folder.glob("*.parquet")) for folder in folders]
    if files[0] != files[1]:
        found.append(f"the files {files[0]} and {files[1]}")
    for file in set(files[0]) & set(files[1]):
        logits = [read_predictions(folder / file).logits for folder in folders]
        if not np.array_equal(*logits):
            found.append(file)
    with open_store(open_workspace(root)) as store:
        histories = [
            [(r.stage, r.epoch, {k: v for k, v in r.values.items() if k not in TIMING}) for r in store.history(n, fold)]
            for n in (one, other)
        ]
    return found if histories[0] == histories[1] else [*found, "the history"]


def _equal(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    return one is not None and other is not None and torch.equal(one, other)
