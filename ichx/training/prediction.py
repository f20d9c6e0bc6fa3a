"""The prediction loop: logits of rows by a network, for validation, test sets, new files and other datasets."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ichx.evaluation.feature_files import FeatureSink
from ichx.training.compilation import CompiledPrediction
from ichx.training.control import Control
from ichx.training.feed import InferenceFeed, Inputs, Rows, SliceInputs
from ichx.training.mask_loss import Overlap
from ichx.training.memory import MicroBatcher
from ichx.training.pooled_features import capture_features
from ichx.training.run_options import INFERENCE_BATCH
from ichx.training.runtime import Runtime

Logits = npt.NDArray[np.float32]


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

    Batches are assigned to processes whole, so that logits do not depend on the number of processes. Logits stay on the
    device until a sync point: it computes while the next batches are read and started.
    """

    def __init__(self, runtime: Runtime, control: Control | None = None, *, batches: int = 0) -> None:
        """Create a predictor.

        Args:
            runtime: Device, precision and processes.
            control: It has the checkpoints that hold unfinished predictions.
            batches: How many batches this will predict in all, if that is known: many are worth a compilation.
        """
        self.runtime = runtime
        self.control = control or Control()
        self.batches = batches
        self._batcher = MicroBatcher(self.control.callbacks.note)
        self._compiled = CompiledPrediction(self.control.callbacks.note)

    def logits(self, model: nn.Module, feed: InferenceFeed, rows: Rows, task: PredictionTask | None = None) -> Logits:
        """Return the predictions `(N, *feed.shape)` of `rows`, in their order: logits `(N, 6)` of slices.

        Rows that are predicted already, as the checkpoints' progress has them under the task's name, are not predicted
        again, unless features or overlaps are wanted.
        """
        return self.logits_of_views(model, feed, rows, [task or PredictionTask()])[0]

    def logits_of_views(
        self, model: nn.Module, feed: InferenceFeed, rows: Rows, tasks: Sequence[PredictionTask]
    ) -> list[Logits]:
        """Return what `logits` returns for each of `tasks`; all read a batch once, and the first one reports."""
        found = [self._found(task, len(rows), feed.shape) for task in tasks]
        open_tasks = [number for number, logits in enumerate(found) if len(logits) < len(rows)]
        if not open_tasks:
            return found
        done = min(len(found[number]) for number in open_tasks)
        remaining = [tasks[number] for number in open_tasks]
        predicted = self._predict(model, feed, rows, remaining, [found[number][:done] for number in open_tasks])
        for number, logits in zip(open_tasks, predicted, strict=True):
            found[number] = logits
        return found

    def _predict(
        self, model: nn.Module, feed: InferenceFeed, rows: Rows, tasks: list[PredictionTask], found: list[Logits]
    ) -> list[Logits]:
        """Return the predictions of `rows` for each task, which has `found` as many of the first of them."""
        control, group, first = self.control, self.control.group, tasks[0]
        model.eval()
        starts = range(len(found[0]), len(rows), INFERENCE_BATCH)
        remaining = [rows[start : start + INFERENCE_BATCH] for start in starts]
        own = np.concatenate([rows[:0], *remaining[group.rank :: group.size]])
        masks = any(task.overlap is not None for task in tasks)
        batches = feed.inference_batches(own, batch=INFERENCE_BATCH, masks=masks)
        rounds = -(-len(remaining) // group.size)
        self._compiled.choose(self.runtime.device, max(self.batches, rounds))
        fresh: list[list[torch.Tensor]] = []  # of each batch, of each task
        control.sync.begin()
        for number in range(1, rounds + 1):
            batch = next(batches, None)  # in the last round there may be none for this process
            if batch is not None:
                of_tasks = []
                for task in tasks:
                    inputs = feed.inputs(batch, self.runtime.device, view=task.view)
                    with capture_features(model, feed.ids(batch.rows.numpy()), task.features):
                        of_tasks.append(self._batch(model, inputs, task))
                fresh.append(of_tasks)
            if control.sync.after_step(number == rounds):
                arrived = [[logits.cpu().numpy() for logits in of_tasks] for of_tasks in fresh]  # this waits
                agreement = control.sync.exchange(arrived)
                turns = [part for turn in zip_longest(*agreement.values) for part in turn if part is not None]
                found = [np.concatenate([found[at], *(turn[at] for turn in turns)]) for at in range(len(tasks))]
                fresh = []
                for task, logits in zip(tasks, found, strict=True):
                    if task.name:
                        control.checkpoints.progress.logits[task.name] = logits
                if first.report is None:
                    control.callbacks.phase(first.phase, len(found[0]), len(rows))
                else:
                    first.report(len(found[0]))
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
    def _batch(self, model: nn.Module, inputs: Inputs, task: PredictionTask) -> torch.Tensor:
        """Return the predictions of a batch, on the device; count the overlap of masks if the task has some."""
        overlap = task.overlap
        masks = inputs.masks[0][1] if overlap is not None and isinstance(inputs, SliceInputs) and inputs.masks else None
        compiled = task.features is None and masks is None  # features are captured from the network itself
        parts, done = list[torch.Tensor](), 0
        while left := len(inputs) - done:
            # Part by part: after an out-of-memory error only the rest is repeated, and no features are captured twice.
            rest = inputs.part(slice(done, None))
            part, pixels = self._batcher.run(left, partial(self._first_part, model, compiled, rest))
            parts.append(part.float())
            if overlap is not None and masks is not None:
                overlap.add(pixels, masks[done : done + len(part)])
            done += len(part)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _first_part(
        self, model: nn.Module, compiled: bool, inputs: Inputs, parts: list[slice]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the predictions of the first of `parts`, and its mask logits or none."""
        first = inputs.part(parts[0])
        with self.runtime.autocast():
            # Only complete batches have the shape that is compiled.
            compiled = compiled and len(first) == INFERENCE_BATCH
            outputs = self._compiled.forward(model, first.forward) if compiled else first.forward(model)
        predictions = first.predictions(outputs)
        if isinstance(first, SliceInputs) and first.masks:
            return predictions, outputs[1].float()
        return predictions, predictions[:0]
