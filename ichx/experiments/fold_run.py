"""One run of one fold: lease it, train or load its network, predict, record. The training loop: `training.trainer`."""

import contextlib
from dataclasses import dataclass

import torch
from torch import nn

from ichx.errors import NotReadyError
from ichx.experiment_files import ExperimentFiles
from ichx.experiments.calibrated_fold import fold_calibration
from ichx.experiments.callbacks import FoldPlan, RunCallbacks
from ichx.experiments.fold_predictions import FoldPredictions
from ichx.experiments.fold_status import finished_folds
from ichx.experiments.lease import Lease, NoLease, fold_lease
from ichx.experiments.prepare import PreparedFolds
from ichx.experiments.provenance import run_draft
from ichx.labels import ANY
from ichx.store import PredictionDraft
from ichx.training.checkpoint import Checkpoints, Position
from ichx.training.checkpoint_files import remove_checkpoints, remove_drafts
from ichx.training.control import Control
from ichx.training.device import Hardware, isolated_torch_settings, loader_workers
from ichx.training.distributed import Group, report_lost_processes
from ichx.training.divergence import TrainingDivergedError
from ichx.training.feed import TrainingFeed
from ichx.training.learner import address_seed
from ichx.training.pooled_features import last_layer
from ichx.training.prediction import Predictor
from ichx.training.run_options import RunOptions
from ichx.training.runtime import Runtime
from ichx.training.stop_request import StopRequest
from ichx.training.trainer import FitOptions, end_of, epochs_done, fit
from ichx.training.weights import Start, choose_start, load_exactly, remember_start, save_weights


@dataclass(frozen=True)
class FoldContext:
    """What the folds of one run share."""

    prepared: PreparedFolds
    options: RunOptions
    hardware: Hardware
    callbacks: RunCallbacks
    group: Group
    stop: StopRequest
    train: tuple[int, ...] = ()
    """The folds that the run trains, in their order."""

    @property
    def files(self) -> ExperimentFiles:
        """The files of the experiment."""
        return self.prepared.project.workspace.experiment_files(self.prepared.experiment.number)


def run_fold(context: FoldContext, fold: int, *, trained: bool) -> None:
    """Train a fold, or load it if it is `trained`; predict what is missing, and record everything.

    Raises:
        NotReadyError: There is too little data to train or validate on.
        ConflictError: Another process holds the fold.
        RunStopped: A stop was requested; the progress is saved.
    """
    check_rows(context.prepared, fold, trained=trained)
    number, group, files = context.prepared.experiment.number, context.group, context.files.fold(fold)
    with (
        _lease(context, fold) as lease,
        report_lost_processes(group, context.stop, number),
        isolated_torch_settings(context.hardware),
    ):
        group.broadcast(None)  # the others continue when the first one holds the fold
        if group.leads:
            remove_drafts(files.folder)
        control = _control(context, fold, lease, trained=trained)
        predictions = _predictions(context, fold, lease)
        drafts = list[PredictionDraft]()
        if trained:
            network, predictor = load_fold(context, fold, control)
            if fold not in finished_folds(context.prepared.project, context.prepared.experiment):
                drafts += predictions.oof(network, predictor)[0]
        else:
            network, predictor = train_fold(context, fold, predictions.feed, control)
            oof, score = predictions.oof(network, predictor)
            drafts += oof
            context.callbacks.fold_ended(fold, score)
        drafts += predictions.tests(network, predictor)
        if trained and context.options.save_features:
            predictions.features(network, predictor)
        lease.finish(drafts)
    if group.leads:
        remove_checkpoints(files.folder)
        files.not_finite.unlink(missing_ok=True)


def train_fold(context: FoldContext, fold: int, feed: TrainingFeed, control: Control) -> tuple[nn.Module, Predictor]:
    """Train a fold from its start weights or its newest checkpoint, save its weights, and return its network."""
    prepared, options, group = context.prepared, context.options, context.group
    recipe, note = prepared.recipe, context.callbacks.note
    resumed = control.checkpoints.load(note)
    start = choose_start(context.files.folder, recipe, pretrained=options.pretrained, weights=options.weights)
    torch.manual_seed(address_seed(recipe.seed, fold))
    begin = Start("random") if resumed else start  # the checkpoint's weights replace these
    with context.stop.interruptible():  # weights may be downloaded
        model = group.leader_first(lambda: prepared.network(fold, begin, note))
    if options.save_features:
        last_layer(model)  # raises before hours of training if there is none
    if group.leads:
        control.checkpoints.check()
        remember_start(context.files.folder, start)
    position = control.checkpoints.progress.position
    done = epochs_done(recipe, position.stage, position.epoch)
    source = describe_position(position, done, recipe.epochs) if resumed else str(start)
    context.callbacks.fold_started(fold_plan(context, fold, source, done))
    no_masks = prepared.plugin.masks and prepared.masks is None  # a decoder without gradients
    options_of_fit = FitOptions(fold, context.hardware, control, no_masks, fold_calibration(prepared, fold, feed))
    try:
        result = fit(model, recipe, feed, options_of_fit)
    except TrainingDivergedError as error:
        raise _recorded(context, fold, error, control) from error
    if group.leads:
        control.checkpoints.check()
        described = {"plugin": recipe.plugin, "fold": str(fold), "start": start.kind, **prepared.described(fold)}
        save_weights(context.files.fold(fold).weights, result.network, described)
    return result.network, result.predictor


def load_fold(context: FoldContext, fold: int, control: Control) -> tuple[nn.Module, Predictor]:
    """Return the network of a trained fold with its final weights."""
    recipe = context.prepared.recipe
    runtime = Runtime(context.hardware)
    network = runtime.prepare(context.prepared.trained_network(fold))
    load_exactly(network, context.files.fold(fold).weights)
    control.checkpoints.load(context.callbacks.note)
    stage, epochs = control.checkpoints.end = end_of(recipe)
    control.checkpoints.progress.position = Position(stage, epochs)
    return network, Predictor(runtime, control)


def check_rows(prepared: PreparedFolds, fold: int, *, trained: bool) -> None:
    """Raise `NotReadyError` if `fold` has too little data; a `trained` one only predicts."""
    for rows, purpose in (
        (prepared.training_rows(fold), "training"),
        (prepared.validation_rows(fold), "validation"),
    ):
        if len(rows) < 2:
            raise NotReadyError(
                f"Fold {fold} has {len(rows)} readable slices for {purpose}.", "Add more data or use fewer folds."
            )
    sampled = [stage.name for stage in prepared.recipe.stage if stage.sampling not in ("all", "studies", "grouped")]
    positive = prepared.data.slices[ANY].to_numpy()[prepared.training_rows(fold)] > 0.5
    if sampled and not trained and not positive.any():
        settings = " ".join(f"--set stage.{name}.sampling=all" for name in sampled)
        raise NotReadyError(
            f"Fold {fold} has no training slice that is positive for `any`; no data for stage {', '.join(sampled)}.",
            f"Add positive slices, or register an experiment that trains on every slice: {settings}",
        )


def fold_plan(context: FoldContext, fold: int, start: str, done: int) -> FoldPlan:
    """Return what callbacks learn when the training of a fold begins from `start`, after `done` epochs."""
    prepared, experiment = context.prepared, context.prepared.experiment
    return FoldPlan(
        experiment=experiment.number,
        name=experiment.name,
        fold=fold,
        folds=experiment.folds,
        hardware=str(context.hardware),
        start=start,
        train=len(prepared.training_rows(fold)),
        validation=len(prepared.validation_rows(fold)),
        epochs=prepared.recipe.epochs,
        epochs_done=done,
        leaked=experiment.leaked,
        folds_after=len(context.train[context.train.index(fold) + 1 :]) if fold in context.train else 0,
    )


def describe_position(position: Position, done: int, epochs: int) -> str:
    """Return where a checkpoint resumes, in words."""
    after = f"checkpoint after epoch {done}"
    if done == epochs:
        return f"{after}, the last one"
    return f"{after} and {position.batch:,} batches of the next one" if position.batch else after


def _lease(context: FoldContext, fold: int) -> contextlib.AbstractContextManager[Lease]:
    if not context.group.leads:
        return contextlib.nullcontext(NoLease())
    prepared = context.prepared
    draft = run_draft(
        prepared.experiment.number,
        fold,
        str(context.hardware),
        prepared.recipe.seed,
        context.files.fold(fold).folder,
        package=prepared.project.registry.packages.get(prepared.plugin.name),
    )
    return fold_lease(prepared.project.store, draft, context.callbacks)


def _control(context: FoldContext, fold: int, lease: Lease, *, trained: bool) -> Control:
    # Predictions of a trained fold must not be resumed by one that is trained from scratch.
    fits = context.prepared.fits(fold) + "/trained" * trained
    checkpoints = Checkpoints(
        context.files.fold(fold).folder,
        fits,
        every=context.options.checkpoint_every,
        writes=context.group.leads,
        check=lease.check,
    )
    return Control(
        checkpoints,
        callbacks=context.callbacks,
        group=context.group,
        stop=context.stop,
        check=lease.raise_if_lost,
        record=lease.record_epoch,
    )


def _predictions(context: FoldContext, fold: int, lease: Lease) -> FoldPredictions:
    prepared = context.prepared
    workers = loader_workers(context.hardware, context.options.workers, prepared.recipe, context.callbacks.note)
    feed = prepared.feed(fold, workers)
    return FoldPredictions(
        prepared, fold, feed, context.files.fold(fold), lease, workers, context.options.save_features
    )


def _recorded(context: FoldContext, fold: int, error: TrainingDivergedError, control: Control) -> TrainingDivergedError:
    """Return `error` with the file that lists the slices of the diverged step."""
    if not context.group.leads or error.divergence is None:
        return error
    control.checkpoints.check()
    path = context.files.fold(fold).not_finite
    written = error.divergence.write(path, experiment=context.prepared.experiment.number, fold=fold)
    return TrainingDivergedError(f"{error.problem} {written}", error.remedy, error.divergence)
