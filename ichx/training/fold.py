"""One attempt at one fold: train stage by stage from where an earlier attempt ended, then predict."""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ichx.data.loader import inference_batches, training_batches
from ichx.data.predictions import VIEWS, Predictions, write_predictions
from ichx.data.sampling import epoch_rows
from ichx.errors import IchxError
from ichx.evaluation.metric import label_losses, probabilities, score
from ichx.labels import LABELS
from ichx.store import EpochRecord, PredictionDraft
from ichx.training import checkpoint
from ichx.training.checkpoint import Position
from ichx.training.device import Hardware, make_accelerator, release_accelerator
from ichx.training.events import FoldPlan, RunEvents
from ichx.training.job import Job, open_cache, test_data
from ichx.training.lease import lease
from ichx.training.loop import predict, train_epoch
from ichx.training.method import WindowStep, learning_rate, make_optimizer
from ichx.training.provenance import run_draft
from ichx.training.weights import Start, choose_start, load_exactly, make_model, remember_start, save_weights

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ichx.data.cache import Cache
    from ichx.data.dataset import LoadedDataset
    from ichx.store import DatasetVersion, Run, Store
    from ichx.workspace import Workspace


INFERENCE_BATCH = 64
"""Slices at once where nothing is learnt: a training's small batch would only cost time."""


@dataclass(frozen=True)
class RunOptions:
    """What a run may choose without changing what the experiment is; `None` means as the recipe or machine has it."""

    device: str = "auto"
    pretrained: bool | None = None
    weights: Path | None = None
    workers: int | None = None


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
        """Prepare the attempt; `trained` folds only predict the test sets that they have not predicted."""
        self.job, self.store, self.fold, self.trained = job, store, fold, trained
        self.options, self.events, self.hardware = options, events, hardware
        self.recipe = job.recipe
        self.number = job.experiment.number
        self.home = job.workspace.experiment_dir(self.number)
        self.folder = self.home / f"fold-{fold}"
        on_cpu = hardware.device.type == "cpu"
        default = 0 if on_cpu else min(os.cpu_count() or 1, 16)
        self.workers = default if options.workers is None else options.workers
        self.window_step = WindowStep(self.recipe.input).to(hardware.device)
        self.rows = job.validation_rows(fold)
        self.train_rows = job.training_rows(fold)

    def execute(self) -> None:
        """Train, or load what was trained, predict what is not predicted yet, and record it all."""
        self._check_rows()
        draft = run_draft(self.number, self.fold, str(self.hardware))
        with lease(self.store, draft, self.events) as run, _torch_of_its_own(self.hardware):
            accelerator = make_accelerator(self.hardware)
            try:
                model, drafts = self._stored(accelerator) if self.trained else self._train_and_predict(accelerator, run)
                drafts += self._predict_tests(model)
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
        model: nn.Module = _prepared(accelerator, self.job.plugin.build(self.recipe, False))
        load_exactly(accelerator.unwrap_model(model), self._weights)
        return model, []

    def _train_and_predict(self, accelerator: "Accelerator", run: "Run") -> tuple[nn.Module, list[PredictionDraft]]:
        start = choose_start(self.home, self.recipe, pretrained=self.options.pretrained, weights=self.options.weights)
        torch.manual_seed(_seed(self.recipe.seed, self.fold))
        newest = checkpoint.load_newest(self.folder, self.job.fits, self.events.note)
        begin = start if newest is None else Start("random")  # the checkpoint's weights replace these
        model: nn.Module = _prepared(accelerator, make_model(self.job.plugin, self.recipe, begin, self.events.note))
        remember_start(self.home, start)
        validated = self._train(accelerator, model, run, start, newest)
        described = {"plugin": self.recipe.plugin, "fold": str(self.fold), "start": start.kind, "fits": self.job.fits}
        save_weights(self._weights, accelerator.unwrap_model(model), described)
        drafts, plain = self._predict_into(
            "oof", self.job.experiment.version_id, self.job.data, self.job.cache, model, self.rows, validated
        )
        self.events.fold_ended(self.fold, plain)
        return model, drafts

    def _train(
        self,
        accelerator: "Accelerator",
        model: nn.Module,
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
            raw = make_optimizer(self.recipe.optimizer, stage, model)
            optimizer = accelerator.prepare(raw)
            first = 0
            if newest is not None and index == position.stage:
                _restore(newest[1], accelerator, model, raw)
                first = position.epoch
            for epoch in range(first, stage.epochs):
                record, validated = self._epoch(accelerator, model, optimizer, index, epoch)
                done += 1
                self.store.record_epoch(run.id, record)
                self.store.heartbeat(run.id, stage=stage.name, epoch=epoch + 1, epochs_done=done)
                state = _state(accelerator, model, raw, self.job.fits)
                checkpoint.save_checkpoint(self.folder, Position(index, epoch + 1), state)
                self.events.epoch_ended(record)
        return validated

    def _epoch(
        self,
        accelerator: "Accelerator",
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        index: int,
        epoch: int,
    ) -> tuple[EpochRecord, npt.NDArray[np.float32]]:
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
        )
        torch.manual_seed(_seed(self.recipe.seed, self.fold, index, epoch))  # dropout is addressed, too
        began = time.perf_counter()
        loss, images = train_epoch(
            model,
            self.window_step,
            batches,
            optimizer,
            accelerator,
            lambda step: learning_rate(stage, epoch, step / total),
            lambda done, mean, seen: self.events.step(done, total, mean, seen),
        )
        seconds = time.perf_counter() - began
        labels = self.job.data.slices[list(LABELS)].to_numpy(np.float64)[self.rows]
        logits = self._logits(model, self.job.data, self.job.cache, self.rows, "identity", "validating")
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
        return EpochRecord(stage=stage.name, stage_index=index, epoch=epoch + 1, values=values), logits

    def _predict_tests(self, model: nn.Module) -> list[PredictionDraft]:
        drafts = []
        for version in missing_tests(
            self.job.workspace, self.store, self.job.experiment.dataset, self.number, self.fold
        ):
            data = test_data(self.job.workspace, version)
            cache = open_cache(self.job.workspace, data, self.recipe, self.events)
            if cache.defects:
                self.events.note(f"{len(cache.defects)} slices of {version.dataset} cannot be decoded and are left out")
            made, _ = self._predict_into("test", version.id, data, cache, model, np.flatnonzero(cache.valid))
            drafts += made
        return drafts

    def _predict_into(
        self,
        role: str,
        version_id: int,
        data: "LoadedDataset",
        cache: "Cache",
        model: nn.Module,
        rows: npt.NDArray[np.int64],
        known: npt.NDArray[np.float32] | None = None,
    ) -> tuple[list[PredictionDraft], float]:
        """Write the predictions of every view; return their drafts and the identity view's score, or NaN.

        `known` are the identity view's logits where these weights have predicted it before.
        """
        ids = data.slices["slice_id"].to_numpy(dtype=object)[rows]
        labels = data.slices[list(LABELS)].to_numpy(np.float64)[rows]
        name = role if role == "oof" else f"test-{data.version.dataset}-v{data.version.number}"
        drafts = []
        plain = float("nan")
        for view in VIEWS:
            if view == "identity" and known is not None:
                logits = known
            else:
                logits = self._logits(model, data, cache, rows, view, f"predicting {data.version.dataset}, {view}")
            value = score(labels, probabilities(logits)) if role == "oof" else None
            if view == "identity" and value is not None:
                plain = value
            path = self.folder / f"{name}-{view}.parquet"
            digest = write_predictions(path, Predictions(ids, logits))
            drafts.append(
                PredictionDraft(
                    experiment=self.number,
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

    def _logits(
        self,
        model: nn.Module,
        data: "LoadedDataset",
        cache: "Cache",
        rows: npt.NDArray[np.int64],
        view: str,
        phase: str,
    ) -> npt.NDArray[np.float32]:
        batch = max(self.recipe.batch, INFERENCE_BATCH)
        batches = inference_batches(cache, data.slices, rows, self.recipe, batch=batch, workers=self.workers)
        return predict(
            model,
            self.window_step,
            batches,
            self.hardware.device,
            view,
            lambda done: self.events.phase(phase, done, len(rows)),
        )


@contextlib.contextmanager
def _torch_of_its_own(hardware: Hardware) -> Iterator[None]:
    """Leave torch's random state and number of threads as they were before the run."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[hardware.device] if hardware.device.type == "cuda" else []):
        try:
            torch.set_num_threads(hardware.threads or threads)
            yield
        finally:
            torch.set_num_threads(threads)


def _prepared(accelerator: "Accelerator", model: nn.Module) -> nn.Module:
    """Return `model` on its device, with channels last, which is what convolutions compute in fastest."""
    prepared: nn.Module = accelerator.prepare(model.to(memory_format=torch.channels_last))
    return prepared


def _listed(names: list[str]) -> str:
    return f"stage {names[0]}" if len(names) == 1 else f"the stages {', '.join(names[:-1])} and {names[-1]}"


def _seed(*address: int) -> int:
    return int(np.random.SeedSequence(address).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _state(
    accelerator: "Accelerator",
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    fits: str,
) -> dict[str, Any]:
    return {
        "fits": fits,
        "model": accelerator.unwrap_model(model).state_dict(),
        "optimizer": optimizer.state_dict(),
        "scaler": accelerator.scaler.state_dict() if accelerator.scaler is not None else {},
    }


def _restore(
    state: dict[str, Any],
    accelerator: "Accelerator",
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> None:
    accelerator.unwrap_model(model).load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    if accelerator.scaler is not None and state["scaler"]:
        accelerator.scaler.load_state_dict(state["scaler"])


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
