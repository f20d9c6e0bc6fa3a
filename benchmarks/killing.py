"""Runs that are killed: waiting for a moment of a run from outside, `kill -9` there, comparing what runs end with."""

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
from ichx.store import open_store
from ichx.training.weights import read_weights
from ichx.workspace import open_workspace

TIMING = {"seconds", "images_per_second", "memory_gb"}
"""Metrics of an epoch that two runs need not have in common."""


@dataclass(frozen=True)
class Kill:
    """A kill in a `phase`: `lost` seconds of work since the newest checkpoint; `half` if it left half a file."""

    phase: str
    lost: float
    half: bool


class Victim:
    """A run of fold 0 of an experiment as a process of its own, with a checkpoint every `every`, such as `2s`."""

    def __init__(self, root: Path, number: int, every: str) -> None:
        self._folder = root / "experiments" / str(number) / "fold-0"
        self._began = time.time()
        self._at_start = self._newest()
        command = [sys.executable, "-m", "ichx", "run", str(number), "--fold", "0", "--device", "cpu"]
        self.process = subprocess.Popen(
            [*command, "--checkpoint-every", every],
            cwd=root,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={name: value for name, value in os.environ.items() if not name.startswith("ICHX_")},
        )
        self._works = float("inf")
        self._said: list[str] = []
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._said.append(line)
            if line.startswith("  from: "):
                self._works = time.time()

    def kill(self, phase: str, totals: dict[tuple[int, int], int], rng: random.Random) -> Kill | None:
        """Kill the run at a random moment of `phase`; return None where it ended before.

        `totals` are the batches of each epoch, by stage and epoch from 0. Phases: `training`; `checkpoint`, while one
        is being written; `validation`; `prediction`, after training.
        """
        while not self._is_in(phase, totals):
            if self.process.poll() is not None:
                if self.process.returncode:
                    raise RuntimeError(f"the run failed: {self.error()}")
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
        half = any(self._folder.glob("*.tmp")) or any(self._folder.glob(".*.parquet.*"))
        return Kill(phase, max(killed - max(saved, self._works), 0.0), half)

    def error(self) -> str:
        """Return what the run said, when it has ended."""
        self.process.wait()
        self._listener.join()
        return "".join(self._said)

    def _newest(self) -> Path | None:
        return max(self._folder.glob("checkpoint-*.pt"), default=None)

    def _is_in(self, phase: str, totals: dict[tuple[int, int], int]) -> bool:
        if phase == "checkpoint":
            return any(self._folder.glob("checkpoint-*.tmp"))
        if phase == "prediction":
            weights = self._folder / "weights.safetensors"
            return weights.exists() and weights.stat().st_mtime >= self._began
        newest = self._newest()
        if newest is None or newest == self._at_start:
            return False
        stage, epoch, batch = (int(number) for number in re.findall(r"\d+", newest.name))
        total = totals.get((stage, epoch), 0)
        return batch == total > 0 if phase == "validation" else 0 < batch < total


def batches_of_epochs(root: Path, number: int, batch: int) -> dict[tuple[int, int], int]:
    """Return how many batches each epoch of an experiment that is done had, by stage and epoch from 0."""
    with open_store(open_workspace(root)) as store:
        history = store.history(number, 0)
    indices = {name: index for index, name in enumerate(dict.fromkeys(record.stage for record in history))}
    return {(indices[r.stage], r.epoch - 1): round(r.values["images"]) // batch for r in history}


def differences(root: Path, one: int, other: int) -> list[str]:
    """Return in what the weights, logits and history of two experiments' fold 0 differ by a single bit."""
    homes = [root / "experiments" / str(number) / "fold-0" for number in (one, other)]
    first, second = (read_weights(home / "weights.safetensors") for home in homes)
    found = [name for name in first.keys() | second.keys() if not _same(first.get(name), second.get(name))]
    files = [sorted(path.name for path in home.glob("*.parquet")) for home in homes]
    if files[0] != files[1]:
        found.append(f"the files {files[0]} and {files[1]}")
    for file in set(files[0]) & set(files[1]):
        logits = [read_predictions(home / file).logits for home in homes]
        if not np.array_equal(*logits):
            found.append(file)
    with open_store(open_workspace(root)) as store:
        histories = [
            [(r.stage, r.epoch, {k: v for k, v in r.values.items() if k not in TIMING}) for r in store.history(n, 0)]
            for n in (one, other)
        ]
    return found if histories[0] == histories[1] else [*found, "the history"]


def _same(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    return one is not None and other is not None and torch.equal(one, other)
