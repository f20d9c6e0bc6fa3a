"""One attempt at one fold: train stage by stage from where an earlier attempt ended, then predict."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ichx.evaluation.metric import label_losses, probabilities, score
from ichx.experiment_files import NOT_FINITE_FILE
from ichx.experiments.fold_files import finished_folds
from ichx.experiments.fold_plan import check_rows, fold_plan, told_position
from ichx.experiments.fold_predictor import FoldPredictor
from ichx.experiments.lease import Lease, NoLease, lease
from ichx.experiments.prepare import Job
from ichx.experiments.provenance import run_draft
from ichx.labels import LABELS
from ichx.loading.loader import training_batches
from ichx.loading.sampling import epoch_rows
from ichx.project import Project
from ichx.store import EpochRecord, PredictionDraft
from ichx.training import checkpoint
from ichx.training.callbacks import RunEvents
from ichx.training.checkpoint import Position
from ichx.training.checkpoint_files import remove_checkpoints, remove_drafts
from ichx.training.compilation import compiler_for
from ichx.training.device import (
    Hardware,
    loader_workers,
    make_accelerator,
    release_accelerator,
    torch_of_its_own,
)
from ichx.training.distributed import AgreedError, Group, watching
from ichx.training.divergence import NOT_FINITE_REMEDY, Divergence, NotFiniteError
from ichx.training.early_stopping import Patience
from ichx.training.epoch_loop import EpochPart, LossError, train_epoch
from ichx.training.fold_progress import EpochSums, Progress, Saver
from ichx.training.learner import Learner, address_seed, prepared
from ichx.training.mask_loss import Overlap, dice
from ichx.training.method import WindowStep, learning_rate
from ichx.training.micro_batches import Portions, forget_peak, peak_gb
from ichx.training.pooled_features import last_layer
from ichx.training.run_options import RunOptions
from ichx.training.step_sync import Agreed, Looks
from ichx.training.stop_request import RunStopped, StopRequest
from ichx.training.weights import Start, choose_start, load_exactly, make_model, remember_start, save_weights

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ichx.store import Store


class FoldRun:
    """One attempt at one fold, by this process or by a group of them."""

    def __init__(
        self,
        job: Job,
        store: "Store",
        fold: int,
        *,
        trained: bool,
        options: RunOptions,
        events: RunEvents,
        hardware: Hardware,
        group: Group,
        stop: StopRequest,
    ) -> None:
        """Prepare the attempt; `trained` folds only predict what they have not predicted."""
        self.job, self.store, self.fold, self.trained = job, store, fold, trained
        self.options, self.events, self.hardware = options, events, hardware
        self.group, self.stop = group, stop
        self.recipe = job.recipe
        self.number = job.experiment.number
        self.home = job.workspace.experiment_dir(self.number)
        self.folder = self.home / f"fold-{fold}"
        self.workers = loader_workers(hardware, options.workers)
        self.rows = job.validation_rows(fold)
        self.train_rows = job.training_rows(fold)
        self.progress = Progress()
        self.learner: Learner | None = None
        self.patience = Patience(0)
        self._validating: float | None = None

    def execute(self) -> None:
        """Train, or load what was trained, predict what is not predicted yet, and record it all."""
        check_rows(self.job, self.fold, trained=self.trained)
        with self._lease() as held, watching(self.group, self.stop, self.number), torch_of_its_own(self.hardware):
            self.group.share(None)  # the others go on when the first one holds the fold
            self.held = held
            if self.group.leads:
                remove_drafts(self.folder)
            # what a trained fold has predicted says nothing to one that is to be trained anew
            fits = f"{self.job.fits}/trained" if self.trained else self.job.fits
            self.saver = Saver(self.folder, fits, self.options.checkpoint_every, held.check, self.group.leads)
            self.looks = Looks(self.group, self.stop, self.saver.due)
            newest = checkpoint.load_newest(self.folder, fits, self.events.note)
            if newest is not None:
                self.progress = Progress.of(*newest)
            predictor = self._predictor()
            idle = self.job.plugin.masks and self.job.masks is None  # a decoder that nothing teaches
            accelerator = make_accelerator(self.hardware, freezes=self.recipe.freezes or idle)
            try:
                if self.trained:
                    model, drafts = self._stored(accelerator), list[PredictionDraft]()
                    if self.fold not in finished_folds(Project(self.job.workspace, self.store), self.number):
                        drafts += predictor.validation(model, self.rows)[0]
                else:
                    model, drafts = self._train_and_predict(accelerator, predictor, newest)
                drafts += predictor.tests(model, self.store)
                if self.trained and self.options.save_features:
                    predictor.features(model, self.store)
            finally:
                release_accelerator()
            held.finish(drafts)
        if self.group.leads:
            remove_checkpoints(self.folder)
            self._not_finite.unlink(missing_ok=True)

    def _lease(self) -> contextlib.AbstractContextManager[Lease]:
        if not self.group.leads:
            return contextlib.nullcontext(NoLease())
        draft = run_draft(self.number, self.fold, str(self.hardware), self.recipe.seed, self.folder)
        return lease(self.store, draft, self.events)

    def _predictor(self) -> FoldPredictor:
        return FoldPredictor(
            job=self.job,
            fold=self.fold,
            folder=self.folder,
            hardware=self.hardware,
            workers=self.workers,
            window_step=WindowStep(self.recipe.input).to(self.hardware.device),
            events=self.events,
            group=self.group,
            looks=self.looks,
            kept=self.progress.logits,
            looked=self._heed,
            held=self.held.check,
            waiting=self._waiting,
            portions=Portions(self.events.note),
            save_features=self.options.save_features,
        )

    @property
    def _weights(self) -> Path:
        return self.folder / "weights.safetensors"

    @property
    def _not_finite(self) -> Path:
        return self.folder / NOT_FINITE_FILE

    def _stored(self, accelerator: "Accelerator") -> nn.Module:
        """Return the network that an earlier attempt trained; its OOF predictions are recorded already."""
        model: nn.Module = accelerator.unwrap_model(prepared(accelerator, self.job.plugin.build(self.recipe, False)))
        load_exactly(model, self._weights)
        # a checkpoint within the prediction counts from the end of training
        self.progress.position = Position(len(self.recipe.stage) - 1, self.recipe.stage[-1].epochs)
        return model

    def _train_and_predict(
        self, accelerator: "Accelerator", predictor: FoldPredictor, newest: tuple[Position, dict[str, Any]] | None
    ) -> tuple[nn.Module, list[PredictionDraft]]:
        start = choose_start(self.home, self.recipe, pretrained=self.options.pretrained, weights=self.options.weights)
        torch.manual_seed(address_seed(self.recipe.seed, self.fold))
        begin = start if newest is None else Start("random")  # the checkpoint's weights replace these
        with self.stop.at_once():  # weights may be downloaded
            made = self.group.first(lambda: make_model(self.job.plugin, self.recipe, begin, self.events.note))
        compiler = compiler_for(self.hardware.device, self._steps(), self.group.size)
        model = prepared(accelerator, made)
        learner = self.learner = Learner(self.recipe, self.fold, model, accelerator, self.events.note, compiler)
        if self.options.save_features:
            last_layer(learner.bare)  # that there is none is told before hours of training
        if self.group.leads:
            self.held.check()
            remember_start(self.home, start)
        self._train(learner, predictor, start, newest)
        if self.group.leads:
            described = {"plugin": self.recipe.plugin, "fold": str(self.fold), "start": start.kind}
            self.held.check()
            save_weights(self._weights, learner.bare, described | {"fits": self.job.fits})
        drafts, plain = predictor.validation(learner.network, self.rows)
        self.events.fold_ended(self.fold, plain)
        return learner.network, drafts

    def _train(
        self,
        learner: Learner,
        predictor: FoldPredictor,
        start: Start,
        newest: tuple[Position, dict[str, Any]] | None,
    ) -> None:
        """Train what is left; the last epoch's logits of the validation fold are kept as its OOF prediction."""
        stages = self.recipe.stage
        at = self.progress.position
        done = sum(s.epochs for s in stages[: at.stage]) + at.epoch
        self.events.fold_started(
            fold_plan(
                self.job,
                self.fold,
                str(self.hardware),
                str(start) if newest is None else told_position(at, done, self.recipe.epochs),
                done,
            )
        )
        for index, stage in enumerate(stages):
            if index < at.stage:
                continue
            learner.begin_stage(index)
            self.patience = Patience(stage.patience)
            first = 0
            if newest is not None and index == at.stage:
                learner.restore(newest[1])
                if stage.patience > 0:
                    self.patience.restore(newest[1]["patience"])
                newest = None  # its tensors have been copied
                first = at.epoch
            for epoch in range(first, stage.epochs):
                record, logits = self._epoch(learner, predictor, index, epoch)
                self.patience.look(record.values["score"], learner.weights)
                reached = stage.epochs if self.patience.over else epoch + 1  # what patience leaves out is done too
                done = sum(s.epochs for s in stages[:index]) + reached
                # In this order: died between the two, a run validates again, and its record replaces this one.
                self.held.record_epoch(record, done)
                self.progress.position, self.progress.sums = Position(index, reached), EpochSums()
                self.progress.logits.clear()
                if done == self.recipe.epochs and self.patience.stays:
                    self.progress.logits["oof-identity"] = logits
                self._save()
                self.events.epoch_ended(record)
                if self.patience.over:
                    break
            if self.patience.scores:
                learner.set_weights(self.patience.weights)
                trained = len(self.patience.scores)
                self.events.stage_ended(stage.name, self.patience.best + 1, trained, stage.epochs - trained)

    def _rows_of(self, index: int, epoch: int) -> npt.NDArray[np.int64]:
        """Return the rows that stage `index` trains on in `epoch`, in their order."""
        return epoch_rows(
            self.job.any_positive,
            self.train_rows,
            self.recipe.stage[index].sampling,
            seed=self.recipe.seed,
            fold=self.fold,
            stage=index,
            epoch=epoch,
        )

    def _steps(self) -> int:
        """Return how many steps the whole training has; every epoch of a stage has as many."""
        lengths = [len(self._rows_of(index, 0)) for index in range(len(self.recipe.stage))]
        return sum(
            stage.epochs * max(length // self.recipe.batch, 1)
            for stage, length in zip(self.recipe.stage, lengths, strict=True)
        )

    def _epoch(
        self, learner: Learner, predictor: FoldPredictor, index: int, epoch: int
    ) -> tuple[EpochRecord, npt.NDArray[np.float32]]:
        """Train what is left of one epoch and validate it; return its record and the validation fold's logits."""
        stage, sums = self.recipe.stage[index], self.progress.sums
        rows = self._rows_of(index, epoch)
        at = self.progress.position
        size = min(self.recipe.batch, len(rows))
        begun = at.batch if (at.stage, at.epoch) == (index, epoch) else 0
        part = EpochPart(epoch, begun, max(len(rows) // self.recipe.batch, 1), size)
        self.progress.position = Position(index, epoch, begun)
        self._check_parts(size)
        forget_peak(self.hardware.device)
        self.events.epoch_started(stage.name, epoch + 1, stage.epochs, part.total)
        batches = training_batches(
            self.job.cache,
            self.job.data.slices,
            rows,
            self.recipe,
            fold=self.fold,
            stage=index,
            epoch=epoch,
            workers=self.workers,
            start=begun,
            part=(self.group.rank, self.group.size),
            masks=self.job.masks,
        )

        def looked(done: int, agreed: Agreed) -> None:
            self.progress.position = Position(index, epoch, done)
            self.events.step(done, part.total, sums.loss / done, sums.images)
            self._heed(agreed)

        try:
            train_epoch(learner, batches, part, sums, self.group, self.looks, looked)
        except LossError as error:
            self._stop_at(
                f"the training loss is no longer a finite number: {error.loss}", error.step, part, index, rows
            )
        except NotFiniteError as error:
            self._stop_at(error.problem, self.progress.position.batch - 1, part, index, rows)
        self.group.share_buffers(learner.network)
        self._validating = time.perf_counter()
        labels = self.job.data.slices[list(LABELS)].to_numpy(np.float64)[self.rows]
        overlap = None if self.job.masks is None else Overlap(self.hardware.device)
        logits = predictor.logits(
            learner.network,
            self.job.data,
            self.job.cache,
            self.rows,
            "identity",
            "validation",
            "validating",
            overlap=overlap,
        )
        self._count_validating()
        predicted = probabilities(logits)
        values = {
            "loss": sums.loss / part.total,
            "score": score(labels, predicted),
            "lr": learning_rate(stage, epoch, 0.0),
            "seconds": sums.training + sums.validating,
            "images": float(sums.images),
            "images_per_second": sums.images / sums.training,
            "memory_gb": peak_gb(self.hardware.device),
        }
        values |= {f"score_{name}": float(v) for name, v in zip(LABELS, label_losses(labels, predicted), strict=True)}
        values |= dice(self.group.gather(overlap.counts())) if overlap is not None else {}
        self._validating = None
        return EpochRecord(stage=stage.name, stage_index=index, epoch=epoch + 1, values=values), logits

    def _count_validating(self) -> None:
        """Add what validation has taken since it was last counted to the epoch's seconds."""
        if self._validating is not None:
            now = time.perf_counter()
            self.progress.sums.validating += now - self._validating
            self._validating = now

    def _heed(self, agreed: Agreed) -> None:
        """Do what a look came to: save where it is time to, and stop where that is asked for."""
        if self.held.lost is not None:
            raise self.held.lost
        if agreed.save or agreed.stop is not None:
            self._count_validating()
            self._save()
        if agreed.stop is not None:
            raise RunStopped(agreed.stop)

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        """Let a stop find work that has no looks, and save what came before it."""
        try:
            with self.stop.at_once():
                yield
        except RunStopped:
            self._save()
            raise

    def _save(self) -> None:
        """Write a checkpoint of where the fold is."""
        at, stages = self.progress.position, self.recipe.stage
        if (at.stage, at.epoch) == (len(stages) - 1, stages[-1].epochs):
            predicted = sum(map(len, self.progress.logits.values()))
            self.progress.position = Position(at.stage, at.epoch, predicted)
        waits = {"patience": self.patience.state()}
        self.saver.save(self.progress, {} if self.learner is None else self.learner.state() | waits)

    def _check_parts(self, size: int) -> None:
        if size < self.group.size:
            raise AgreedError(
                f"a batch of {size} slices cannot be dealt to {self.group.size} processes", "use fewer processes"
            )

    def _stop_at(self, what: str, step: int, part: EpochPart, index: int, rows: npt.NDArray[np.int64]) -> NoReturn:
        """Write down which step (from 0) of an epoch on `rows` led to `what`, and raise that as an error."""
        stage = self.recipe.stage[index]
        ids = self.job.data.slices["slice_id"].to_numpy(object)[rows]
        batch, before = (ids[max(at, 0) * part.size : (at + 1) * part.size].tolist() for at in (step, step - 1))
        divergence = Divergence(
            experiment=self.number,
            fold=self.fold,
            stage=stage.name,
            epoch=part.epoch + 1,
            step=step + 1,
            steps=part.total,
            lr=learning_rate(stage, part.epoch, step / part.total),
            problem=what,
            slice_ids=batch,
            slice_ids_of_the_step_before=before,
        )
        problem = str(divergence)
        if self.group.leads:
            self.held.check()
            problem += f"; {divergence.write(self._not_finite)}"
        raise AgreedError(problem, NOT_FINITE_REMEDY)
