"""The prediction loop: logits of rows by a network, for validation, test sets, new files and other datasets."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ichx.evaluation.feature_files import FeatureSink
from ichx.training.control import Control
from ichx.training.feed import InferenceFeed, Inputs, Rows, SliceInputs
from ichx.training.mask_loss import Overlap
from ichx.training.memory import MicroBatcher
from ichx.training.pooled_features import capture_features
from ichx.training.runtime import Runtime

Logits = npt.NDArray[np.float32]

INFERENCE_BATCH: Final = 64
"""Rows at once where nothing is learned: a training's small batch would only cost time."""


@dataclass(frozen=True)
class PredictionTask:
    """What one pass over rows predicts, apart from the rows."""

    view: str = "identity"
    """A name of `ichx.views`."""
    phase: str = "predicting"
    """Name of the phase in callbacks."""
    name: str = ""
    """Name under which checkpoints hold unfinished predictions; empty for none."""
    features: FeatureSink | None = None
    """Receives the pooled features of the same pass."""
    overlap: Overlap | None = None
    """Counts how predicted masks agree with those of the batches."""
    report: Callable[[int], None] | None = None
    """Receives the number of predicted rows, instead of the phase of the callbacks."""


class Predictor:
    """Predicts rows of a feed, in batches that fit into memory, alone or as one of several processes.

    Batches are assigned to processes whole, so that logits do not depend on the number of processes.
    """

    def __init__(self, runtime: Runtime, control: Control | None = None) -> None:
        """Create a predictor; `control` has the checkpoints that hold unfinished predictions."""
        self.runtime = runtime
        self.control = control or Control()
        self._batcher = MicroBatcher(self.control.callbacks.note)

    def logits(self, model: nn.Module, feed: InferenceFeed, rows: Rows, task: PredictionTask | None = None) -> Logits:
        """Return the predictions `(N, *feed.shape)` of `rows`, in their order: logits `(N, 6)` of slices.

        Rows that are predicted already, as the checkpoints' progress has them under the task's name, are not predicted
        again, unless features or overlaps are wanted.
        """
        task = task or PredictionTask()
        control, group = self.control, self.control.group
        found = self._found(task, len(rows), feed.shape)
        if len(found) == len(rows):
            return found
        model.eval()
        remaining = [rows[start : start + INFERENCE_BATCH] for start in range(len(found), len(rows), INFERENCE_BATCH)]
        own = np.concatenate([rows[:0], *remaining[group.rank :: group.size]])
        batches = feed.inference_batches(own, batch=INFERENCE_BATCH, masks=task.overlap is not None)
        rounds = -(-len(remaining) // group.size)
        fresh: list[Logits] = []
        control.sync.begin()
        for number in range(1, rounds + 1):
            batch = next(batches, None)  # in the last round there may be none for this process
            if batch is not None:
                inputs = feed.inputs(batch, self.runtime.device, view=task.view)
                with capture_features(model, feed.ids(batch.rows.numpy()), task.features):
                    fresh.append(self._batch(model, inputs, task.overlap))
            if control.sync.after_step(number == rounds):
                agreement = control.sync.exchange(fresh)
                turns = zip_longest(*agreement.values)
                found = np.concatenate([found, *(part for turn in turns for part in turn if part is not None)])
                fresh = []
                if task.name:
                    control.checkpoints.progress.logits[task.name] = found
                if task.report is None:
                    control.callbacks.phase(task.phase, len(found), len(rows))
                else:
                    task.report(len(found))
                control.handle(agreement)
        return found

    def _found(self, task: PredictionTask, count: int, shape: tuple[int, ...]) -> Logits:
        """Return the predictions that an interrupted run has left of this task."""
        nothing = np.empty((0, *shape), np.float32)
        if not task.name or task.features is not None or task.overlap is not None:
            return nothing
        found = self.control.checkpoints.progress.logits.get(task.name, nothing)
        if len(found) > count or (len(found) < count and len(found) % INFERENCE_BATCH):
            return nothing  # of other rows: files were readable then that are not now
        return found

    @torch.inference_mode()
    def _batch(self, model: nn.Module, inputs: Inputs, overlap: Overlap | None) -> Logits:
        """Return the predictions of a batch; count the overlap of masks if it has some."""
        masks = inputs.masks[0][1] if overlap is not None and isinstance(inputs, SliceInputs) and inputs.masks else None
        parts, done = list[torch.Tensor](), 0
        while left := len(inputs) - done:
            # Part by part: after an out-of-memory error only the rest is repeated, and no features are captured twice.
            rest = inputs.part(slice(done, None))
            part, pixels = self._batcher.run(left, partial(self._first_part, model, rest))
            parts.append(part.float())
            if overlap is not None and masks is not None:
                overlap.add(pixels, masks[done : done + len(part)])
            done += len(part)
        found: Logits = torch.cat(parts).cpu().numpy()
        return found

    def _first_part(self, model: nn.Module, inputs: Inputs, parts: list[slice]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the predictions of the first of `parts`, and its mask logits or none."""
        first = inputs.part(parts[0])
        with self.runtime.autocast():
            outputs = first.forward(model)
        predictions = first.predictions(outputs)
        if isinstance(first, SliceInputs) and first.masks:
            return predictions, outputs[1].float()
        return predictions, predictions[:0]
