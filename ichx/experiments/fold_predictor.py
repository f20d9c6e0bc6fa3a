"""What a fold predicts: logits of slices in a view, written down with what the store must know of them.

Whole batches are dealt to the processes of a group, so that logits do not depend on how many there are; those that are
predicted go into checkpoints.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from torch import nn

from ichx.evaluation.choices import VIEWS
from ichx.evaluation.feature_files import FeatureWriter, features_file
from ichx.evaluation.metric import probabilities, score
from ichx.evaluation.predictions import Predictions, write_predictions
from ichx.experiments.fold_files import missing_tests
from ichx.experiments.prepare import Job, open_cache, test_data
from ichx.labels import LABELS
from ichx.loading.loader import inference_batches
from ichx.project import Project
from ichx.store import PredictionDraft
from ichx.training.callbacks import RunEvents
from ichx.training.device import Hardware
from ichx.training.distributed import Group
from ichx.training.epoch_loop import predict_batch
from ichx.training.mask_loss import Overlap
from ichx.training.method import WindowStep
from ichx.training.micro_batches import Portions
from ichx.training.pooled_features import captured
from ichx.training.step_sync import Agreed, Looks

if TYPE_CHECKING:
    from ichx.cache.hu_cache import Cache
    from ichx.datasets.dataset import LoadedDataset
    from ichx.store import Prediction, Store


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
    portions: Portions
    save_features: bool = False

    def logits(
        self,
        model: nn.Module,
        data: "LoadedDataset",
        cache: "Cache",
        rows: npt.NDArray[np.int64],
        view: str,
        name: str,
        phase: str,
        features: FeatureWriter | None = None,
        overlap: Overlap | None = None,
    ) -> npt.NDArray[np.float32]:
        """Return the logits `(N, 6)` of `rows` of `data`, in their order.

        What is kept under `name` is not predicted anew; `phase` says what this is for. The pooled features of the same
        pass go to `features`, where that is given, by this process alone; with `overlap`, `data` are the job's own, and
        it counts how the network's masks agree with theirs. For either, all is predicted anew.
        """
        nothing = np.empty((0, len(LABELS)), np.float32)
        found = self.kept.get(name, nothing) if features is None and overlap is None else nothing
        if len(found) == len(rows):
            return found
        if len(found) > len(rows) or len(found) % INFERENCE_BATCH:
            found = nothing  # of slices that were readable then
        model.eval()
        rank, size = self.group.rank, self.group.size
        ahead = [rows[start : start + INFERENCE_BATCH] for start in range(len(found), len(rows), INFERENCE_BATCH)]
        mine = np.concatenate([rows[:0], *ahead[rank::size]])
        batches = inference_batches(
            cache,
            data.slices,
            mine,
            self.job.recipe,
            batch=INFERENCE_BATCH,
            workers=self.workers,
            masks=None if overlap is None else self.job.masks,
        )
        rounds = -(-len(ahead) // size)
        fresh: list[npt.NDArray[np.float32]] = []
        self.looks.begin()
        ids = data.slices["slice_id"].to_numpy(object)
        for number in range(1, rounds + 1):
            batch = next(batches, None)  # in the last round there may be none for this process
            if batch is not None:
                with captured(model, ids[batch.rows.numpy()], features):
                    predicted = predict_batch(
                        model, self.window_step, batch, self.hardware.device, view, self.portions, overlap
                    )
                fresh.append(predicted)
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
        missing = missing_tests(Project(self.job.workspace, store), experiment, self.fold)
        for version in self.group.share(missing):  # all processes predict the same, whatever is added meanwhile
            data = test_data(self.job.workspace, version)
            with self.waiting():
                cache = self.group.first(partial(open_cache, self.job.workspace, data, self.job.recipe, self.events))
            if cache.defects:
                self.events.note(f"{len(cache.defects)} slices of {version.dataset} cannot be decoded and are left out")
            drafts += self._write("test", version.id, data, cache, model, np.flatnonzero(cache.valid))[0]
        return drafts

    def features(self, model: nn.Module, store: "Store") -> None:
        """Write the pooled features beside those recorded predictions of the fold that have none."""
        for prediction in missing_features(Project(self.job.workspace, store), self.job.experiment.number, self.fold):
            if prediction.role == "oof":
                data, cache, rows = self.job.data, self.job.cache, self.job.validation_rows(self.fold)
            else:
                data = test_data(self.job.workspace, store.version_by_id(prediction.version_id))
                cache = open_cache(self.job.workspace, data, self.job.recipe, self.events)
                rows = np.flatnonzero(cache.valid)
            phase = f"features of {data.version.dataset}, {prediction.view}"
            with FeatureWriter(features_file(self.job.workspace.root / prediction.path)) as features:
                self.logits(model, data, cache, rows, prediction.view, "features", phase, features)

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
            path = self.folder / f"{name}-{view}.parquet"
            phase = f"predicting {data.version.dataset}, {view}"
            with FeatureWriter(features_file(path)) if self.save_features else nullcontext() as features:
                logits = self.logits(model, data, cache, rows, view, f"{name}-{view}", phase, features)
            value = score(labels, probabilities(logits)) if role == "oof" else None
            if view == "identity" and value is not None:
                plain = value
            if not self.group.leads:
                continue
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


def missing_features(project: "Project", number: int, fold: int) -> "list[Prediction]":
    """Return the fold's OOF and test predictions that have no pooled features beside them."""
    return [
        p
        for p in project.store.predictions(number)
        if p.fold == fold and p.role in ("oof", "test") and not features_file(project.workspace.root / p.path).is_file()
    ]
