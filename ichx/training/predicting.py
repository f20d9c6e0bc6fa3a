"""What a fold predicts: logits of slices in a view, written down with what the store must know of them.

Whole batches are dealt to the processes of a group, so that logits do not depend on how many there are; those that are
predicted go into checkpoints.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from torch import nn

from ichx.data.loader import inference_batches
from ichx.data.predictions import VIEWS, Predictions, write_predictions
from ichx.evaluation.metric import probabilities, score
from ichx.labels import LABELS
from ichx.store import PredictionDraft
from ichx.training.device import Hardware
from ichx.training.events import RunEvents
from ichx.training.group import Group
from ichx.training.job import Job, open_cache, test_data
from ichx.training.looks import Agreed, Looks
from ichx.training.loop import predict_batch
from ichx.training.method import WindowStep

if TYPE_CHECKING:
    from ichx.data.cache import Cache
    from ichx.data.dataset import LoadedDataset
    from ichx.store import DatasetVersion, Store
    from ichx.workspace import Workspace


INFERENCE_BATCH = 64
"""Slices at once where nothing is learnt: a training's small batch would only cost time."""


@dataclass(frozen=True)
class FoldPredictor:
    """Predicts with the network of one fold. `folder` is the fold's own, for its prediction files."""

    job: Job
    fold: int
    folder: Path
    hardware: Hardware
    workers: int
    window_step: WindowStep
    events: RunEvents
    group: Group
    looks: Looks
    kept: dict[str, npt.NDArray[np.float32]]
    """Logits that are predicted already, by what they are of; prediction adds to them as it goes."""
    looked: Callable[[Agreed], None]
    """Is called after each look, with what has been predicted in `kept`."""
    held: Callable[[], None]
    """Raises where the fold is no longer this run's, before a file is written."""
    waiting: Callable[[], AbstractContextManager[None]]
    """Surrounds work that has no looks, so that it can be stopped as well."""

    def logits(
        self,
        model: nn.Module,
        data: "LoadedDataset",
        cache: "Cache",
        rows: npt.NDArray[np.int64],
        view: str,
        name: str,
        phase: str,
    ) -> npt.NDArray[np.float32]:
        """Return the logits `(N, 6)` of `rows` of `data`, in their order.

        What is kept under `name` is not predicted anew; `phase` says what this is for.
        """
        nothing = np.empty((0, len(LABELS)), np.float32)
        found = self.kept.get(name, nothing)
        if len(found) == len(rows):
            return found
        if len(found) > len(rows) or len(found) % INFERENCE_BATCH:
            found = nothing  # of slices that were readable then
        model.eval()
        rank, size = self.group.rank, self.group.size
        ahead = [rows[start : start + INFERENCE_BATCH] for start in range(len(found), len(rows), INFERENCE_BATCH)]
        mine = np.concatenate([rows[:0], *ahead[rank::size]])
        batches = inference_batches(
            cache, data.slices, mine, self.job.recipe, batch=INFERENCE_BATCH, workers=self.workers
        )
        rounds = -(-len(ahead) // size)
        fresh: list[npt.NDArray[np.float32]] = []
        self.looks.begin()
        for number in range(1, rounds + 1):
            batch = next(batches, None)  # in the last round there may be none for this process
            if batch is not None:
                fresh.append(predict_batch(model, self.window_step, batch, self.hardware.device, view))
            if self.looks.after_step(number == rounds):
                agreed = self.looks.exchange(fresh)
                dealt = zip_longest(*agreed.brought)
                found = np.concatenate([found, *(part for turn in dealt for part in turn if part is not None)])
                fresh = []
                self.kept[name] = found
                self.events.phase(phase, len(found), len(rows))
                self.looked(agreed)
        return found

    def validation(self, model: nn.Module, rows: npt.NDArray[np.int64]) -> tuple[list[PredictionDraft], float]:
        """Write the OOF predictions of `rows`; return their drafts and the score without test-time augmentation."""
        return self._write("oof", self.job.experiment.version_id, self.job.data, self.job.cache, model, rows)

    def tests(self, model: nn.Module, store: "Store") -> list[PredictionDraft]:
        """Write the predictions of every test set that the fold has not predicted; return their drafts."""
        drafts = []
        experiment = self.job.experiment
        missing = missing_tests(self.job.workspace, store, experiment.dataset, experiment.number, self.fold)
        for version in self.group.share(missing):  # all processes predict the same, whatever is added meanwhile
            data = test_data(self.job.workspace, version)
            with self.waiting():
                cache = self.group.first(partial(open_cache, self.job.workspace, data, self.job.recipe, self.events))
            if cache.defects:
                self.events.note(f"{len(cache.defects)} slices of {version.dataset} cannot be decoded and are left out")
            drafts += self._write("test", version.id, data, cache, model, np.flatnonzero(cache.valid))[0]
        return drafts

    def _write(
        self,
        role: str,
        version_id: int,
        data: "LoadedDataset",
        cache: "Cache",
        model: nn.Module,
        rows: npt.NDArray[np.int64],
    ) -> tuple[list[PredictionDraft], float]:
        """Write the predictions of every view; return their drafts and the identity view's score, or NaN."""
        ids = data.slices["slice_id"].to_numpy(dtype=object)[rows]
        labels = data.slices[list(LABELS)].to_numpy(np.float64)[rows]
        name = role if role == "oof" else f"test-{data.version.dataset}-v{data.version.number}"
        drafts = []
        plain = float("nan")
        for view in VIEWS:
            phase = f"predicting {data.version.dataset}, {view}"
            logits = self.logits(model, data, cache, rows, view, f"{name}-{view}", phase)
            value = score(labels, probabilities(logits)) if role == "oof" else None
            if view == "identity" and value is not None:
                plain = value
            if not self.group.leads:
                continue
            path = self.folder / f"{name}-{view}.parquet"
            self.held()
            digest = write_predictions(path, Predictions(ids, logits))
            drafts.append(
                PredictionDraft(
                    experiment=self.job.experiment.number,
                    fold=self.fold,
                    version_id=version_id,
                    role=role,
                    view=view,
                    path=path.relative_to(self.job.workspace.root).as_posix(),
                    slices=len(rows),
                    digest=digest,
                    score=value,
                )
            )
        return drafts, plain


def missing_tests(
    workspace: "Workspace", store: "Store", dataset: str, number: int, fold: int
) -> "list[DatasetVersion]":
    """Return the test sets that the fold has not predicted in every view."""
    missing = []
    for version in store.test_sets(dataset):
        have = {
            p.view
            for p in store.predictions(number, role="test", version_id=version.id)
            if p.fold == fold and (workspace.root / p.path).is_file()
        }
        if have < set(VIEWS):
            missing.append(version)
    return missing
