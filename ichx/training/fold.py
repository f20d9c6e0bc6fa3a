"""One attempt at one fold: train stage by stage from where an earlier attempt ended, then predict."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ichx.data.loader import training_batches
from ichx.data.sampling import epoch_rows
from ichx.errors import IchxError
from ichx.evaluation.metric import label_losses, probabilities, score
from ichx.labels import LABELS
from ichx.store import EpochRecord, PredictionDraft
from ichx.training import checkpoint
from ichx.training.checkpoint import Position
from ichx.training.device import (
    Hardware,
    loader_workers,
    make_accelerator,
    release_accelerator,
    torch_of_its_own,
)
from ichx.training.events import FoldPlan, RunEvents
from ichx.training.features import last_layer
from ichx.training.job import Job
from ichx.training.learner import Learner, address_seed, prepared
from ichx.training.lease import lease
from ichx.training.loop import train_epoch
from ichx.training.mask_loss import Overlap
from ichx.training.method import WindowStep, learning_rate
from ichx.training.options import RunOptions
from ichx.training.predicting import FoldPredictor
from ichx.training.provenance import run_draft
from ichx.training.weights import Start, choose_start, load_exactly, make_model, remember_start, save_weights

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ichx.store import Run, Store


class FoldRun:
    """One attempt at one fold."""

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
    ) -> None:
        """Prepare the attempt; `trained` folds only predict what they have not predicted."""
        self.job, self.store, self.fold, self.trained = job, store, fold, trained
        self.options, self.events, self.hardware = options, events, hardware
        self.recipe = job.recipe
        self.number = job.experiment.number
        self.home = job.workspace.experiment_dir(self.number)
        self.folder = self.home / f"fold-{fold}"
        self.workers = loader_workers(hardware, options.workers)
        self.predictor = FoldPredictor(
            job=job,
            fold=fold,
            folder=self.folder,
            hardware=hardware,
            workers=self.workers,
            window_step=WindowStep(self.recipe.input).to(hardware.device),
            events=events,
            save_features=options.save_features,
        )
        self.rows = job.validation_rows(fold)
        self.train_rows = job.training_rows(fold)

    def execute(self) -> None:
        """Train, or load what was trained, predict what is not predicted yet, and record it all."""
        self._check_rows()
        draft = run_draft(self.number, self.fold, str(self.hardware), self.recipe.seed, self.folder)
        with lease(self.store, draft, self.events) as run, torch_of_its_own(self.hardware):
            accelerator = make_accelerator(self.hardware)
            try:
                model, drafts = self._stored(accelerator) if self.trained else self._train_and_predict(accelerator, run)
                drafts += self.predictor.tests(model, self.store)
                if self.trained and self.options.save_features:
                    self.predictor.features(model, self.store)
            finally:
                release_accelerator()
            self.store.finish_run(run.id, "done", predictions=drafts)
        checkpoint.remove_checkpoints(self.folder)

    def _check_rows(self) -> None:
        for rows, what in ((self.train_rows, "training"), (self.rows, "validation")):
            if len(rows) < 2:
                raise IchxError(
                    f"fold {self.fold} has {len(rows)} readable slices for {what}", "add more data or use fewer folds"
                )
        drawn = [stage.name for stage in self.recipe.stage if stage.sampling != "all"]
        if drawn and not self.trained and not self.job.any_positive[self.train_rows].any():
            settings = " ".join(f"--set stage.{name}.sampling=all" for name in drawn)
            raise IchxError(
                f"fold {self.fold} has no slice positive for `any` to train on, "
                f"so that {_listed(drawn)} would train on nothing",
                f"add positive slices, or register an experiment that trains on every slice: {settings}",
            )

    @property
    def _weights(self) -> Path:
        return self.folder / "weights.safetensors"

    def _stored(self, accelerator: "Accelerator") -> tuple[nn.Module, list[PredictionDraft]]:
        """Return the network that an earlier attempt trained; its OOF predictions are recorded already."""
        model = prepared(accelerator, self.job.plugin.build(self.recipe, False))
        load_exactly(accelerator.unwrap_model(model), self._weights)
        return model, []

    def _train_and_predict(self, accelerator: "Accelerator", run: "Run") -> tuple[nn.Module, list[PredictionDraft]]:
        start = choose_start(self.home, self.recipe, pretrained=self.options.pretrained, weights=self.options.weights)
        torch.manual_seed(address_seed(self.recipe.seed, self.fold))
        newest = checkpoint.load_newest(self.folder, self.job.fits, self.events.note)
        begin = start if newest is None else Start("random")  # the checkpoint's weights replace these
        model = prepared(accelerator, make_model(self.job.plugin, self.recipe, begin, self.events.note))
        learner = Learner(self.recipe, self.fold, model, accelerator)
        if self.options.save_features:
            last_layer(learner.bare)  # that there is none is told before hours of training
        remember_start(self.home, start)
        validated = self._train(learner, run, start, newest)
        described = {"plugin": self.recipe.plugin, "fold": str(self.fold), "start": start.kind, "fits": self.job.fits}
        save_weights(self._weights, learner.bare, described)
        drafts, plain = self.predictor.validation(learner.network, self.rows, validated)
        self.events.fold_ended(self.fold, plain)
        return learner.network, drafts

    def _train(
        self,
        learner: Learner,
        run: "Run",
        start: Start,
        newest: tuple[Position, dict[str, Any]] | None,
    ) -> npt.NDArray[np.float32] | None:
        """Train what is left; return the last epoch's logits of the validation fold, or None if nothing was left."""
        stages = self.recipe.stage
        validated = None
        position = Position(0, 0) if newest is None else newest[0]
        done = sum(s.epochs for s in stages[: position.stage]) + position.epoch
        self.events.fold_started(
            FoldPlan(
                experiment=self.number,
                name=self.job.experiment.name,
                fold=self.fold,
                folds=self.job.experiment.folds,
                hardware=str(self.hardware),
                start=str(start) if newest is None else f"checkpoint after epoch {done}",
                train=len(self.train_rows),
                validation=len(self.rows),
                epochs=self.recipe.epochs,
                epochs_done=done,
                leaked=self.job.experiment.leaked,
            )
        )
        for index, stage in enumerate(stages):
            if index < position.stage:
                continue
            learner.begin_stage(index)
            first = 0
            if newest is not None and index == position.stage:
                learner.restore(newest[1])
                first = position.epoch
            for epoch in range(first, stage.epochs):
                record, validated = self._epoch(learner, index, epoch)
                done += 1
                self.store.record_epoch(run.id, record)
                self.store.heartbeat(run.id, stage=stage.name, epoch=epoch + 1, epochs_done=done)
                state = {"fits": self.job.fits} | learner.state()
                checkpoint.save_checkpoint(self.folder, Position(index, epoch + 1), state)
                self.events.epoch_ended(record)
        return validated

    def _epoch(self, learner: Learner, index: int, epoch: int) -> tuple[EpochRecord, npt.NDArray[np.float32]]:
        """Train one epoch and validate it; return its record and the logits of the validation fold."""
        stage = self.recipe.stage[index]
        rows = epoch_rows(
            self.job.any_positive,
            self.train_rows,
            stage.sampling,
            seed=self.recipe.seed,
            fold=self.fold,
            stage=index,
            epoch=epoch,
        )
        total = max(len(rows) // self.recipe.batch, 1)
        self.events.epoch_started(stage.name, epoch + 1, stage.epochs, total)
        batches = training_batches(
            self.job.cache,
            self.job.data.slices,
            rows,
            self.recipe,
            fold=self.fold,
            stage=index,
            epoch=epoch,
            workers=self.workers,
            masks=self.job.masks,
        )
        began = time.perf_counter()
        loss, images = train_epoch(
            learner, batches, epoch, total, lambda done, mean, seen: self.events.step(done, total, mean, seen)
        )
        seconds = time.perf_counter() - began
        labels = self.job.data.slices[list(LABELS)].to_numpy(np.float64)[self.rows]
        overlap = None if self.job.masks is None else Overlap(self.hardware.device)
        logits = self.predictor.logits(
            learner.network, self.job.data, self.job.cache, self.rows, "identity", "validating", overlap=overlap
        )
        predicted = probabilities(logits)
        values = {
            "loss": loss,
            "score": score(labels, predicted),
            "lr": learning_rate(stage, epoch, 0.0),
            "seconds": time.perf_counter() - began,
            "images": float(images),
            "images_per_second": images / seconds,
        }
        values |= {f"score_{name}": float(v) for name, v in zip(LABELS, label_losses(labels, predicted), strict=True)}
        values |= overlap.dice() if overlap is not None else {}
        return EpochRecord(stage=stage.name, stage_index=index, epoch=epoch + 1, values=values), logits


def _listed(names: list[str]) -> str:
    return f"stage {names[0]}" if len(names) == 1 else f"the stages {', '.join(names[:-1])} and {names[-1]}"
